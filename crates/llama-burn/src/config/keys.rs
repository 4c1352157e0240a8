//! The values that a `config.json` holds: sizes, numbers, flags and token ids.

use std::fmt::Display;

use peft_burn::Object;
use peft_burn::reader::Section;
use serde_json::Value;

/// The largest size taken at its word: beyond any model, and products of sizes stay within 128 bits.
const MAX_SIZE: u64 = 1 << 28;

/// An object being read. A getter notes what is wrong and returns a stand-in, so that reading goes on and all problems
/// are reported together.
pub(super) struct Keys<'r>(pub Section<'r>);

impl Keys<'_> {
    /// The keys of an object within this one, which stands under `key`.
    pub fn inner(&mut self, key: &str, object: Object) -> Keys<'_> {
        Keys(self.0.inner(key, object))
    }

    /// The value of `key`; null counts as absent.
    pub fn get(&mut self, key: &str) -> Option<Value> {
        self.0.get(key)
    }

    /// Whether `key` is there with null.
    pub fn is_null(&mut self, key: &str) -> bool {
        self.0.raw(key).is_some_and(|value| value.is_null())
    }

    pub fn problem(&mut self, key: &str, message: impl Display) {
        let problem = format!("{}: {message}", self.0.path(key));
        self.0.problem(problem);
    }

    /// A size: a whole number from 1 to [`MAX_SIZE`].
    pub fn size(&mut self, key: &str, default: Option<usize>) -> usize {
        match (self.get(key), default) {
            (None, Some(default)) => return default,
            (None, None) => self.problem(key, "is missing"),
            (Some(value), _) => match value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)) {
                Some(size) => return size as usize,
                None => self.problem(key, format_args!("must be a whole number from 1 to {MAX_SIZE}, but is {value}")),
            },
        }
        1
    }

    /// A size that null takes away and that is `default` where the key is absent.
    pub fn size_or_none(&mut self, key: &str, default: Option<usize>) -> Option<usize> {
        if self.is_null(key) {
            return None;
        }
        self.get(key).map_or(default, |_| Some(self.size(key, None)))
    }

    /// A number above zero.
    pub fn positive(&mut self, key: &str, default: Option<f64>) -> f64 {
        match (self.get(key), default) {
            (None, Some(default)) => return default,
            (None, None) => self.problem(key, "is missing"),
            (Some(value), _) => match value.as_f64().filter(|&x| x > 0.0 && x.is_finite()) {
                Some(number) => return number,
                None => self.problem(key, format_args!("must be a number above 0, but is {value}")),
            },
        }
        1.0
    }

    /// A number above zero that null takes away and that is `default` where the key is absent.
    pub fn positive_or_none(&mut self, key: &str, default: Option<f64>) -> Option<f64> {
        if self.is_null(key) {
            return None;
        }
        self.get(key).map_or(default, |_| Some(self.positive(key, None)))
    }

    /// Numbers above zero, of which there are `len`.
    pub fn positives(&mut self, key: &str, len: usize) -> Vec<f64> {
        let Some(value) = self.get(key) else {
            self.problem(key, "is missing");
            return Vec::new();
        };
        let number = |v: &Value| v.as_f64().filter(|&x| x > 0.0 && x.is_finite());
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(number).collect());
        match numbers {
            Some(numbers) if numbers.len() == len => numbers,
            Some(numbers) => {
                self.problem(
                    key,
                    format_args!("must be {len} numbers, one for each pair that turns, but is {}", numbers.len()),
                );
                Vec::new()
            }
            None => {
                self.problem(key, "must be a list of numbers above 0");
                Vec::new()
            }
        }
    }

    /// A probability below 1, which is 0 unless set.
    pub fn probability(&mut self, key: &str) -> f64 {
        let Some(value) = self.get(key) else { return 0.0 };
        value.as_f64().filter(|p| (0.0..1.0).contains(p)).unwrap_or_else(|| {
            self.problem(key, format_args!("is {value}; it is a probability, from 0 to below 1"));
            0.0
        })
    }

    /// A flag.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        let Some(value) = self.get(key) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.problem(key, format_args!("must be true or false, but is {value}"));
            default
        })
    }

    /// Token ids: `None` for an absent key, empty for null. Old configs write -1 for a token they do not have.
    pub fn ids(&mut self, key: &str) -> Option<Vec<u32>> {
        let value = self.0.raw(key)?;
        let values = match &value {
            Value::Null => &[],
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        for id in values {
            match id.as_i64() {
                Some(-1) => {}
                Some(number) if u32::try_from(number).is_ok() => ids.push(number as u32),
                _ => self.problem(key, format_args!("must be a token id or a list of them, but is {value}")),
            }
        }
        Some(ids)
    }

    /// Notes a problem where `key` has a value that is not `accepted`.
    pub fn require(&mut self, key: &str, accepted: impl Fn(&Value) -> bool, message: &str) {
        if let Some(value) = self.get(key).filter(|value| !accepted(value)) {
            self.problem(key, format_args!("is {value}; {message}"));
        }
    }

    /// The object under `key`.
    pub fn object(&mut self, key: &str) -> Option<Object> {
        match self.get(key)? {
            Value::Object(object) => Some(object),
            value => {
                self.problem(key, format_args!("must be an object, but is {value}"));
                None
            }
        }
    }
}
