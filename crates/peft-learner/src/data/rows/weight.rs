//! Keys of turns that tell whether they are learned.

use serde_json::{Map, Value};

/// Whether a turn is learned: OpenAI's `weight`, axolotl's `train` and `training`.
pub(super) fn weight(place: &str, role: &str, whole: bool, message: &mut Map<String, Value>) -> Result<bool, String> {
    let mut learned = true;
    for key in ["weight", "train", "training"] {
        let Some(value) = message.remove(key) else { continue };
        let says = match &value {
            Value::Bool(says) => Some(*says),
            Value::Number(number) if number.as_f64() == Some(0.0) => Some(false),
            Value::Number(number) if number.as_f64() == Some(1.0) => Some(true),
            Value::String(text) if text.is_empty() => continue,
            _ => None,
        };
        match says {
            None => {
                return Err(format!(
                    "`{place}.{key}` is {value}; it is 1 or true (learned) or 0 or false (not learned)"
                ));
            }
            Some(false) if whole => {
                return Err(format!(
                    "`{place}.{key}` is {value}, and assistant_only_loss = false in [data] learns all of a chat; take one of \
                     them out, or set ignore = [\"{key}\"] in [data]"
                ));
            }
            Some(true) if key != "weight" && role != "assistant" && !whole => {
                return Err(format!(
                    "`{place}.{key}` is true for a turn of `{role}`, and only what the assistant says is learned; set it to \
                     false, or assistant_only_loss = false in [data] to learn all turns"
                ));
            }
            Some(says) => learned &= says,
        }
    }
    Ok(learned || role != "assistant")
}
