//! Fine-tunes the embedded model on rows in memory, with a log of one's own, early stopping and samples of text.
//!
//! ```text
//! cargo run --release --example finetune
//! ```

use std::path::Path;

use llama_burn::GenerateOptions;
use peft_burn::{LoraConfig, PeftModel, TargetModules};
use peft_learner::base::Base;
use peft_learner::config::TrainingConfig;
use peft_learner::device::DeviceName;
use peft_learner::evaluate::{answer, exact_match};
use peft_learner::train::{Existing, Finetune, Flow};

/// Evaluations without a lower loss after which the run ends.
const PATIENCE: usize = 2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = DeviceName::take_from(&mut std::env::args().collect())?.open()?;
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/world");
    let base = Base::load(&world.to_string_lossy(), None, &device)?;
    let (train, _) = base.examples(&world.join("task-train.jsonl"), 128)?;
    let (valid, _) = base.examples(&world.join("task-valid.jsonl"), 128)?;
    let (pad_id, eos) = (base.pad_id(), base.eos_ids());
    let text = base.text.ok_or("the model has no tokenizer")?;
    let prompt = text.tokenizer.decode(&valid[0].input_ids[..20], true)?;

    let mut model = base.model;
    let target_modules = TargetModules::list(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]);
    let lora = LoraConfig { r: 16, lora_alpha: 32.0, target_modules, ..LoraConfig::default() };
    model.add_adapter("default", &lora.into(), 42)?;
    let training = TrainingConfig {
        max_steps: Some(400),
        per_device_train_batch_size: 16,
        learning_rate: 3e-3,
        warmup_steps: 20,
        eval_steps: 50,
        save_steps: 100,
        ..TrainingConfig::default()
    };
    let (model, report) = Finetune::new(model, "default", training)
        .train(train)
        .valid(valid.clone())
        .pad_id(pad_id)
        .existing(Existing::Overwrite)
        .stop_on_signals()
        .samples(&text, [prompt], GenerateOptions { max_new_tokens: 40, ..GenerateOptions::default() })
        .on_step(|step| {
            if step.step % 10 == 0 {
                println!("{:4} loss {:.4} at {:.0} tokens/s", step.step, step.loss, step.tokens_per_second);
            }
        })
        .on_evaluation(|evaluated| if evaluated.since_best >= PATIENCE { Flow::Stop } else { Flow::Go })
        .on_sample(|sample| println!("     {}⟶{}", sample.prompt, sample.text))
        .run("runs/finetune")?;

    let right = exact_match(&answer(&model, &valid, 60, &eos, |_| {})?);
    println!("{} steps, stopped early: {}", report.steps, report.stopped_early);
    println!("{:.1}% of the answers are exactly right; the adapter is in runs/finetune/adapter", 100.0 * right);
    Ok(())
}
