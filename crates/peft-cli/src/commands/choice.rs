//! How a token is chosen: the options of the command line, and under them what the model's files say.

use clap::Args;
use llama_burn::{GenerationDefaults, SamplingConfig};

/// Among which tokens is chosen.
#[derive(Debug, Args)]
pub struct ChoiceArgs {
    /// Divides the logits: higher is more surprising, 0 takes the most likely token, as without it
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Choose among the fewest tokens whose probabilities reach P; without it the model's, or 1
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Choose among the K most likely tokens, 0 is all; without it the model's, or 0
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Above 1, tokens of the text so far become less likely; without it the model's, or 1
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Leave out tokens that are less than P times as likely as the most likely one; without it the model's, or 0
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
}

impl ChoiceArgs {
    /// Whether tokens are drawn. A model's file alone does not make them so: without options, a text is the same every time.
    pub fn draws(&self) -> bool {
        self.temperature.is_some_and(|temperature| temperature > 0.0)
    }

    /// Whether the temperature is given.
    pub fn is_told(&self) -> bool {
        self.temperature.is_some()
    }

    /// The settings: those given here, else those of the model's file.
    pub fn over(&self, defaults: &GenerationDefaults) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature.unwrap_or(0.0),
            top_k: self.top_k.unwrap_or_else(|| defaults.top_k()),
            top_p: self.top_p.or(defaults.top_p).unwrap_or(1.0),
            min_p: self.min_p.or(defaults.min_p).unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
            ..SamplingConfig::default()
        }
    }
}
