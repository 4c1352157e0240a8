//! Training: what a run does, leaves behind, and does again when it is resumed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "training/adalora.rs"]
mod adalora;
#[path = "training/adapted.rs"]
mod adapted_model;
#[path = "training/builder.rs"]
mod builder;
#[path = "training/contradictions.rs"]
mod contradictions;
#[path = "training/loraplus.rs"]
mod loraplus;
#[path = "training/own_model.rs"]
mod own_model;
#[path = "training/replicas.rs"]
mod replicas;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use llama_burn::Llama;
use peft_burn::{AdapterFiles, LoraConfig, PeftConfig, PeftModel, TargetModules};
use peft_burn_workspace::{Inputs, assert_close, base, tensors};
use peft_learner::LearnerError;
use peft_learner::config::{LrSchedulerType, TrainingConfig};
use peft_learner::data::{Batch, Example, Stream, StreamConfig};
use peft_learner::evaluate::evaluate;
use peft_learner::report::Metrics;
use peft_learner::train::{Existing, Finetune, Report, batch_loss, clip};

/// Texts of several lengths; the first two tokens of each are a prompt.
fn examples() -> Vec<Example> {
    let inputs = Inputs::load();
    let rows = inputs.train.iter().take(3).flatten().chain(&inputs.ids);
    rows.enumerate()
        .map(|(i, ids)| {
            let input_ids = ids[..ids.len() - i % 5].to_vec();
            let labels = input_ids.iter().enumerate().map(|(t, &id)| if t < 2 { -100 } else { id as i32 }).collect();
            Example { input_ids, labels }
        })
        .collect()
}

fn stream(batch_size: usize, accumulation: usize, packing: bool) -> Stream {
    let config = StreamConfig {
        batch_size,
        accumulation,
        shuffle: true,
        group_by_length: false,
        packing,
        max_length: 40,
        pad_id: 0,
        seed: 5,
    };
    Stream::new(Arc::new(examples()), config).unwrap()
}

fn lora(dropout: f64) -> PeftConfig {
    PeftConfig::Lora(LoraConfig {
        r: 4,
        lora_dropout: dropout,
        target_modules: TargetModules::list(["q_proj", "v_proj", "down_proj"]),
        ..LoraConfig::default()
    })
}

fn adapted(dropout: f64) -> Llama {
    let mut model = base("base");
    model.add_adapter("default", &lora(dropout), 7).unwrap();
    model
}

/// How the runs of these tests differ.
#[derive(Clone)]
struct Options {
    output: PathBuf,
    training: TrainingConfig,
    resume: bool,
}

fn options(output: &Path, total_steps: usize) -> Options {
    Options {
        output: output.to_owned(),
        training: TrainingConfig {
            max_steps: Some(total_steps),
            learning_rate: 5e-3,
            lr_scheduler_type: LrSchedulerType::Cosine,
            warmup_steps: 2,
            weight_decay: 0.01,
            gradient_accumulation_steps: 2,
            eval_steps: 3,
            save_steps: 2,
            ..TrainingConfig::default()
        },
        resume: false,
    }
}

/// A run on `stream`, evaluated on all examples.
fn finetune(model: Llama, stream: Stream, options: &Options) -> Finetune<Llama> {
    let existing = if options.resume { Existing::Resume } else { Existing::Refuse };
    Finetune::new(model, "default", options.training.clone())
        .stream(stream)
        .valid(examples())
        .seed(5)
        .existing(existing)
}

/// Burn has one random generator a backend: runs with dropout take turns.
static DROPOUT: Mutex<()> = Mutex::new(());

fn run(options: &Options, dropout: f64) -> (Llama, Report) {
    finetune(adapted(dropout), stream(2, 2, false), options).run(&options.output).unwrap()
}

/// Everything in the metrics but the speed.
fn losses(report: &Report) -> Vec<(usize, f64, f64)> {
    report
        .metrics
        .iter()
        .map(|m| match m {
            Metrics::Train(r) => (r.step, r.loss, r.grad_norm),
            Metrics::Valid(r) => (r.step, r.loss, 0.0),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn bytes_of(model: &Llama) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter("default", dir.path()).unwrap();
    std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap()
}

#[test]
fn the_loss_falls_and_the_base_is_in_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (model, report) = run(&options(dir.path(), 12), 0.0);
    let losses = losses(&report);
    assert!(losses.last().unwrap().1 < losses[0].1 - 0.2, "{losses:?}");
    let before: Vec<_> = base("base").named_weights();
    for ((name, a), (_, b)) in before.iter().zip(model.named_weights()) {
        assert_eq!(a.as_bytes(), b.as_bytes(), "{name} of the base changed");
    }
    let checkpoints: Vec<_> = std::fs::read_dir(dir.path().join("checkpoints")).unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(checkpoints.len(), 2, "save_total_limit");
    for checkpoint in checkpoints {
        let size: u64 =
            std::fs::read_dir(checkpoint.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(size < 150_000, "a checkpoint of {size} bytes holds more than the adapter");
    }
    assert!(dir.path().join("loss.svg").exists());
}

#[test]
fn a_resumed_run_continues_bit_for_bit() {
    let _turn = DROPOUT.lock();
    let dir = tempfile::tempdir().unwrap();
    let whole = options(&dir.path().join("whole"), 9);
    let (straight, straight_report) = run(&whole, 0.2);

    // As a run that was killed after step 5 leaves it: metrics beyond the checkpoint of step 4, a checkpoint half
    // written, and one that lacks its last file.
    let halves = options(&dir.path().join("halves"), 9);
    let mut first = halves.clone();
    (first.training.save_steps, first.training.save_total_limit) = (4, 0);
    let _ = run(&first, 0.2);
    let checkpoints = halves.output.join("checkpoints");
    for name in ["step-8", "step-9"] {
        std::fs::remove_dir_all(checkpoints.join(name)).unwrap();
    }
    for name in [".step-8.part", "step-6"] {
        std::fs::create_dir_all(checkpoints.join(name)).unwrap();
        std::fs::write(checkpoints.join(name).join("model.bpk"), b"half").unwrap();
    }
    let (resumed, report) = run(&Options { resume: true, ..halves }, 0.2);
    assert_eq!(report.resumed_from, 4);
    assert_eq!(losses(&report), losses(&straight_report));
    assert_eq!(bytes_of(&resumed), bytes_of(&straight));
}

#[test]
fn two_runs_of_one_seed_agree_to_the_bit() {
    let _turn = DROPOUT.lock();
    let dir = tempfile::tempdir().unwrap();
    let a = run(&options(&dir.path().join("a"), 4), 0.1);
    let b = run(&options(&dir.path().join("b"), 4), 0.1);
    assert_eq!((losses(&a.1), bytes_of(&a.0)), (losses(&b.1), bytes_of(&b.0)));
}

#[test]
fn accumulation_averages_over_target_tokens() {
    let gradient = |stream: Stream| {
        let model = adapted(0.0).train();
        let mut total: Option<Tensor<2>> = None;
        let mut loss = 0.0;
        for batch in stream.step(0).unwrap() {
            let value = batch_loss(&model, &batch);
            loss += value.clone().into_scalar::<f64>();
            let grads = GradientsParams::from_grads(value.backward(), &model);
            let params = model.adapter_params("default").unwrap();
            let (_, param) = params.iter().find(|(k, _)| k.ends_with("1.mlp.down_proj.lora_B.weight")).unwrap();
            let grad = grads.get::<2>(param.id()).unwrap();
            total = Some(total.map_or(grad.clone(), |t| t + grad));
        }
        (loss, total.unwrap().into_data())
    };
    let (whole, apart) = (gradient(stream(4, 1, false)), gradient(stream(1, 4, false)));
    assert!((whole.0 - apart.0).abs() < 1e-6, "{} {}", whole.0, apart.0);
    assert_close("gradient", &apart.1, &whole.1, 1e-5);
}

#[test]
fn packed_examples_do_not_see_each_other() {
    let model = adapted(0.0);
    let examples = examples();
    let packed = Batch::packed(&[vec![&examples[0], &examples[1]], vec![&examples[2]]], 0);
    let mut apart = 0.0;
    for example in &examples[..3] {
        let batch = Batch { step_targets: packed.step_targets, ..Batch::collate(&[example], 0) };
        apart += batch_loss(&model, &batch).into_scalar::<f64>();
    }
    let together = batch_loss(&model, &packed).into_scalar::<f64>();
    assert!((together - apart).abs() < 1e-6, "{together} {apart}");
}

#[test]
fn the_loss_of_a_file_does_not_depend_on_how_it_is_batched() {
    let (model, examples) = (adapted(0.0), examples());
    let one = evaluate(&model, &examples, 1, 0, |_| {}).unwrap();
    for batch in [2, 3, 8] {
        let many = evaluate(&model, &examples, batch, 0, |_| {}).unwrap();
        assert!((many.loss - one.loss).abs() < 1e-6);
        assert_eq!((many.tokens, many.examples), (one.tokens, examples.len()));
    }
    assert!((one.perplexity - one.loss.exp()).abs() < 1e-9);
}

#[test]
fn clipping_is_over_all_gradients_together() {
    let model = adapted(0.0).train();
    let loss = batch_loss(&model, &stream(4, 1, false).step(0).unwrap()[0]).mul_scalar(100.0);
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let norm = |grads: &GradientsParams| {
        let params = model.adapter_params("default").unwrap();
        let all = params.iter().filter_map(|(_, p)| p.grad(grads));
        all.flat_map(|d| d.iter::<f64>().collect::<Vec<_>>()).map(|v| v * v).sum::<f64>().sqrt()
    };
    let before = norm(&grads);
    assert!(before > 1.0);
    let (clipped, told) = clip(&model, grads, 1.0);
    assert!((told.into_scalar::<f64>() - before).abs() < 1e-4 * before);
    assert!((norm(&clipped) - 1.0).abs() < 1e-4);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let good = options(dir.path(), 4);
    let _ = run(&good, 0.0);
    let mut longer = Options { resume: true, ..good };
    longer.training.max_steps = Some(8);
    // Through the base: the checkpoint brings the adapter back.
    let mut model = adapted(0.0);
    let base = model.layers[1].mlp.down_proj.base_mut();
    base.weight.set(base.weight.val().dense().mul_scalar(f32::INFINITY));
    let error = finetune(model, stream(2, 2, false), &longer).run(dir.path()).unwrap_err();
    let LearnerError::NotFinite { step: 5, last_good: Some(path), .. } = &error else { panic!("{error}") };
    assert!(path.ends_with("step-4") && path.join("adapter/adapter_model.safetensors").exists());
    assert!(error.to_string().contains("learning_rate"), "{error}");
    let saved = tensors(&path.join("adapter/adapter_model.safetensors"));
    assert!(saved.values().all(|d| d.iter::<f32>().all(f32::is_finite)));
}

/// PEFT's `create_loraplus_optimizer`: B and vectors are fast, LoRA on an embedding has a rate of its own, A keeps the
/// run's.
#[test]
fn lora_plus_has_pefts_groups() {
    let dora = LoraConfig {
        r: 4,
        use_dora: true,
        target_modules: TargetModules::list(["embed_tokens", "q_proj"]),
        ..LoraConfig::default()
    };
    // How far the first step of Adam, which is the learning rate itself, takes each kind of parameter.
    let step = |ratio| {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), 1);
        options.training.loraplus_lr_ratio = ratio;
        options.training.loraplus_lr_embedding = 1e-4;
        options.training.warmup_steps = 0;
        options.training.weight_decay = 0.0;
        let mut model = base("base");
        model.add_adapter("default", &dora.clone().into(), 7).unwrap();
        // While one side is 0 the gradient of the other is, and it would stay where it is.
        for (key, mut param) in model.adapter_params_mut("default").unwrap() {
            if key.contains("_B") || key.contains("embedding_A") {
                let data = param.view().to_data();
                let values = peft_burn::TensorRng::new(1, &key).normal(data.num_elements(), 0.1);
                param.set(burn::tensor::TensorData::new(values, data.shape().clone()));
            }
        }
        let before: Vec<_> = model.adapter_params("default").unwrap().iter().map(|(_, p)| p.to_data()).collect();
        let (model, _) = finetune(model, stream(2, 2, false), &options).run(dir.path()).unwrap();
        let params = model.adapter_params("default").unwrap();
        let moved: Vec<(String, f64)> = params
            .iter()
            .zip(before)
            .map(|((key, param), before)| {
                let after = param.to_data();
                let pairs = after.iter::<f64>().zip(before.iter::<f64>());
                (key.clone(), pairs.fold(0.0_f64, |m, (a, b)| m.max((a - b).abs())))
            })
            .collect();
        move |part: &str| {
            let (_, moved) = moved.iter().find(|(key, _)| key.contains(part)).unwrap();
            *moved
        }
    };
    let (same, plus) = (step(None), step(Some(16.0)));
    let rates = [
        ("q_proj.lora_A", 5e-3),
        ("q_proj.lora_B", 8e-2),
        ("q_proj.lora_magnitude_vector", 8e-2),
        ("embed_tokens.lora_magnitude_vector", 8e-2),
        ("embed_tokens.lora_embedding_A", 1e-4),
        ("embed_tokens.lora_embedding_B", 1e-4),
    ];
    for (part, rate) in rates {
        assert!((same(part) / 5e-3 - 1.0).abs() < 1e-2, "{part} moved by {} without LoRA+", same(part));
        assert!((plus(part) / rate - 1.0).abs() < 1e-2, "{part} moved by {} with LoRA+", plus(part));
    }
}
