//! Trains the embedded base model from scratch.
//!
//! ```text
//! cargo run --release --example train_base
//! cargo run --release --example make_world -- runs/world
//! cargo run --release --example train_base -- runs/world runs/base 5000
//! ```
//!
//! Without arguments it trains 200 steps on a part of the text, which it writes itself. The two commands below make the
//! embedded model: the first writes the whole text, the second trains on it and leaves `config.json` and
//! `model.safetensors` (f16) in `runs/base/model`, which is what `datasets/world` holds.

#[allow(dead_code, reason = "make_world writes the whole text, and more")]
mod corpus;

use std::path::Path;

use burn::tensor::FloatDType;
use llama_burn::{Llama, LlamaConfig};
use peft_learner::base::Text;
use peft_learner::config::{LrSchedulerType, TrainingConfig};
use peft_learner::data::{EncodeOptions, Examples, Part, Preparation};
use peft_learner::device::DeviceName;
use peft_learner::evaluate::evaluate;
use peft_learner::train::{Existing, Finetune};
use small_world::{SEED, World};

const MAX_LENGTH: usize = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let device = DeviceName::take_from(&mut args)?.open()?;
    let (corpus, output, steps) = match args.as_slice() {
        [] => ("runs/taste/world", "runs/taste/base", 200),
        [corpus, output] => (corpus.as_str(), output.as_str(), 5000),
        [corpus, output, steps] => (corpus.as_str(), output.as_str(), steps.parse()?),
        _ => return Err("usage: train_base [CORPUS_FOLDER OUTPUT_FOLDER [STEPS]] [--device DEVICE]".into()),
    };
    let (corpus, output) = (Path::new(corpus), Path::new(output));
    if args.is_empty() {
        corpus::write_corpus(corpus, &World::new(SEED), 5000)?;
    }
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/world");
    let config = LlamaConfig::from_dir(&world)?;
    let text = Text::from_dir(world)?.ok_or("the world has no tokenizer")?;
    let read = |file: &str, part: Part| -> Result<Examples, Box<dyn std::error::Error>> {
        let options = EncodeOptions { max_length: MAX_LENGTH, vocab_size: config.vocab_size };
        Ok(Preparation::new(Some(&text), options).sources(&[corpus.join(file).into()], part)?.examples)
    };
    let (train, valid) = (read("corpus.jsonl", Part::Train)?, read("corpus-valid.jsonl", Part::Valid)?.to_vec()?);
    let training = TrainingConfig {
        max_steps: Some(steps),
        per_device_train_batch_size: 8,
        learning_rate: 3e-3,
        lr_scheduler_type: LrSchedulerType::Cosine,
        warmup_steps: 100.min(steps),
        weight_decay: 0.1,
        adam_beta2: 0.95,
        eval_steps: 500,
        save_steps: 500,
        ..TrainingConfig::default()
    };
    let pad_id = config.pad_token_id.unwrap_or(0);
    let mut model = Llama::random(config, 1, &device);
    model.set_base_trainable(true)?;
    let (model, report) = Finetune::base(model, training)
        .train(train)
        .valid(valid.clone())
        .packing(MAX_LENGTH)
        .pad_id(pad_id)
        .seed(1)
        .existing(Existing::Resume)
        .dashboard(true)
        .stop_on_signals()
        .on_checkpoint(|saved| {
            if let Err(error) = saved.model.save(saved.path.join("model"), None) {
                eprintln!("the model of step {} is not saved: {error}", saved.step);
            }
        })
        .run(output)?;
    model.save(output.join("model"), Some(FloatDType::F16))?;
    let loss = evaluate(&model, &valid, 16, pad_id, |_| {})?.loss;
    println!("{} steps in {:.0} s; validation loss {loss:.4}", report.steps, report.seconds);
    Ok(())
}
