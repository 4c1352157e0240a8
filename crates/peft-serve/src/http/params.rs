//! The parameters that chat and completions share.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};

use llama_burn::SamplingConfig;
use serde_json::Value;

use super::fields::Fields;
use super::{ApiError, App};

type Result<T> = std::result::Result<T, ApiError>;

/// The most choices of one request.
const MOST_CHOICES: usize = 64;
/// The most stop strings.
const MOST_STOPS: usize = 4;
/// The most alternatives of a token.
pub(super) const MOST_LOGPROBS: usize = 20;

/// The parameters that chat and completions share.
#[derive(Debug)]
pub(super) struct Params {
    /// As the client calls it.
    pub model: String,
    pub max_tokens: Option<usize>,
    pub sampling: SamplingConfig,
    pub stop: Vec<String>,
    pub choices: usize,
    pub stream: bool,
    pub include_usage: bool,
    pub ignore_eos: bool,
}

impl Params {
    /// Reads them; what is left of `fields` is the caller's.
    pub fn read(app: &App, fields: &mut Fields) -> Result<Self> {
        let model = fields.required("model")?;
        if model != app.base && !app.engine.store().knows(&model) {
            return Err(crate::ServeError::UnknownModel(model).into());
        }
        let most = fields.count("max_completion_tokens")?;
        let max_tokens = fields.count("max_tokens")?;
        let max_tokens = match (most, max_tokens) {
            (Some(a), Some(b)) if a != b => {
                let message = format!("`max_tokens` is {b} and `max_completion_tokens` {a}: give one of them");
                return Err(ApiError::field("max_tokens", message));
            }
            (a, b) => a.or(b),
        };
        let seed = fields.integer("seed")?.map_or_else(random, i64::cast_unsigned);
        let top_k = match fields.integer("top_k")? {
            // vLLM's "all".
            None | Some(-1) => 0,
            Some(k) => usize::try_from(k)
                .map_err(|_| ApiError::field("top_k", format!("`top_k` is {k}: give 1 or more, or -1")))?,
        };
        let sampling = SamplingConfig {
            temperature: fields.number("temperature")?.unwrap_or(1.0),
            top_k,
            top_p: fields.number("top_p")?.unwrap_or(1.0),
            min_p: fields.number("min_p")?.unwrap_or(0.0),
            repetition_penalty: fields.number("repetition_penalty")?.unwrap_or(1.0),
            frequency_penalty: fields.number("frequency_penalty")?.unwrap_or(0.0),
            presence_penalty: fields.number("presence_penalty")?.unwrap_or(0.0),
            logit_bias: logit_bias(fields)?,
            seed,
        };
        sampling.validate().map_err(|error| {
            let message = error.to_string();
            let names = [
                "temperature",
                "top_p",
                "min_p",
                "repetition_penalty",
                "frequency_penalty",
                "presence_penalty",
                "logit_bias",
            ];
            match names.iter().find(|name| message.contains(**name)) {
                Some(name) => ApiError::field(*name, message.clone()),
                None => ApiError::field("temperature", message.clone()),
            }
        })?;
        let choices = fields.count("n")?.unwrap_or(1);
        if choices == 0 || choices > MOST_CHOICES {
            return Err(ApiError::field("n", format!("`n` is {choices}: give 1 to {MOST_CHOICES}")));
        }
        let stream = fields.flag("stream")?;
        let include_usage = match fields.object("stream_options")? {
            None => false,
            Some(_) if !stream => {
                return Err(ApiError::field("stream_options", "`stream_options` goes with `stream: true`"));
            }
            Some(options) => {
                let mut options = Fields::of(options, "stream_options.");
                let include = options.flag("include_usage")?;
                options.finish()?;
                include
            }
        };
        // It says who asks, and changes nothing.
        fields.string("user")?;
        let ignore_eos = fields.flag("ignore_eos")?;
        Ok(Self { model, max_tokens, sampling, stop: stop(fields)?, choices, stream, include_usage, ignore_eos })
    }
}

/// A number for a request that brings none.
pub(super) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn stop(fields: &mut Fields) -> Result<Vec<String>> {
    let wrong =
        || ApiError::field("stop", format!("`stop` must be a string or up to {MOST_STOPS} of them, none empty"));
    let all = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => {
            let all: Option<Vec<_>> = all.into_iter().map(|one| one.as_str().map(str::to_owned)).collect();
            all.ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    if all.len() > MOST_STOPS || all.iter().any(String::is_empty) { Err(wrong()) } else { Ok(all) }
}

fn logit_bias(fields: &mut Fields) -> Result<BTreeMap<u32, f32>> {
    let mut all = BTreeMap::new();
    for (token, bias) in fields.object("logit_bias")?.unwrap_or_default() {
        let pair = token.parse::<u32>().ok().zip(bias.as_f64());
        let (token, bias) = pair.ok_or_else(|| {
            ApiError::field("logit_bias", format!("`logit_bias` has {token:?}: {bias}; give token ids and numbers"))
        })?;
        all.insert(token, bias as f32);
    }
    Ok(all)
}
