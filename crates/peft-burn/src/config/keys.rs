//! Reading a configuration key by key, so that every wrong key is reported at once.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The version of PEFT whose format is written.
pub const PEFT_VERSION: &str = "0.21.2";

/// A JSON object, in the order of its keys.
pub type Object = Map<String, Value>;

/// What came of reading an object.
pub(crate) struct Read<T> {
    /// The configuration: defaults, with the keys that could be read.
    pub config: T,
    /// A line for each key that is known but holds a value of the wrong kind.
    pub problems: Vec<String>,
    /// Keys that the method does not have.
    pub unknown: Vec<String>,
}

impl<T> Read<T> {
    /// The same with another kind of configuration.
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> Read<U> {
        Read { config: f(self.config), problems: self.problems, unknown: self.unknown }
    }
}

/// Reads `input` over the defaults of `T`.
pub(crate) fn read<T: Default + Serialize + DeserializeOwned>(input: Object) -> Read<T> {
    let defaults = object(&T::default());
    let mut merged = defaults.clone();
    let (mut problems, mut unknown) = (Vec::new(), Vec::new());
    for (key, value) in input {
        if !defaults.contains_key(&key) {
            unknown.push(key);
            continue;
        }
        // Alone among defaults: whatever serde then objects to is this key's fault.
        let mut alone = defaults.clone();
        alone.insert(key.clone(), value.clone());
        match serde_json::from_value::<T>(Value::Object(alone)) {
            Ok(_) => _ = merged.insert(key, value),
            Err(error) => problems.push(format!("{key} = {value}: {error}")),
        }
    }
    let config = serde_json::from_value(Value::Object(merged)).unwrap_or_default();
    Read { config, problems, unknown }
}

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

/// What Python takes for false: files of older versions write `{}` or `[]` where newer ones write `null`.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(values) => values.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    }
}
