//! One base, many adapters, one batch: the same prompt answered by the base and by each adapter at once.
//!
//! ```text
//! cargo run --release --example lora && cargo run --release --example ia3
//! cargo run --release --example serve_many -- datasets/world $'A parcel for Freya: two coats.\nLabel:' runs/lora/adapter runs/ia3/adapter
//! ```

use std::ops::ControlFlow;

use llama_burn::{Generate, GenerateOptions, Llama, Tokenizer};
use peft_burn::{AdapterFiles, BASE, MixedBatch};
use peft_learner::device::DeviceName;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = DeviceName::take_from(&mut arguments)?.open()?;
    let [folder, prompt, adapters @ ..] = &arguments[..] else {
        return Err("usage: serve_many MODEL PROMPT ADAPTER... [--device DEVICE]".into());
    };
    let mut model = Llama::from_dir(folder, None, &device)?;
    let tokenizer = Tokenizer::from_dir(folder)?;
    let mut names = vec![BASE.to_owned()];
    for (i, adapter) in adapters.iter().enumerate() {
        let name = format!("adapter-{i}");
        model.load_adapter(adapter.as_ref(), &name, false)?;
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
