//! What a training step asks of the device: its launches and bytes, and its reads, which are its loss and the norm of its
//! gradients in one transfer.
//!
//! wgpu logs every buffer that is mapped to be read, whatever it holds; so this runs on WebGPU alone.
//!
//! ```text
//! PEFT_TEST_DEVICE=webgpu cargo test --features webgpu --test reads
//! ```
#![cfg(feature = "webgpu")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn::tensor::FloatDType;
use llama_burn::LlamaConfig;
use peft_burn::{AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, TargetModules};
use peft_burn_workspace::counters::{Case, Figures, Method, Reads, count};
use peft_burn_workspace::{Inputs, base, device, golden};
use peft_learner::config::TrainingConfig;
use peft_learner::data::{Example, Stream, StreamConfig};
use peft_learner::train::{Existing, Finetune};

/// What is counted is counted for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn on_webgpu() -> bool {
    std::env::var("PEFT_TEST_DEVICE").as_deref() == Ok("webgpu")
}

/// Trains for `steps` steps, without evaluations and checkpoints.
fn train(config: &PeftConfig, steps: usize, output: &Path) {
    let rows = Inputs::load().train.into_iter().flatten();
    let example = |ids: Vec<u32>| Example { labels: ids.iter().map(|&id| id as i32).collect(), input_ids: ids };
    let config_of_stream = StreamConfig {
        batch_size: 2,
        accumulation: 1,
        shuffle: false,
        group_by_length: false,
        packing: false,
        max_length: 40,
        pad_id: 0,
        seed: 1,
    };
    let stream = Stream::new(rows.take(4).map(example).collect::<Vec<_>>(), config_of_stream).unwrap();
    let mut model = base("base");
    model.add_adapter("default", config, 1).unwrap();
    let training = TrainingConfig {
        max_steps: Some(steps),
        learning_rate: 1e-3,
        eval_steps: 0,
        save_steps: 0,
        ..TrainingConfig::default()
    };
    Finetune::new(model, "default", training).stream(stream).existing(Existing::Overwrite).run(output).unwrap();
}

#[test]
fn a_step_reads_the_device_once() {
    if !on_webgpu() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Reads::watch();
    let target_modules = TargetModules::list(["q_proj", "v_proj"]);
    let lora = LoraConfig { r: 4, target_modules: target_modules.clone(), ..LoraConfig::default() };
    // A mask is due in the last step alone: it is what AdaLoRA reads besides.
    let adalora = AdaLoraConfig {
        init_r: 4,
        target_r: 2,
        tinit: 1,
        tfinal: 1,
        delta_t: 100,
        target_modules,
        ..AdaLoraConfig::default()
    };
    for config in [PeftConfig::Lora(lora), PeftConfig::AdaLora(adalora)] {
        let dir = tempfile::tempdir().unwrap();
        let count = |steps: usize| {
            let before = Reads::so_far();
            train(&config, steps, &dir.path().join(steps.to_string()));
            Reads::so_far() - before
        };
        // The first run compiles and tunes its kernels, which reads clocks.
        count(4);
        let (few, more) = (count(4), count(9));
        assert!(few >= 4, "{few} reads of 4 steps: not all are counted");
        assert_eq!(more - few, 5, "{few} reads of 4 steps, {more} of 9");
    }
}
