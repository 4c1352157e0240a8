//! One base, many adapters, one batch: the same prompt answered by the base and by each adapter at once.
//!
//! Without arguments it teaches the embedded model with LoRA and IA3 first. With a model, a prompt and adapters:
//!
//! ```text
//! cargo run --release --example serve_many
//! cargo run --release --example serve_many -- MODEL 'A parcel for Freya: two coats.' FIRST_ADAPTER SECOND_ADAPTER
//! ```

mod island;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use llama_burn::prelude::*;
use peft_burn::{BASE, prelude::*};
use peft_learner::prelude::*;

/// The embedded model, a prompt of its task, and two adapters for it, which are trained where they are not there yet.
fn embedded(device: &Device) -> Result<Vec<String>, Box<dyn Error>> {
    let mut arguments = vec![island::BASE.to_owned(), "A parcel for Freya: two coats.\nLabel:".to_owned()];
    for method in ["lora", "ia3"] {
        let adapter = format!("runs/{method}/adapter");
        if !Path::new(&adapter).exists() {
            eprintln!("{method} is trained first");
            let preset = PeftConfig::preset(method, island::STEPS).ok_or("there is no such method")?;
            island::fine_tune(method, &preset.config, preset.learning_rate, device)?;
        }
        arguments.push(adapter);
    }
    Ok(arguments)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = DeviceName::take_from(&mut arguments)?.open()?;
    if arguments.is_empty() {
        arguments = embedded(&device)?;
    }
    let [folder, prompt, adapters @ ..] = &arguments[..] else {
        return Err("usage: serve_many [MODEL PROMPT ADAPTER...] [--device DEVICE]".into());
    };
    let mut model = Llama::from_dir(folder, None, &device)?;
    let tokenizer = Tokenizer::from_dir(folder)?;
    let mut names = vec![BASE.to_owned()];
    for (i, adapter) in adapters.iter().enumerate() {
        let name = format!("adapter-{i}");
        model.load_adapter(adapter, &name, false)?;
        names.push(name);
    }

    let batch = model.mixed_batch(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let prompts = vec![tokenizer.encode(prompt, true)?; names.len()];
    let stop = tokenizer.eos_token_id().into_iter().collect();
    let options = GenerateOptions { max_new_tokens: 32, stop, ..GenerateOptions::default() };
    let texts = batch.generate(&prompts, &options, |_, _| ControlFlow::Continue(()))?;
    for (who, text) in std::iter::once("base").chain(adapters.iter().map(String::as_str)).zip(texts) {
        println!("{who}: {}", tokenizer.decode(&text, true)?.trim());
    }
    Ok(())
}
