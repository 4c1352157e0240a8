//! A configuration as an object of keys, and the keys of PEFT that are kept as they are.

use serde::Serialize;
use serde_json::{Map, Value};

/// The version of PEFT whose format is written.
pub const PEFT_VERSION: &str = "0.21.2";

/// A JSON object, in the order of its keys.
pub type Object = Map<String, Value>;

/// `config` as a JSON object.
pub(crate) fn object<T: Serialize>(config: &T) -> Object {
    match serde_json::to_value(config) {
        Ok(Value::Object(object)) => object,
        // Configurations are structs of plain values: they always become objects.
        _ => Object::new(),
    }
}

/// PEFT's keys that this crate keeps as they are: notes such as `peft_version`, and features it does not implement.
///
/// They are there so that a file that was read and written again is the same file. A value that turns such a feature
/// on is refused by `validate`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct OtherKeys(Object);

impl OtherKeys {
    pub(crate) fn new(features: &[(&str, Value)]) -> Self {
        let notes = [
            ("auto_mapping", Value::Null),
            ("inference_mode", Value::Bool(true)),
            ("peft_version", Value::from(PEFT_VERSION)),
            ("revision", Value::Null),
        ];
        Self(notes.iter().chain(features).map(|(key, value)| (key.to_string(), value.clone())).collect())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Puts `value` in the place of what `key` holds.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// A line for each of `features` that is switched on.
    pub(crate) fn problems(&self, features: &[(&str, Value)]) -> Vec<String> {
        let on = |key: &str, default: &Value| self.get(key).filter(|value| *value != default && !is_off(value));
        features
            .iter()
            .filter_map(|(key, default)| on(key, default).map(|value| (key, default, value)))
            .map(|(key, default, value)| format!("{key} = {value} is not supported; leave it at {default}"))
            .collect()
    }
}

/// Whether Python takes the value for false: files of older versions write `{}` or `[]` where newer ones write `null`.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(values) => values.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    }
}
