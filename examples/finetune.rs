//! Fine-tunes the embedded model on rows in memory, with a log of one's own, early stopping and samples of text:
//! `cargo run --release --example finetune`.
use std::error::Error;

use llama_burn::prelude::*;
use peft_burn::prelude::*;
use peft_learner::prelude::*;

/// Rows of the embedded task. Any other prompts and completions would do.
fn rows(file: &str, text: &Text) -> Result<Vec<Example>, Box<dyn Error>> {
    let (_, bytes) = peft_world::TASK.iter().find(|(name, _)| *name == file).ok_or("there is no such file")?;
    let encode = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let [prompt, completion] = ["prompt", "completion"].map(|key| row[key].as_str().unwrap_or_default());
        Ok(text.encode_completion(prompt, completion)?.into())
    };
    std::str::from_utf8(bytes)?.lines().map(encode).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::take_from(&mut std::env::args().collect())?.open()?;
    peft_world::write(peft_world::MODEL, "runs/finetune-base")?;
    let Base { mut model, text, .. } = Base::load("runs/finetune-base", None, &device)?;
    let text = text.ok_or("the model has no tokenizer")?;
    let (train, valid) = (rows("task-train.jsonl", &text)?, rows("task-valid.jsonl", &text)?);
    let prompt = text.tokenizer.decode(&valid[0].input_ids[..20], true)?;

    let lora = LoraConfig::new(16).with_alpha(32.0).with_target_modules("all-linear");
    model.add_adapter("default", &lora.into(), 42)?;
    let training = TrainingConfig::new(400)
        .with_batch_size(16)
        .with_learning_rate(3e-3)
        .with_warmup_steps(20)
        .with_save_steps(100);
    let (model, report) = Finetune::new(model, "default", training)
        .train(train)
        .valid(valid.clone())
        .existing(Existing::Overwrite)
        .samples(&text, [prompt], GenerateOptions::new(40))
        .on_step(|step| {
            if step.step % 10 == 0 {
                println!("{:4} loss {:.4} at {:.0} tokens/s", step.step, step.loss, step.tokens_per_second);
            }
        })
        .on_evaluation(|evaluated| if evaluated.since_best >= 2 { Flow::Stop } else { Flow::Go })
        .on_sample(|sample| println!("     {}⟶{}", sample.prompt, sample.text))
        .run("runs/finetune")?;

    let right = exact_match(&answer(&model, &valid, 60, text.stop.ids(), |_| {})?);
    println!("{} steps, stopped early: {}", report.steps, report.stopped_early);
    println!("{:.1}% of the answers are exactly right; the adapter is in runs/finetune/adapter", 100.0 * right);
    Ok(())
}
