//! Numbers as PEFT writes them.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Patterns;

/// Writes 8 for 8.0, as PEFT does for the integers that users give; 0.5 stays 0.5.
pub(crate) fn whole_as_integer<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    number(*value).serialize(serializer)
}

pub(crate) fn whole_values_as_integers<S: Serializer>(
    patterns: &Patterns<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(patterns.iter().map(|(pattern, &value)| (pattern, number(value))))
}

fn number(value: f64) -> Value {
    let whole = value.fract() == 0.0 && value.abs() < 2f64.powi(53);
    if whole { Value::from(value as i64) } else { Value::from(value) }
}
