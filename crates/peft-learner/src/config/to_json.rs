//! TOML as JSON, in which the keys of adapters and the arguments of chat templates are told.

use serde_json::{Map, Value};
use toml::Table;

/// The same table in JSON. A date becomes its text, and so does NaN or infinity, which JSON cannot say: whoever asks for a
/// number refuses it.
pub(super) fn table(table: Table) -> Map<String, Value> {
    table.into_iter().map(|(key, value)| (key, json(value))).collect()
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) if number.is_finite() => number.into(),
        toml::Value::Float(number) => Value::String(number.to_string()),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(inner) => Value::Object(table(inner)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_json_cannot_say_becomes_text() {
        let root = toml::from_str("a = nan\nb = [-inf, 1]\n[c]\nd = 2026-01-02\ne = 0.5").unwrap();
        let expected = serde_json::json!({"a": "NaN", "b": ["-inf", 1], "c": {"d": "2026-01-02", "e": 0.5}});
        assert_eq!(Value::Object(table(root)), expected);
    }
}
