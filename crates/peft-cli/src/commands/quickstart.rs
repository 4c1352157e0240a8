//! `peft quickstart`

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use clap::builder::PossibleValuesParser;
use llama_burn::Tokenizer;
use peft_burn::PeftConfig;
use peft_learner::base::Base;
use peft_learner::config::{AdapterSource, DataConfig, ModelConfig, RunConfig, TrainingConfig};
use peft_learner::data::Example;
use peft_learner::evaluate::{Answer, answer, evaluate, exact_match};
use peft_learner::from_config::ConfiguredRun;
use peft_learner::train::{Existing, check_output};
use serde_json::{Value, json};

use crate::embedded;
use crate::failure::{Failure, Result};
use crate::model_args::DeviceArgs;
use crate::output::{self, quoted};

const EXAMPLE: &str = "\
Examples: the same task with DoRA, elsewhere; and on a model of your own
  peft quickstart --method dora --output runs/dora
  peft quickstart --model gemma-3-270m.gguf --max-steps 100";

/// The rows that are evaluated on.
const VALID: &str = "task-valid.jsonl";
/// Rows that are evaluated at a time.
const BATCH: usize = 60;
/// Optimiser steps, unless said otherwise.
const STEPS: usize = 400;
/// Answers that are shown side by side.
const SHOWN: usize = 3;

/// Fine-tune the small built-in model on its built-in task
///
/// Needs no files and no network. The model knows an invented island; the task is to write a label for each parcel
/// that a courier is given. Shows how often it is right before and after, and what to type next.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Quickstart {
    /// How to fine-tune
    #[arg(long, value_parser = PossibleValuesParser::new(names()), default_value = "lora")]
    method: String,
    /// Fine-tune this model instead: a directory, a .gguf file, or a name on the Hugging Face hub
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// The folder to write into; runs/quickstart-METHOD without it
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Optimiser steps; fewer are faster and learn less
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Go on from the newest checkpoint in the output folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace the run in the output folder
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The names of the methods.
fn names() -> impl IntoIterator<Item = &'static str> {
    PeftConfig::presets(STEPS).into_iter().map(|preset| preset.name)
}

/// How a model does on the rows it has not seen.
struct Score {
    loss: f64,
    answers: Vec<Answer>,
}

impl Score {
    fn of(base: &Base, examples: &[Example]) -> Result<Self> {
        let loss = evaluate(&base.model, examples, BATCH, base.pad_id(), |_| {})?.loss;
        let bar = output::bar(examples.len(), "answering");
        let answers = answer(&base.model, examples, BATCH, &base.eos_ids(), |rows| bar.set_position(rows as u64))?;
        bar.finish_and_clear();
        Ok(Self { loss, answers })
    }

    fn json(&self) -> Value {
        json!({ "loss": self.loss, "exact_match": exact_match(&self.answers) })
    }
}

impl Quickstart {
    pub fn run(self) -> Result {
        let device = self.device.open()?;
        let output = self.output.clone();
        let output = output.unwrap_or_else(|| Path::new("runs").join(format!("quickstart-{}", self.method)));
        let config = self.config(&output)?;
        let existing = match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        };
        check_output(&output, existing)?;
        let own_base = self.model.is_none().then(|| output.join("base"));
        embedded::unpack(own_base.as_deref(), &output.join("data"))?;
        self.train(&config, existing, &device)
    }

    fn config(&self, output: &Path) -> Result<RunConfig> {
        let steps = self.max_steps.unwrap_or(STEPS);
        let preset = PeftConfig::presets(steps).into_iter().find(|preset| preset.name == self.method);
        let preset =
            preset.ok_or_else(|| Failure::new(format!("there is no method `{}`", self.method), "see --help"))?;
        let data = output.join("data");
        Ok(RunConfig {
            output: output.to_owned(),
            seed: 42,
            model: ModelConfig::new(
                self.model.clone().unwrap_or_else(|| output.join("base").to_string_lossy().into_owned()),
            ),
            adapter: AdapterSource::Config(preset.config.to_user_json()),
            data: DataConfig {
                max_length: 128,
                ..DataConfig::files(data.join("task-train.jsonl"), Some(data.join(VALID)))
            },
            training: TrainingConfig {
                max_steps: Some(steps),
                per_device_train_batch_size: 16,
                // The presets are made for the built-in model, which is small.
                learning_rate: preset.learning_rate * if self.model.is_some() { 0.1 } else { 1.0 },
                warmup_steps: steps.min(20),
                eval_steps: 100,
                save_steps: 100,
                ..TrainingConfig::default()
            },
        })
    }

    fn train(&self, config: &RunConfig, existing: Existing, device: &Device) -> Result {
        let base = Base::load(&config.model.path, config.model.load_options(), device)?;
        if base.text.is_none() {
            return Err(Failure::new("the model has no tokenizer", "give one that has"));
        }
        let valid = config.output.join("data").join(VALID);
        let (examples, _) = base.examples(valid, config.data.max_length)?;
        output::note("how the model does before:");
        let before = Score::of(&base, &examples)?;
        output::note(summary(&before));
        let run = ConfiguredRun::new(config, base, existing, &[], |text| output::note(text))?;
        let ConfiguredRun { finetune, text, dir, warnings, .. } = run;
        let (model, report) = finetune.stop_on_signals().run(&config.output)?;
        warnings.iter().for_each(output::warn);
        let base = Base { model, text, dir, warnings: Vec::new() };
        let adapter = config.output.join("adapter");
        let after = Score::of(&base, &examples)?;
        let shown = match &base.text {
            Some(text) => side_by_side(&text.tokenizer, &before, &after)?,
            None => Vec::new(),
        };
        if self.json {
            return output::json(&json!({
                "method": self.method,
                "output": config.output,
                "adapter": adapter,
                "steps": report.steps,
                "trainable_parameters": report.parameters.trainable,
                "before": before.json(),
                "after": after.json(),
                "answers": shown.iter().map(Shown::json).collect::<Vec<_>>(),
                "seconds": report.seconds,
            }));
        }
        output::line(format_args!("\n{} orders that it was not trained on", examples.len()))?;
        output::line(format_args!("  before  {}", summary(&before)))?;
        output::line(format_args!("  after   {}", summary(&after)))?;
        for answer in &shown {
            output::line(format_args!("\n  {}", answer.prompt.replace('\n', "\n  ")))?;
            output::line(format_args!("    expected  {}", answer.expected))?;
            output::line(format_args!("    before    {}", answer.before))?;
            output::line(format_args!("    after     {}", answer.after))?;
        }
        output::line(format_args!(
            "\nThe adapter is in {}, the curves are in {}.",
            adapter.display(),
            config.output.join("loss.svg").display()
        ))?;
        if let Some(ranks) = &report.ranks {
            output::line(format_args!("The rank that each module kept is in {}.", ranks.display()))?;
        }
        let (model, adapter) = (quoted(&config.model.path), quoted(adapter.to_string_lossy()));
        let prompt = shown.first().map_or("Hello", |answer| answer.prompt.as_str());
        let peft = output::program();
        output::line("\nNext:")?;
        output::line(format_args!(
            "  {peft} generate --model {model} --adapter {adapter} --prompt {}",
            quoted(prompt)
        ))?;
        output::line(format_args!("  {peft} inspect {adapter}"))?;
        let toml = config.output.join("config.toml");
        let toml = quoted(toml.to_string_lossy());
        output::line(format_args!("  {peft} train {toml} --set output=runs/mine --set training.learning_rate=1e-3"))
    }
}

fn summary(score: &Score) -> String {
    let share = 100.0 * exact_match(&score.answers);
    format!("{share:5.1}% answered exactly right, loss {:.4}", score.loss)
}

/// One order, what should be answered, and what was.
struct Shown {
    prompt: String,
    expected: String,
    before: String,
    after: String,
}

impl Shown {
    fn json(&self) -> Value {
        json!({ "prompt": self.prompt, "expected": self.expected, "before": self.before, "after": self.after })
    }
}

/// Some answers from all over the file.
fn side_by_side(tokenizer: &Tokenizer, before: &Score, after: &Score) -> Result<Vec<Shown>> {
    let text = |ids: &[u32]| Ok::<_, Failure>(tokenizer.decode(ids, true)?.trim().replace('\n', " ⏎ "));
    let step = before.answers.len().div_ceil(SHOWN).max(1);
    let pairs = before.answers.iter().zip(&after.answers).step_by(step);
    pairs
        .map(|(before, after)| {
            Ok(Shown {
                prompt: tokenizer.decode(&before.prompt, true)?,
                expected: text(&before.expected)?,
                before: text(&before.written)?,
                after: text(&after.written)?,
            })
        })
        .collect()
}
