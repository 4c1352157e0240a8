//! Values as Python writes them: `str()`, `repr()` and `json.dumps`.

use std::fmt::Write;

use minijinja::Value;
use minijinja::value::{Tuple, ValueKind};
use serde_json::Value as Json;

/// `str(value)`.
pub(super) fn printed(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        ValueKind::Undefined => String::new(),
        _ => repr(value),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> String {
    let all = |values: Vec<String>, open: &str, close: &str| format!("{open}{}{close}", values.join(", "));
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => (if value.is_true() { "True" } else { "False" }).into(),
        ValueKind::String if value.is_safe() => format!("Markup({})", quoted(value.as_str().unwrap_or_default())),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Undefined => "Undefined".into(),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => {
            let items: Vec<String> = value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect();
            let close = if items.len() == 1 { ",)" } else { ")" };
            all(items, "(", close)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            all(value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect(), "[", "]")
        }
        ValueKind::Map => {
            let item = |key: Value| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default()));
            all(value.try_iter().into_iter().flatten().map(item).collect(), "{", "}")
        }
        _ => value.to_string(),
    }
}

/// A string in single quotes, or in double quotes where it holds single ones only.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut result = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            '\\' => result.push_str("\\\\"),
            same if same == quote => result.extend(['\\', quote]),
            hidden if !is_printable(hidden) => {
                let _ = match hidden as u32 {
                    code @ ..=0xff => write!(result, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(result, "\\u{code:04x}"),
                    code => write!(result, "\\U{code:08x}"),
                };
            }
            other => result.push(other),
        }
    }
    result.push(quote);
    result
}

/// `str.isprintable()` of one character: neither white space, but for the space, nor without a shape.
pub(super) fn is_printable(c: char) -> bool {
    // Rust writes the same characters as they are, but for quotes, and for accents that begin a text.
    matches!(c, '\\' | '"') || !format!("{:?}", String::from_iter(['a', c])).contains('\\')
}

/// `str.isspace()` of one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The shortest decimal that is this number, with an exponent where Python has one.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() || number.is_infinite() {
        return number.to_string().to_lowercase();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number:?}")
}

/// `json.dumps` with its options.
pub(super) struct Dump {
    pub indent: Option<usize>,
    pub ensure_ascii: bool,
    pub sort_keys: bool,
    /// Between items, and between key and value.
    pub separators: Option<(String, String)>,
}

impl Dump {
    /// The JSON of `value`.
    pub fn write(&self, value: &Json) -> String {
        let mut out = String::new();
        self.value(&mut out, value, 0);
        out
    }

    fn value(&self, out: &mut String, value: &Json, depth: usize) {
        match value {
            Json::Array(items) => {
                self.list(out, ['[', ']'], items, depth, |out, item| self.value(out, item, depth + 1))
            }
            Json::Object(map) => {
                let mut pairs: Vec<(&String, &Json)> = map.iter().collect();
                if self.sort_keys {
                    pairs.sort_by_key(|(key, _)| *key);
                }
                let colon = self.separators.as_ref().map_or(": ", |(_, colon)| colon);
                self.list(out, ['{', '}'], &pairs, depth, |out, (key, value)| {
                    self.string(out, key);
                    out.push_str(colon);
                    self.value(out, value, depth + 1);
                });
            }
            Json::String(text) => self.string(out, text),
            Json::Number(number) if number.is_f64() => out.push_str(&float(number.as_f64().unwrap_or_default())),
            other => out.push_str(&other.to_string()),
        }
    }

    fn list<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        item: impl Fn(&mut String, &T),
    ) {
        let line = |out: &mut String, depth: usize| {
            if let Some(width) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        let comma = match (&self.separators, self.indent) {
            (Some((comma, _)), _) => comma,
            (None, Some(_)) => ",",
            (None, None) => ", ",
        };
        out.push(open);
        for (at, one) in items.iter().enumerate() {
            if at > 0 {
                out.push_str(comma);
            }
            line(out, depth + 1);
            item(out, one);
        }
        if !items.is_empty() {
            line(out, depth);
        }
        out.push(close);
    }

    fn string(&self, out: &mut String, text: &str) {
        let json = Json::from(text).to_string();
        if !self.ensure_ascii {
            return out.push_str(&json);
        }
        for character in json.chars() {
            if character.is_ascii() && character != '\x7f' {
                out.push(character);
            } else {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_in_python() {
        let value = Value::from(minijinja::value::Serde(json!({"a": [1, 2.0, true, null, "it's"], "b": "x\n"})));
        assert_eq!(repr(&value), r#"{'a': [1, 2.0, True, None, "it's"], 'b': 'x\n'}"#);
        let numbers = [1e16, 1.5e-7, 0.0001, 123456789.25, 0.0];
        assert_eq!(numbers.map(float).join(" "), "1e+16 1.5e-07 0.0001 123456789.25 0.0");
    }

    #[test]
    fn json_is_that_of_python() {
        let dump =
            Dump { indent: None, ensure_ascii: true, sort_keys: true, separators: Some((",".into(), ":".into())) };
        assert_eq!(dump.write(&json!({"b": "é🦀", "a": [1.0, {}]})), r#"{"a":[1.0,{}],"b":"\u00e9\ud83e\udd80"}"#);
        let dump = Dump { indent: Some(4), ensure_ascii: false, sort_keys: false, separators: None };
        assert_eq!(
            dump.write(&json!({"b": [1, "é"], "a": []})),
            "{\n    \"b\": [\n        1,\n        \"é\"\n    ],\n    \"a\": []\n}"
        );
    }
}
