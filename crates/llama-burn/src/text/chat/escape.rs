//! Jinja's filters that escape text: `e`, `forceescape` and `urlencode`.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::python::printed;

/// Filter `e` or `escape`: text that is not marked as safe, as HTML.
pub(super) fn escape(value: &Value) -> Value {
    if value.is_safe() { value.clone() } else { force_escape(value) }
}

/// Filter `forceescape`.
pub(super) fn force_escape(value: &Value) -> Value {
    let mut safe = String::new();
    for c in printed(value).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '\'' => safe.push_str("&#39;"),
            '"' => safe.push_str("&#34;"),
            other => safe.push(other),
        }
    }
    Value::from_safe_string(safe)
}

/// Filter `urlencode`: of a text, or of a dict or pairs as a query.
pub(super) fn urlencode(value: &Value) -> Result<String, Error> {
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => {
            value.try_iter()?.map(|key| value.get_item(&key).map(|item| (key, item))).collect::<Result<_, _>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()?
            .map(|pair| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?)))
            .collect::<Result<_, Error>>()?,
        _ => return Ok(quoted(&printed(value), "/")),
    };
    let part = |value: &Value| quoted(&printed(value), "").replace("%20", "+");
    Ok(pairs.iter().map(|(key, item)| format!("{}={}", part(key), part(item))).collect::<Vec<_>>().join("&"))
}

fn quoted(text: &str, safe: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) || safe.as_bytes().contains(&byte);
    text.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
