//! JSON that is sound down to each string and number.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Any value. Unlike `IgnoredAny`, for which serde_json passes over escapes in strings and sizes of numbers, it is read to the
/// last character; nothing of it is kept.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// Checks that `json` is JSON throughout.
///
/// # Errors
/// serde_json's error, with line and column.
pub(super) fn check(json: &[u8]) -> serde_json::Result<()> {
    serde_json::from_slice::<Sound>(json).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_numbers_are_read_to_the_end() {
        for sound in ["null", "[1, -2, 0.5, true, \"\\ud83d\\ude00\"]", "{\"a\": {\"b\": [[]]}}"] {
            assert!(check(sound.as_bytes()).is_ok(), "{sound}");
        }
        for broken in ["\"\\ud800\"", "{\"\\udc00\": 1}", "[1e999]", "{\"a\": \"\\x\"}", "[1,", "1 2", "\"\u{1}\""] {
            assert!(check(broken.as_bytes()).is_err(), "{broken}");
        }
        assert!(check(&[b'"', 0xff, b'"']).is_err());
        assert!(check("[".repeat(100_000).as_bytes()).is_err());
    }
}
