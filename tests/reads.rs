//! The launches, bytes and reads of a training step: it reads its loss and the norm of its
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

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{FloatDType, Tensor, TensorData, Tolerance};
use burn::train::{Interrupter, TrainStep};
use llama_burn::Llama;
use peft_burn::{AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, TargetModules};
use peft_burn_workspace::counters::{Case, Figures, Method, Reads, adapter, count, small_config};
use peft_burn_workspace::{Inputs, base, device};
use peft_learner::config::TrainingConfig;
use peft_learner::data::{Batch, Example, Stream, StreamConfig};
use peft_learner::train::{CausalLm, Existing, Finetune, StepOptions, optimizer};

/// Counts are of the whole process.
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

/// Every number that an optimiser moves.
fn numbers(model: &CausalLm<Llama>) -> Vec<TensorData> {
    struct All(Vec<TensorData>);
    impl ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.push(param.val().into_data());
            }
        }
    }
    let mut all = All(Vec::new());
    model.visit(&mut all);
    all.0
}

#[test]
fn parameters_that_step_together_are_those_that_step_one_by_one() {
    if !on_webgpu() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let training = TrainingConfig { weight_decay: 0.1, ..TrainingConfig::default() };
    let apart = || {
        AdamWConfig::new()
            .with_beta_1(training.adam_beta1 as f32)
            .with_beta_2(training.adam_beta2 as f32)
            .with_epsilon(training.adam_epsilon as f32)
            .with_weight_decay(training.weight_decay as f32)
            .init()
    };
    // Each optimiser goes on with the records of the one before.
    let run = |optimizers: [ModuleOptimizer; 3]| {
        let mut model = base("base");
        model.add_adapter("default", &adapter(Method::LoraAll, 4), 1).unwrap();
        let mut lm = CausalLm::new(model, "default", &StepOptions::new(10), Interrupter::new()).unwrap();
        let mut record = None;
        for (step, mut optimizer) in optimizers.into_iter().enumerate() {
            if let Some(record) = record {
                optimizer = optimizer.load_record(record);
            }
            let ids: Vec<u32> = (0..24).map(|i| (i * 7 + step as u32) % 128).collect();
            let example = Example { labels: ids.iter().map(|&id| id as i32).collect(), input_ids: ids };
            let output = lm.step(Batch::collate(&[&example], 0));
            lm = lm.optimize(&mut optimizer, 1e-2.into(), output.grads);
            assert!(lm.error().is_none());
            record = Some(optimizer.to_record());
        }
        numbers(&lm)
    };
    let expected = run([apart(), apart(), apart()]);
    let found = run([optimizer(&training), optimizer(&training), apart()]);
    assert!(expected.len() > 10 && found.len() == expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        // AdamW divides by the root of the second moment: where a gradient is small, its last bits move the weight.
        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-3, 1e-4));
    }
}

/// The figures of docs/gpu.md, with a tenth more: what Burn fuses may change a little with its version.
#[test]
fn a_step_asks_no_more_than_the_table_says() {
    if !on_webgpu() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Reads::watch();
    let case = Case {
        config: small_config(),
        method: Method::LoraAll,
        rank: 4,
        dtype: FloatDType::F32,
        batch: [2, 32],
        depths: [1, 3],
    };
    let (figures, by_name) = count(&case, &device());
    let Figures { launches_forward_per_layer: forward, launches_backward_per_layer: backward, .. } = figures;
    assert!(forward + backward <= 107.0, "{figures:?}, {by_name:?}");
    assert!(figures.launches_outside <= 84.0, "{figures:?}, {by_name:?}");
    assert!(figures.kept_bytes_per_token_layer <= 3700.0, "{figures:?}");
    assert!(figures.bytes_per_logit <= 18.0, "{figures:?}");
    assert!(figures.cast_bytes <= 1e5, "{figures:?}");
    assert_eq!(figures.device_reads, 1, "{figures:?}");
    for kernel in ["RmsNormKernel", "RopeKernel", "AttentionKernel", "LogitGradientsKernel", "AdamWKernel"] {
        assert!(by_name.contains_key(kernel), "{kernel} did not run: {by_name:?}");
    }
}
