//! `peft generate`

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use clap::Args;
use llama_burn::{
    CausalModel as _, Conversation, Finish, Generate as _, GenerateOptions, GenerationDefaults, Message,
    SamplingConfig, TextDecoder, TokenLogprob,
};
use peft_learner::base::{Base, Text};
use serde::Serialize;
use serde_json::{Map, Value};

use super::choice::ChoiceArgs;
use crate::failure::{Failure, Result};
use crate::model_args::{ModelArgs, object};
use crate::output;

const EXAMPLE: &str = "\
Example: ask a chat model with a fine-tuned adapter
  peft generate --model models/smollm2 --adapter runs/mine/adapter --chat --prompt 'What is a llama?'";

/// Without `--max-new-tokens`.
const DEFAULT_TOKENS: usize = 128;

/// Continue a text, or answer a message
///
/// Text appears as it is generated. The most likely token is taken each time, unless --temperature is above 0. What the
/// options leave open is told by the model's generation_config.json, as in Transformers.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; with --chat the message to answer
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Put the prompt into the model's chat template, as a user's message
    #[arg(long)]
    chat: bool,
    /// Variables of the chat template as JSON, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = object, requires = "chat")]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// At most so many tokens; without it 128, or as many as the model's context has room for
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Taken from a token's logit for each time that it was generated
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Taken from the logit of a token that was generated, however often
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Add X to the logit of the token ID; may be given often
    #[arg(long, value_name = "ID=X", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// End the text before this string; may be given often
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Also print how likely each token was, beside the N most likely ones in its place
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,
    /// Seed of the random choice: the same seed, the same text
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Generated<'a> {
    /// As it was given; `text` comes after it.
    prompt: &'a str,
    text: &'a str,
    /// The ids of `text`.
    tokens: &'a [u32],
    prompt_tokens: usize,
    /// `stop` where the model or --stop ended the text, `length` where --max-new-tokens did.
    finish_reason: &'a str,
    /// Of each of `tokens`, with --logprobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Logprob>>,
    seconds: f64,
    tokens_per_second: f64,
}

/// Refuses tokens that the model has no embedding for, all of them by their texts.
fn check_vocabulary(prompt: &[u32], base: &Base, text: &Text) -> Result {
    let vocab = base.model.spec().vocab_size;
    let beyond: BTreeSet<u32> = prompt.iter().copied().filter(|&id| id as usize >= vocab).collect();
    if beyond.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = beyond
        .iter()
        .map(|&id| format!("{:?} (token {id})", text.tokenizer.id_to_token(id).unwrap_or_default()))
        .collect();
    Err(Failure::new(
        format!("the prompt has what is outside the model's vocabulary of {vocab}: {}", names.join(", ")),
        "take it out of the prompt, or give the model or adapter whose embedding was resized for it",
    ))
}

/// How likely a token was.
#[derive(Debug, Serialize)]
struct Logprob {
    id: u32,
    token: String,
    /// By the model's logits, before temperature, penalties and biases.
    logprob: f32,
    /// The most likely ones in its place, if any were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Self>,
}

impl Logprob {
    fn new(of: &TokenLogprob, text: &Text) -> Result<Self> {
        let one = |id, logprob| Ok(Self { id, token: text.tokenizer.decode(&[id], false)?, logprob, top: Vec::new() });
        let top = of.top.iter().map(|&(id, logprob)| one(id, logprob)).collect::<Result<_>>()?;
        Ok(Self { top, ..one(of.id, of.logprob)? })
    }
}

/// A token and what is added to its logit.
fn bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let pair = text.split_once('=').and_then(|(id, bias)| Some((id.trim().parse().ok()?, bias.trim().parse().ok()?)));
    pair.ok_or_else(|| "give a token's id and a number, such as 42=-100".to_owned())
}

impl Generate {
    pub fn run(self) -> Result {
        let base = self.model.load()?;
        let text = base.text.as_ref().ok_or_else(|| {
            let cause = format!("`{}` has no tokenizer.json, and generating needs one", base.dir.display());
            Failure::new(cause, "put the model's tokenizer.json beside its weights")
        })?;
        let prompt = self.encode(&base, text)?;
        check_vocabulary(&prompt, &base, text)?;
        let context = base.model.config().max_position_embeddings;
        let defaults = self.defaults(&base)?;
        let most = defaults.max_length.map_or(usize::MAX, |length| length.saturating_sub(prompt.len()));
        let room = context.saturating_sub(prompt.len()).min(most).clamp(1, DEFAULT_TOKENS);
        let max_new_tokens = self.max_new_tokens.or(defaults.max_new_tokens).unwrap_or(room);
        if prompt.len() + max_new_tokens > context {
            output::warn(format_args!(
                "{} prompt tokens and up to {max_new_tokens} new ones are more than the {context} the model is made for",
                prompt.len(),
            ));
        }
        let options = GenerateOptions {
            max_new_tokens,
            sampling: SamplingConfig {
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                logit_bias: self.logit_bias.iter().copied().collect(),
                seed: self.seed,
                ..self.choice.over(&defaults)
            },
            stop: base.eos_ids(),
            stop_strings: if self.stop.is_empty() { defaults.stop_strings } else { self.stop.clone() },
            logprobs: self.logprobs,
        };
        let started = Instant::now();
        let mut decoders = [TextDecoder::new(prompt.clone(), options, Some(&text.tokenizer), 0)?];
        let (mut whole, mut tokens, mut logprobs) = (String::new(), Vec::new(), Vec::new());
        let mut failed = None;
        let ended = base.model.decode(&mut decoders, |_, piece| {
            whole.push_str(&piece.text);
            tokens.extend(piece.ids);
            logprobs.extend(piece.logprobs);
            match if self.json { Ok(()) } else { output::piece(&piece.text) } {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if !self.json {
            return output::line("");
        }
        let logprobs = logprobs.iter().map(|one| Logprob::new(one, text)).collect::<Result<Vec<_>>>()?;
        let seconds = started.elapsed().as_secs_f64();
        output::json(&Generated {
            prompt: &self.prompt,
            text: &whole,
            tokens: &tokens,
            prompt_tokens: prompt.len(),
            finish_reason: ended.first().copied().flatten().unwrap_or(Finish::Length).name(),
            logprobs: self.logprobs.map(|_| logprobs),
            seconds,
            tokens_per_second: tokens.len() as f64 / seconds.max(1e-9),
        })
    }

    /// The settings of generation_config.json; the user is told of those that change the text.
    fn defaults(&self, base: &Base) -> Result<GenerationDefaults> {
        let defaults = GenerationDefaults::from_dir(&base.dir)?;
        let honoured = defaults.honoured(self.choice.draws());
        if !honoured.is_empty() {
            output::note(format_args!("generation_config.json: {}; options come before it", honoured.join(", ")));
        }
        if let Some(temperature) = defaults.sampling_temperature().filter(|_| !self.choice.is_told()) {
            output::note(format_args!(
                "generation_config.json draws tokens at random: --temperature {temperature} does as it says; without that the \
                 most likely token is taken"
            ));
        }
        if !defaults.not_honoured.is_empty() {
            output::warn(format_args!(
                "generation_config.json has {}, which this program does not do: the text is as without",
                defaults.not_honoured.join(", ")
            ));
        }
        Ok(defaults)
    }

    fn encode(&self, base: &Base, text: &Text) -> Result<Vec<u32>> {
        let ids = if self.chat {
            let template_kwargs = self.chat_template_kwargs.clone().unwrap_or_default();
            let chat = Conversation::new([Message::new("user", &self.prompt)]);
            text.encode_chat_prompt(&Conversation { template_kwargs, ..chat })?
        } else {
            text.tokenizer.encode(&self.prompt, true)?
        };
        // A text from nothing begins with the token that begins texts.
        let bos = || text.tokenizer.bos_token_id().or(base.model.config().bos_token_id);
        Ok(if ids.is_empty() { bos().into_iter().collect() } else { ids })
    }
}
