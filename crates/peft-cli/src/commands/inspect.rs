//! `peft inspect`

use std::path::{Path, PathBuf};

use clap::Args;
use llama_burn::{ModelSummary, hub};
use peft_burn::{AdaptedModule, AdapterFiles, AdapterSummary};
use peft_learner::base::Base;
use peft_learner::from_config::ADAPTER;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::model_args::DeviceArgs;
use crate::output::{self, bytes, count};

const EXAMPLE: &str = "\
Example: whether an adapter fits a model
  peft inspect runs/mine/adapter --model models/smollm2";

/// Show what a model or adapter directory holds
///
/// Method, ranks, parameters, bytes, and everything that is broken or does not fit together.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Inspect {
    /// A model or an adapter: its directory, or a model's hub id
    #[arg(value_name = "PATH")]
    path: String,
    /// Also put the adapter on this model, and report what does not fit
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> Result {
        let dir = PathBuf::from(&self.path);
        if dir.join("adapter_config.json").exists() {
            return self.adapter(&dir);
        }
        if dir.join("config.toml").exists() && dir.join("adapter").exists() {
            let adapter = dir.join("adapter");
            let way_out = format!("look at its adapter: peft inspect {}", output::quoted(adapter.to_string_lossy()));
            return Err(Failure::new(format!("`{}` is a run's folder, not a model or an adapter", self.path), way_out));
        }
        if self.model.is_some() {
            let cause = format!("`{}` has no adapter_config.json, and --model is for adapters", self.path);
            return Err(Failure::new(cause, "give an adapter's directory, or leave --model out"));
        }
        self.model_dir()
    }

    fn model_dir(&self) -> Result {
        let dir = hub::resolve(&self.path, None)?;
        let summary = ModelSummary::read(&dir)?;
        if self.json {
            let mut value = json!({ "kind": "model", "path": dir, "architecture": summary.config.architecture() });
            merge(&mut value, json!(summary));
            return output::json(&value);
        }
        let config = &summary.config;
        row("model", format_args!("{} ({})", dir.display(), config.architecture()))?;
        row("parameters", count(summary.parameters))?;
        row("layers", format_args!("{} of width {}", config.num_hidden_layers, config.hidden_size))?;
        let (heads, shared) = (config.num_attention_heads, config.num_key_value_heads);
        row("attention", format_args!("{heads} heads of {}, {shared} for keys and values", config.head_dim))?;
        row("feedforward", config.intermediate_size)?;
        let head = if config.tie_word_embeddings { "the head is the embedding" } else { "the head is its own" };
        row("vocabulary", format_args!("{} tokens, {head}", count(config.vocab_size)))?;
        row("context", format_args!("{} tokens", count(config.max_position_embeddings)))?;
        row(
            "weights",
            format_args!("{} in {} file(s), {}", bytes(summary.bytes), summary.files, dtypes(&summary.dtypes)),
        )?;
        match &summary.tokenizer {
            Some(tokenizer) => {
                let chat = if tokenizer.chat_template { "with a chat template" } else { "no chat template" };
                row("tokenizer", format_args!("{} tokens, {chat}", count(tokenizer.vocab_size)))?;
            }
            None => row("tokenizer", "none: only data of input_ids can be used")?,
        }
        summary.warnings.iter().for_each(output::warn);
        problems(&summary.problems)
    }

    fn adapter(&self, dir: &Path) -> Result {
        let summary = AdapterSummary::read(dir)?;
        let mut misfits = summary.problems.clone();
        misfits.extend(summary.non_finite.iter().map(|name| format!("{name} holds NaN or infinite values")));
        let mut warnings = summary.warnings.clone();
        // A tensor that is not finite would be refused again, in other words.
        let fits = match &self.model {
            Some(model) => {
                let device = self.device.open()?;
                let mut base = Base::load(model, None, &device)?;
                let loaded = base.model.load_adapter(dir, ADAPTER, false);
                let fits = loaded.is_ok();
                let said = loaded.unwrap_or_else(|error| {
                    misfits.push(format!("on {model}: {error}"));
                    Vec::new()
                });
                // Of the adapter alone and on the model much is the same.
                let more: Vec<_> =
                    base.warnings.into_iter().chain(said).filter(|line| !warnings.contains(line)).collect();
                warnings.extend(more);
                Some(fits)
            }
            None => None,
        };
        if self.json {
            return output::json(&to_json(dir, &summary, &misfits, &warnings, fits));
        }
        row("adapter", format_args!("{} ({})", dir.display(), summary.method()))?;
        if let Some(base) = summary.config.base_model_name_or_path() {
            row("trained on", base)?;
        }
        row("parameters", count(summary.parameters))?;
        row("weights", format_args!("{}, {}", bytes(summary.bytes), dtypes(&summary.dtypes)))?;
        row("modules", count(summary.modules.len()))?;
        let width = summary.modules.keys().map(String::len).max().unwrap_or(0);
        for (path, module) in output::in_order(&summary.modules) {
            let rank = module.rank.map_or_else(|| "       ".to_owned(), |r| format!("rank {r:<2}"));
            output::line(format_args!("  {path:width$}  {rank}  {} parameters", count(module.parameters())))?;
        }
        warnings.iter().for_each(output::warn);
        if fits == Some(true) {
            row("fits", self.model.as_deref().unwrap_or_default())?;
        }
        problems(&misfits)
    }
}

fn to_json(dir: &Path, summary: &AdapterSummary, misfits: &[String], warnings: &[String], fits: Option<bool>) -> Value {
    let module = |(path, module): (&str, &AdaptedModule)| json!({ "path": path, "rank": module.rank, "parameters": module.parameters(), "tensors": module.tensors });
    json!({
        "kind": "adapter",
        "path": dir,
        "method": summary.method(),
        "config": summary.config.to_json(),
        "modules": output::in_order(&summary.modules).into_iter().map(module).collect::<Vec<_>>(),
        "parameters": summary.parameters,
        "bytes": summary.bytes,
        "dtypes": summary.dtypes,
        "non_finite": summary.non_finite,
        "fits_model": fits,
        "problems": misfits,
        "warnings": warnings,
    })
}

fn row(name: &str, value: impl std::fmt::Display) -> Result {
    output::line(format_args!("{name:<12} {value}"))
}

fn dtypes(dtypes: &std::collections::BTreeMap<String, usize>) -> String {
    dtypes.iter().map(|(dtype, tensors)| format!("{tensors} tensors of {dtype}")).collect::<Vec<_>>().join(", ")
}

fn problems(problems: &[String]) -> Result {
    if problems.is_empty() {
        return Ok(());
    }
    output::line("\nWhat does not fit:")?;
    problems.iter().try_for_each(|problem| output::line(format_args!("  - {}", problem.replace('\n', "\n    "))))
}

/// Adds the keys of `more` to `value`.
fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}
