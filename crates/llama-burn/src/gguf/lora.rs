//! A LoRA as a GGUF file that llama.cpp puts on a model (`--lora`).

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use peft_burn::{PeftConfig, PeftModel};

use super::dequantise::Kind;
use super::export::arch_of;
use super::names;
use super::value::Value;
use super::write::{Planned, write};
use crate::error::{LlamaError, Result};
use crate::model::Llama;

/// Writes the LoRA `name` of `model` to the file `path` in llama.cpp's format.
///
/// llama.cpp scales every update by one alpha over the rank of its B: what an adapter has otherwise (rsLoRA, a pattern of
/// ranks or alphas) is folded into B.
///
/// # Errors
/// An adapter that is no plain LoRA on linear layers, by what is more than that; an output that is there already, or cannot be
/// written.
pub fn save_lora_gguf(model: &Llama, name: &str, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let refused = |message: String| LlamaError::Gguf { path: path.to_owned(), message };
    if path.exists() {
        return Err(LlamaError::OutputExists { path: path.to_owned() });
    }
    let PeftConfig::Lora(lora) = model.adapter_config(name)? else {
        return Err(refused(
            "llama.cpp knows LoRA alone: merge the adapter into its model, or make it a LoRA first".into(),
        ));
    };
    if lora.use_dora {
        return Err(refused("llama.cpp does not know DoRA: merge the adapter into its model".into()));
    }
    // By module A and B.
    let mut pairs: BTreeMap<String, [Option<TensorData>; 2]> = BTreeMap::new();
    let mut others = Vec::new();
    for (key, param) in model.adapter_params(name)? {
        let module = key.trim_start_matches("base_model.model.");
        let ends = [".lora_A.weight", ".lora_B.weight"];
        match ends.iter().enumerate().find_map(|(i, end)| Some((i, module.strip_suffix(end)?))) {
            Some((i, module)) => pairs.entry(module.to_owned()).or_default()[i] = Some(param.to_data()),
            None => others.push(module.to_owned()),
        }
    }
    if !others.is_empty() {
        let message = "a LoRA in GGUF has A and B of linear layers alone; merge the adapter into its model, or train it \
                       without";
        return Err(refused(format!("{message}: {}", others.join(", "))));
    }
    let arch = arch_of(model.config());
    let config = model.config();
    let heads = [config.num_attention_heads, config.num_key_value_heads];
    let (mut planned, mut numbers) = (Vec::new(), Vec::new());
    for (module, pair) in pairs {
        let weight = format!("{module}.weight");
        let [Some(a), Some(b)] = pair else { return Err(refused(format!("{module} lacks A or B"))) };
        let ours = names::to_file(arch, &weight).ok_or_else(|| refused(format!("{module} has no name in GGUF")))?;
        let rank = a.shape()[0];
        let factor = lora.scaling_for(&module) * rank as f64 / lora.lora_alpha;
        let scaled: Vec<f32> = b
            .iter::<f32>()
            .map(|v| if (factor - 1.0).abs() < 1e-12 { v } else { (f64::from(v) * factor) as f32 })
            .collect();
        for (end, data) in [("lora_a", &a), ("lora_b", &b)] {
            planned.push(Planned::new(format!("{ours}.{end}"), data.shape().to_vec(), Kind::F32));
        }
        numbers.push(a.iter::<f32>().collect());
        numbers.push(names::done(arch, &weight, scaled, b.shape()[0], heads));
    }
    let metadata = [
        ("general.architecture", Value::Text(arch.into())),
        ("general.type", Value::Text("adapter".into())),
        ("adapter.type", Value::Text("lora".into())),
        ("adapter.lora.alpha", Value::Float(lora.lora_alpha)),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    write(path, &metadata, &planned, |i| std::mem::take(&mut numbers[i]))
}
