//! `[data]`: which rows, how they are read, and how they become batches.

use std::path::PathBuf;

use peft_burn::reader::Section;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::data::{DataCache, RowOptions, RowTemplate, Source, Valid};

/// The data and how rows become batches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataConfig {
    /// The training rows: files, folders, patterns, data sets of the hub.
    #[serde(serialize_with = "one_or_several")]
    pub train: Vec<Source>,
    /// The validation rows.
    #[serde(serialize_with = "valid", skip_serializing_if = "Option::is_none")]
    pub valid: Option<Valid>,
    /// Longer rows are cut on the right, in tokens.
    pub max_length: usize,
    /// A new order of rows each epoch; otherwise file order.
    pub shuffle: bool,
    /// Several short rows in one, without leaking into each other.
    pub packing: bool,
    /// Whether the rows' tokens are kept for the next start, and where.
    #[serde(serialize_with = "cache", skip_serializing_if = "is_auto")]
    pub cache: DataCache,
    /// How rows are read.
    #[serde(flatten)]
    pub rows: RowOptions,
}

impl Default for DataConfig {
    /// No rows yet; everything else as in a configuration that does not say it.
    fn default() -> Self {
        Self {
            train: Vec::new(),
            valid: None,
            max_length: 512,
            shuffle: true,
            packing: false,
            cache: DataCache::Auto,
            rows: RowOptions::default(),
        }
    }
}

impl DataConfig {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        if !section.has("train") {
            section.problem("`data.train` is missing");
        }
        let train = section.get("train").map(|value| sources(value, "train", &mut section)).unwrap_or_default();
        let valid = section.get("valid").map(|value: Value| match value.as_f64() {
            Some(share) => {
                if !(share > 0.0 && share < 1.0) {
                    section.problem(format!(
                        "`data.valid` is {share}; as a share of the rows it must be above 0 and below 1"
                    ));
                }
                Valid::Share(share)
            }
            None => Valid::Sources(sources(value, "valid", &mut section)),
        });
        let config = Self {
            train,
            valid,
            max_length: section.or("max_length", default.max_length),
            shuffle: section.or("shuffle", default.shuffle),
            packing: section.or("packing", default.packing),
            cache: match section.get("cache") {
                None | Some(Value::Bool(true)) => DataCache::Auto,
                Some(Value::Bool(false)) => DataCache::Off,
                Some(Value::String(folder)) if !folder.is_empty() => DataCache::Folder(folder.into()),
                Some(other) => {
                    section.problem(format!("`data.cache` is {other}; it is true, false or a folder"));
                    DataCache::Auto
                }
            },
            rows: rows(&mut section),
        };
        config.rows.problems().into_iter().for_each(|problem| section.problem(problem));
        let valid = config
            .valid
            .iter()
            .flat_map(|valid| if let Valid::Sources(sources) = valid { sources.as_slice() } else { &[] });
        for source in config.train.iter().chain(valid) {
            let own = config.rows.clone().renaming(&source.columns);
            let problems = own.problems().into_iter().filter(|problem| problem.starts_with("`data.columns."));
            problems.for_each(|problem| section.problem(format!("{problem} (in the columns of `{}`)", source.path)));
        }
        section.finish();
        config
    }
}

fn sources(value: Value, key: &str, section: &mut Section<'_>) -> Vec<Source> {
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let mut sources = Vec::new();
    for value in list {
        let shown = value.to_string();
        match serde_json::from_value::<Source>(value) {
            Ok(Source { path, .. }) if path.is_empty() => section.problem(format!("`data.{key}` is empty")),
            Ok(Source { weight, .. }) if !(weight > 0.0 && weight.is_finite()) => {
                section.problem(format!("`data.{key}`: the weight {weight} must be above 0"));
            }
            Ok(source) => sources.push(source),
            Err(_) => section.problem(format!(
                "`data.{key}`: {shown} is no file; write \"rows.jsonl\", or {{ path = \"rows.jsonl\", weight = 2.0, columns = \
                 {{ text = \"body\" }} }}"
            )),
        }
    }
    sources
}

fn rows(section: &mut Section<'_>) -> RowOptions {
    let mut rows = RowOptions::default();
    rows.columns = section.or("columns", rows.columns);
    rows.roles = section.or("roles", rows.roles);
    rows.ignore = section.or("ignore", rows.ignore);
    rows.template = match section.get("template") {
        None => None,
        Some(Value::String(prompt)) => {
            Some(RowTemplate { prompt, prompt_no_input: None, completion: "{output}".to_string() })
        }
        Some(value) => section.parse("template", value),
    };
    rows.chat_template_kwargs = section.or("chat_template_kwargs", rows.chat_template_kwargs);
    rows.assistant_only_loss = section.or("assistant_only_loss", true);
    rows.completion_only_loss = section.or("completion_only_loss", true);
    rows
}

fn is_auto(cache: &DataCache) -> bool {
    *cache == DataCache::Auto
}

fn one_or_several<S: Serializer>(sources: &[Source], serializer: S) -> Result<S::Ok, S::Error> {
    match sources {
        [one] => one.serialize(serializer),
        several => several.serialize(serializer),
    }
}

fn valid<S: Serializer>(valid: &Option<Valid>, serializer: S) -> Result<S::Ok, S::Error> {
    match valid {
        None => serializer.serialize_none(),
        Some(Valid::Share(share)) => share.serialize(serializer),
        Some(Valid::Sources(sources)) => one_or_several(sources, serializer),
    }
}

fn cache<S: Serializer>(cache: &DataCache, serializer: S) -> Result<S::Ok, S::Error> {
    match cache {
        DataCache::Auto => true.serialize(serializer),
        DataCache::Off => false.serialize(serializer),
        DataCache::Folder(folder) => folder.serialize(serializer),
    }
}

impl DataConfig {
    /// Of one file to train on, perhaps one to evaluate on, and defaults.
    pub fn files(train: impl Into<PathBuf>, valid: Option<PathBuf>) -> Self {
        let valid = valid.map(|valid| Valid::Sources(vec![valid.into()]));
        Self { train: vec![train.into().into()], valid, ..Self::default() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::RunConfig;
    use crate::error::Result;

    fn parse(data: &str) -> Result<RunConfig> {
        let rest = "output = 'a'\n[model]\npath = 'b'\n[adapter]\npeft_type = 'LORA'\n";
        RunConfig::parse("run.toml", &format!("{rest}{data}"), &[])
    }

    #[test]
    fn what_a_file_says_of_rows_is_read_and_written_back() {
        let config = parse(
            r#"[data]
            train = ["a.jsonl", { path = "b/*.parquet", weight = 2.5 }]
            valid = 0.1
            cache = "tokens"
            ignore = ["id"]
            assistant_only_loss = false
            [data.columns]
            messages = "dialog"
            [data.roles]
            bot = "assistant"
            [data.chat_template_kwargs]
            enable_thinking = false
            [data.template]
            prompt = "{q}"
            completion = "{a}""#,
        )
        .unwrap();
        let data = &config.data;
        assert_eq!(data.train, [Source::from("a.jsonl"), Source { weight: 2.5, ..Source::from("b/*.parquet") }]);
        assert_eq!((&data.valid, &data.cache), (&Some(Valid::Share(0.1)), &DataCache::Folder("tokens".into())));
        assert_eq!((data.rows.columns["messages"].as_str(), data.rows.assistant_only_loss), ("dialog", false));
        assert_eq!(data.rows.chat_template_kwargs["enable_thinking"], false);
        assert_eq!(RunConfig::parse("again.toml", &config.to_toml().unwrap(), &[]).unwrap(), config);
        let short =
            parse("[data]\ntrain = 'a'\nvalid = ['b', 'c']\ncache = false\ntemplate = 'Q: {instruction}'").unwrap();
        assert_eq!(short.data.rows.template.as_ref().unwrap().completion, "{output}");
        assert_eq!(short.data.cache, DataCache::Off);
        assert_eq!(RunConfig::parse("again.toml", &short.to_toml().unwrap(), &[]).unwrap(), short);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problems = |data: &str| parse(data).unwrap_err().to_string();
        let text = problems(
            "[data]\ntrain = [3, '', {path = 'a', weight = 0}]\nvalid = 1.5\ncache = 7\ncolumns = { promt = 'x' }\ntemplate = '{a'",
        );
        for part in [
            "`data.train`: 3 is no file; write \"rows.jsonl\"",
            "`data.train` is empty",
            "the weight 0 must be above 0",
            "`data.valid` is 1.5; as a share",
            "`data.cache` is 7",
            "`data.columns.promt`: no column has the name `promt` here; the nearest is `prompt`",
            "`data.template`: a brace alone",
        ] {
            assert!(text.contains(part), "missing: {part}\nin: {text}");
        }
    }
}
