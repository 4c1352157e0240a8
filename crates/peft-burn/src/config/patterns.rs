//! `rank_pattern` and `alpha_pattern`: values for the modules whose path matches a pattern.

use std::fmt;
use std::marker::PhantomData;

use fancy_regex::Regex;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::modules::ModuleInfo;

/// Patterns with a value each, in their order: the first that matches a module path decides.
///
/// A pattern is a regular expression that must match the path's end, from its beginning or after a dot, as in PEFT:
/// `q_proj` and `layers.0.self_attn.q_proj` match `model.layers.0.self_attn.q_proj`, `proj` does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Patterns<T>(Vec<(String, T)>);

impl<T> Patterns<T> {
    /// The value of the first pattern that matches `path`.
    pub fn lookup(&self, path: &str) -> Option<&T> {
        self.0.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, value)| value)
    }

    /// The patterns that match none of `paths`.
    pub fn unmatched<'a>(&self, paths: impl IntoIterator<Item = &'a str> + Clone) -> Vec<&str> {
        let matches_none = |pattern: &str| !paths.clone().into_iter().any(|path| matches(pattern, path));
        self.0.iter().map(|(pattern, _)| pattern.as_str()).filter(|pattern| matches_none(pattern)).collect()
    }

    /// The patterns and their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(pattern, value)| (pattern.as_str(), value))
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The patterns of `rank_pattern` and `alpha_pattern` that match none of the adapted modules, with their keys.
pub(crate) fn unmatched_patterns(
    ranks: &Patterns<usize>,
    alphas: &Patterns<f64>,
    adapted: &[ModuleInfo],
) -> Vec<String> {
    let paths = adapted.iter().map(|module| module.path.as_str());
    let ranks = ranks.unmatched(paths.clone()).into_iter().map(|pattern| format!("rank_pattern: `{pattern}`"));
    let alphas = alphas.unmatched(paths).into_iter().map(|pattern| format!("alpha_pattern: `{pattern}`"));
    ranks.chain(alphas).collect()
}

/// The regular expression that decides whether `pattern` applies to a path.
pub(crate) fn compile(pattern: &str) -> Result<Regex, Box<fancy_regex::Error>> {
    Regex::new(&format!(r"\A(.*\.)?({pattern})\z")).map_err(Box::new)
}

/// A pattern that does not compile matches nothing; `validate` reports it.
fn matches(pattern: &str, path: &str) -> bool {
    compile(pattern).is_ok_and(|regex| regex.is_match(path).unwrap_or(false))
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, S: Into<String>> FromIterator<(S, T)> for Patterns<T> {
    fn from_iter<I: IntoIterator<Item = (S, T)>>(patterns: I) -> Self {
        Self(patterns.into_iter().map(|(pattern, value)| (pattern.into(), value)).collect())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table from pattern to number")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut patterns = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    patterns.push(entry);
                }
                Ok(Patterns(patterns))
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_decides_and_a_match_starts_at_a_dot() {
        let patterns: Patterns<usize> =
            [(r"layers\.[01]\..*", 2), ("q_proj", 4), ("^model.norm", 8)].into_iter().collect();
        assert_eq!(patterns.lookup("model.layers.1.self_attn.q_proj"), Some(&2));
        assert_eq!(patterns.lookup("model.layers.2.self_attn.q_proj"), Some(&4));
        assert_eq!(patterns.lookup("model.layers.2.self_attn.seq_proj"), None);
        assert_eq!(patterns.lookup("q_proj"), Some(&4));
        assert_eq!(patterns.lookup("model.norm"), Some(&8));
        assert_eq!(patterns.unmatched(["model.layers.0.mlp.up_proj"]), ["q_proj", "^model.norm"]);
    }

    #[test]
    fn order_survives_json() {
        let text = r#"{"z":1,"a":2,"m":3}"#;
        let patterns: Patterns<usize> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&patterns).unwrap(), text);
    }
}
