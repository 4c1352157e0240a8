//! `[adapter]`: PEFT's own keys, or the directory of an adapter.

use std::path::PathBuf;

use peft_burn::PeftConfig;
use peft_burn::reader::Section;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Result;

/// Where the adapter comes from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AdapterSource {
    /// A fresh one, from the keys of PEFT's adapter_config.json.
    Config(Map<String, Value>),
    /// The weights and the configuration of an adapter directory.
    From(PathBuf),
}

impl AdapterSource {
    /// The configuration of the adapter; of a directory its own.
    ///
    /// # Errors
    /// Keys or values that are no adapter's, and a directory that cannot be read.
    pub fn peft_config(&self) -> Result<PeftConfig> {
        Ok(match self {
            Self::Config(map) => PeftConfig::from_map(map.clone())?,
            Self::From(dir) => PeftConfig::from_dir(dir)?.0,
        })
    }

    /// The keys are PEFT's and checked against the method they belong to, not here.
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let from = section.text("from");
        let keys = section.rest();
        let source = match from {
            Some(from) => {
                if !keys.is_empty() {
                    let keys: Vec<_> = keys.keys().map(|key| format!("`{key}`")).collect();
                    section.problem(format!(
                        "`adapter.from` brings its own configuration, so {} cannot stand beside it",
                        keys.join(", ")
                    ));
                }
                Self::From(from.into())
            }
            None => {
                if keys.is_empty() {
                    section.problem(
                        "[adapter] is missing; it needs PEFT's keys, such as `peft_type = \"LORA\"`, or `from`",
                    );
                }
                Self::Config(keys)
            }
        };
        section.finish();
        source
    }
}

/// A `null`, which TOML cannot say, is an absent key: to PEFT the two mean the same.
impl Serialize for AdapterSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Config(map) => without_nulls(map).serialize(serializer),
            Self::From(path) => serializer.collect_map([("from", path)]),
        }
    }
}

fn without_nulls(map: &Map<String, Value>) -> Map<String, Value> {
    let kept = map.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(key, value)| match value {
        Value::Object(inner) => (key.clone(), Value::Object(without_nulls(inner))),
        other => (key.clone(), other.clone()),
    })
    .collect()
}
