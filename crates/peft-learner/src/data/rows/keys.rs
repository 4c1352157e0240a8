//! Keys beside those of a row's shape: which are left unused, and which would change what is learned.

use serde_json::Value;

use crate::data::files::RawRow;

/// Keys of rows that say how much of a row is learned, or what else is.
const CHANGING: &[&str] = &[
    "weight",
    "weights",
    "sample_weight",
    "loss_weight",
    "loss_weights",
    "loss_mask",
    "completion_mask",
    "assistant_masks",
    "train",
    "train_detail",
    "system",
    "system_prompt",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
];
/// Columns that programs add by themselves, and that never mean anything here.
const SILENT: &[&str] = &["__index_level_0__"];

/// A value that says nothing: null, 1, true, an empty list or text.
pub(super) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() == Some(1.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(false) => false,
    }
}

/// Whether the value of a key that would change what is learned does not.
fn changes_nothing(key: &str, value: &Value) -> bool {
    // Words of a system may be a number; other keys' are numbers that a table has as text.
    if key.starts_with("system") { is_neutral(value) } else { is_neutral(&of_cell(value)) }
}

/// The keys that are left of a row: their names, for they are not used.
pub(super) fn left(row: RawRow) -> Result<Vec<String>, String> {
    let changes = |(key, value): &(&String, &Value)| CHANGING.contains(&key.as_str()) && !changes_nothing(key, value);
    if let Some((key, value)) = row.iter().find(changes) {
        let medium = ["image", "video", "audio"].iter().find(|medium| key.starts_with(**medium));
        return Err(match medium {
            Some(medium) => {
                format!(
                    "has `{key}`: this program learns from text alone; take the rows without {medium}s, or set ignore = [\"{key}\"] in [data]"
                )
            }
            None if key.starts_with("system") => format!(
                "`{key}` is not read beside rows like these: {}; put it into the prompt, write the row as `messages`, or set \
                 ignore = [\"{key}\"] in [data]",
                short(value)
            ),
            None => format!(
                "`{key}` is {}, which would change what is learned, and this program does not do so; take it out, or set \
                 ignore = [\"{key}\"] in [data]",
                short(value)
            ),
        });
    }
    // Unpaired preferences of TRL and LLaMA-Factory.
    for key in ["label", "kto_tag"] {
        if let Some(Value::Bool(good)) = row.get(key).map(of_cell) {
            return Err(format!(
                "`{key}` is {good}: rows of preferences, good and bad ones, from which this program does not learn; keep the \
                 rows whose {key} is true, and set ignore = [\"{key}\"] in [data]"
            ));
        }
    }
    Ok(row
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, _)| key)
        .filter(|key| !SILENT.contains(&key.as_str()))
        .collect())
}

/// A number or a truth value that a table has as text, as pandas reads it.
fn of_cell(value: &Value) -> Value {
    match value.as_str() {
        Some("True" | "TRUE" | "true") => true.into(),
        Some("False" | "FALSE" | "false") => false.into(),
        Some(text) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => number.into(),
            _ => value.clone(),
        },
        None => value.clone(),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
