//! A model's own settings of how its text is made: `generation_config.json`.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{LlamaError, Result};

/// Transformers' `top_k` where tokens are drawn and nothing else is said.
const TOP_K: usize = 50;

/// Keys that would change a text and that nothing here honours, with the values that change nothing beside null, false and
/// what is empty.
const NOT_HONOURED: &[(&str, f64)] = &[
    ("num_beams", 1.0),
    ("num_return_sequences", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("max_time", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("bad_words_ids", 0.0),
    ("suppress_tokens", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("sequence_bias", 0.0),
    ("forced_bos_token_id", f64::NAN),
    ("forced_eos_token_id", f64::NAN),
    ("force_words_ids", 0.0),
    ("constraints", 0.0),
    ("exponential_decay_length_penalty", 0.0),
    ("penalty_alpha", 0.0),
    ("guidance_scale", 1.0),
    ("watermarking_config", 0.0),
    ("dola_layers", f64::NAN),
    ("token_healing", 0.0),
];
/// Those that count only where tokens are drawn.
const NOT_HONOURED_IN_DRAWING: &[(&str, f64)] =
    &[("typical_p", 1.0), ("top_h", 1.0), ("epsilon_cutoff", 0.0), ("eta_cutoff", 0.0)];

/// The settings of `generation_config.json`, which hold where nobody asks for anything else; the tokens that end a text are in
/// [`StopTokens`](crate::StopTokens).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationDefaults {
    /// Whether tokens are drawn at random; otherwise the most likely one is taken, and what shapes the draw counts for nothing.
    pub do_sample: bool,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Choose among so many; 0 is all.
    pub top_k: Option<usize>,
    /// Choose among the fewest whose probabilities reach it.
    pub top_p: Option<f32>,
    /// The least share of the most likely one's probability.
    pub min_p: Option<f32>,
    /// Above 1, tokens of the text so far become less likely.
    pub repetition_penalty: Option<f32>,
    /// At most so many new tokens.
    pub max_new_tokens: Option<usize>,
    /// At most so many tokens, the prompt's included.
    pub max_length: Option<usize>,
    /// Strings that end a text.
    pub stop_strings: Vec<String>,
    /// Settings that would change a text and are not honoured, as `key = value`.
    pub not_honoured: Vec<String>,
}

impl GenerationDefaults {
    /// Those of a model directory; without the file, and for a GGUF file, none.
    ///
    /// # Errors
    /// [`LlamaError::Io`], [`LlamaError::Json`], and [`LlamaError::Config`] with every value of a wrong kind.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join("generation_config.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(LlamaError::io(&path)(error)),
        };
        let object: Map<String, Value> = serde_json::from_slice(&bytes).map_err(LlamaError::json(&path))?;
        Self::read(&object).map_err(|problems| LlamaError::Config { path, problems })
    }

    fn read(object: &Map<String, Value>) -> Result<Self, Vec<String>> {
        let mut keys = Values { object, problems: Vec::new() };
        let mut found = Self {
            do_sample: keys.read("do_sample", "true or false", Value::as_bool).unwrap_or(false),
            temperature: keys.number("temperature"),
            top_k: keys.read("top_k", "a whole number", |v| usize::try_from(v.as_i64()?.max(0)).ok()),
            top_p: keys.number("top_p"),
            min_p: keys.number("min_p"),
            repetition_penalty: keys.number("repetition_penalty"),
            max_new_tokens: keys.count("max_new_tokens"),
            max_length: keys.count("max_length"),
            stop_strings: keys.read("stop_strings", "a string or a list of them", strings).unwrap_or_default(),
            not_honoured: Vec::new(),
        };
        if !keys.problems.is_empty() {
            return Err(keys.problems);
        }
        let drawing = if found.do_sample { NOT_HONOURED_IN_DRAWING } else { &[] };
        let changing = NOT_HONOURED.iter().chain(drawing).filter_map(|(key, neutral)| {
            let value = object.get(*key)?;
            (!changes_nothing(value, *neutral)).then(|| format!("{key} = {value}"))
        });
        found.not_honoured = changing.collect();
        Ok(found)
    }

    /// The temperature that the file draws tokens with; `None` where it takes the most likely one.
    pub fn sampling_temperature(&self) -> Option<f32> {
        self.do_sample.then(|| self.temperature.unwrap_or(1.0))
    }

    /// Among how many tokens is drawn, where nobody asks for another number: with `do_sample` 50, as in Transformers, and else all.
    pub fn top_k(&self) -> usize {
        self.top_k.unwrap_or(if self.do_sample { TOP_K } else { 0 })
    }

    /// The settings that change a text, as `key = value`; those that shape a draw only if tokens are `drawn`.
    pub fn honoured(&self, drawn: bool) -> Vec<String> {
        let drawn = |text: String| drawn.then_some(text);
        let top_k = self.top_k();
        let number = |key: &str, value: Option<f32>, neutral: f32| {
            value.filter(|value| *value != neutral).map(|value| format!("{key} = {value}"))
        };
        let parts = [
            (top_k > 0).then(|| format!("top_k = {top_k}")).and_then(drawn),
            number("top_p", self.top_p, 1.0).and_then(drawn),
            number("min_p", self.min_p, 0.0).and_then(drawn),
            number("repetition_penalty", self.repetition_penalty, 1.0),
            self.max_new_tokens.map(|count| format!("max_new_tokens = {count}")),
            self.max_length.map(|count| format!("max_length = {count}")),
            (!self.stop_strings.is_empty()).then(|| format!("stop_strings = {}", json!(self.stop_strings))),
        ];
        parts.into_iter().flatten().collect()
    }
}

/// The values of the file, and what is wrong with them.
struct Values<'a> {
    object: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Values<'_> {
    fn read<T>(&mut self, key: &str, kind: &str, of: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        let found = of(value);
        if found.is_none() {
            self.problems.push(format!("{key}: must be {kind}, but is {value}"));
        }
        found
    }

    fn number(&mut self, key: &str) -> Option<f32> {
        self.read(key, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    fn count(&mut self, key: &str) -> Option<usize> {
        self.read(key, "a whole number", |value| usize::try_from(value.as_u64()?).ok())
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(all) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn changes_nothing(value: &Value, neutral: f64) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(neutral),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(text: &str) -> Result<GenerationDefaults> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
        GenerationDefaults::from_dir(dir.path())
    }

    #[test]
    fn what_shapes_the_draw_counts_where_tokens_are_drawn() {
        let llama3 = read(r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2]}"#).unwrap();
        assert_eq!((llama3.sampling_temperature(), llama3.top_k(), llama3.top_p), (Some(0.6), 50, Some(0.9)));
        assert_eq!(llama3.honoured(true), ["top_k = 50", "top_p = 0.9"]);
        assert!(llama3.honoured(false).is_empty());
        let greedy = read(r#"{"temperature": 0.6, "top_p": 0.9, "typical_p": 0.5}"#).unwrap();
        assert_eq!((greedy.sampling_temperature(), greedy.top_k(), greedy.top_p), (None, 0, Some(0.9)));
        assert!(greedy.honoured(false).is_empty() && greedy.not_honoured.is_empty());
        let none = GenerationDefaults::from_dir("nowhere").unwrap();
        assert_eq!((none.sampling_temperature(), none.honoured(true).len()), (None, 0));
    }

    #[test]
    fn what_is_not_honoured_is_named_unless_it_changes_nothing() {
        let neutral = r#"{"num_beams": 1, "no_repeat_ngram_size": 0, "suppress_tokens": [], "bad_words_ids": null,
            "guidance_scale": 1.0, "forced_eos_token_id": null, "token_healing": false, "use_cache": true, "min_length": 0}"#;
        assert!(read(neutral).unwrap().not_honoured.is_empty());
        let changing = r#"{"no_repeat_ngram_size": 3, "min_new_tokens": 5, "suppress_tokens": [7], "begin_suppress_tokens": [1],
            "bad_words_ids": [[4]], "forced_eos_token_id": 0, "typical_p": 0.5, "do_sample": true}"#;
        let expected = [
            "min_new_tokens = 5",
            "no_repeat_ngram_size = 3",
            "bad_words_ids = [[4]]",
            "suppress_tokens = [7]",
            "begin_suppress_tokens = [1]",
            "forced_eos_token_id = 0",
            "typical_p = 0.5",
        ];
        assert_eq!(read(changing).unwrap().not_honoured, expected);
    }

    #[test]
    fn values_of_a_wrong_kind_are_all_named() {
        let error =
            read(r#"{"temperature": "hot", "max_new_tokens": -1, "stop_strings": [3]}"#).unwrap_err().to_string();
        for part in
            ["temperature: must be a number, but is \"hot\"", "max_new_tokens: must be", "stop_strings: must be"]
        {
            assert!(error.contains(part), "{error}");
        }
    }
}
