//! JSON of which nothing is lost: a key that is there twice is an error, where others let the last one win.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The value that `text` holds, or what is wrong with it.
pub(super) fn parse(text: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| problem(text, &error))
}

/// serde_json says `at line 1 column 7` of what is one line of many.
fn problem(text: &[u8], error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let at = match error.line() {
        0 | 1 => format!("at column {}", error.column()),
        line => format!("at its line {line}, column {}", error.column()),
    };
    if error.is_data() {
        // A refusal of this reader's own comes without serde's words around it.
        return message.to_string();
    }
    let line = text.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let from = &line[error.column().saturating_sub(3).min(line.len())..];
    let number = ["-NaN", "NaN", "-Infinity", "Infinity", "nan", "inf"]
        .into_iter()
        .find(|word| (0..3).any(|skip| from.get(skip..).is_some_and(|rest| rest.starts_with(word.as_bytes()))));
    if let Some(number) = number {
        return format!("not JSON: {number} {at}, which JSON does not have; write null in its place");
    }
    if message.contains("recursion limit") {
        return format!("nested deeper than 127 levels {at}; take out what is nested so deeply, or write it as text");
    }
    if message.starts_with("EOF") {
        return format!("not JSON: it ends {at}, inside a value; it may have been cut short");
    }
    if message.starts_with("invalid unicode code point") {
        return format!("not UTF-8 {at}; save the file as UTF-8");
    }
    format!("not JSON: {message} {at}")
}

/// A value without doubled keys.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Self)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` is there twice; take one of them out")));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_any_reader() {
        let text = r#"{"b": [1, -2, 0.5, true, null, "größe \u00e9\n"], "a": {"c": {}, "d": 18446744073709551615}, "e": 1e400}"#;
        let without = text.replace(", \"e\": 1e400", "");
        assert_eq!(parse(without.as_bytes()).unwrap(), serde_json::from_str::<Value>(&without).unwrap());
        assert!(parse(text.as_bytes()).unwrap_err().contains("out of range"));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_out() {
        let error = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(error(r#"{"a": 1, "a": 2}"#), "the key `a` is there twice; take one of them out");
        assert!(
            error(r#"{"m": [{"role": "user", "content": "a", "content": "b"}]}"#).contains("`content` is there twice")
        );
        for number in ["NaN", "Infinity", "-Infinity"] {
            assert!(error(&format!(r#"{{"a": [1, {number}]}}"#)).contains(&format!("{number} at column")), "{number}");
        }
        assert!(error(r#"{"a": "b"#).contains("it may have been cut short"));
        assert!(error(&format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200))).contains("nested deeper than"));
        assert!(parse(b"{\"a\": \"gr\xf6\"}").unwrap_err().contains("save the file as UTF-8"));
        assert_eq!(error("{\"a\": 1} x"), "not JSON: trailing characters at column 10");
    }
}
