//! The reads of a training step from the device: its loss and the norm of its gradients, in one transfer.
//!
//! wgpu logs every buffer that is mapped to be read, whatever it holds; so this runs on WebGPU alone.
//!
//! ```text
//! PEFT_TEST_DEVICE=webgpu cargo test --features webgpu --test reads
//! ```
#![cfg(feature = "webgpu")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use log::{LevelFilter, Log, Metadata, Record};
use peft_burn::{AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, TargetModules};
use peft_burn_workspace::{Inputs, base};
use peft_learner::config::TrainingConfig;
use peft_learner::data::{Example, Stream, StreamConfig};
use peft_learner::train::{Existing, Finetune};

/// Counts the buffers that are mapped to be read.
struct Reads(AtomicUsize);

static READS: Reads = Reads(AtomicUsize::new(0));

impl Log for Reads {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wgpu_core")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && record.args().to_string().starts_with("Buffer::map_async") {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

fn reads() -> usize {
    READS.0.load(Ordering::SeqCst)
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

/// One test, since there is one logger for the process.
#[test]
fn a_step_reads_the_device_once() {
    if std::env::var("PEFT_TEST_DEVICE").as_deref() != Ok("webgpu") {
        return;
    }
    log::set_logger(&READS).unwrap();
    log::set_max_level(LevelFilter::Trace);
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
            let before = reads();
            train(&config, steps, &dir.path().join(steps.to_string()));
            reads() - before
        };
        // The first run compiles and tunes its kernels, which reads clocks.
        count(4);
        let (few, more) = (count(4), count(9));
        assert!(few >= 4, "{few} reads of 4 steps: not all are counted");
        assert_eq!(more - few, 5, "{few} reads of 4 steps, {more} of 9");
    }
}
