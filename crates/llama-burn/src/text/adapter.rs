//! Files of text that lie in an adapter's folder: trainers save the tokenizer and the template beside the weights.

use std::path::Path;

use super::chat::ChatTemplate;
use super::encode::Text;
use super::stop::StopTokens;
use super::tokenizer::Tokenizer;
use crate::error::{LlamaError, Result};

/// The files of a tokenizer.
pub(crate) const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];
/// The files of a chat template beside the tokenizer's.
pub(crate) const TEMPLATE: &[&str] = &["chat_template.jinja", "chat_template.json"];

/// The files of text in the folder `adapter` that are not those of the folder `base`; they take the base's place.
///
/// # Errors
/// [`LlamaError::Io`].
pub(crate) fn own_files(base: &Path, adapter: &Path) -> Result<Vec<&'static str>> {
    let read = |path: &Path| match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LlamaError::io(path)(error)),
    };
    // Without a tokenizer of its own a folder's settings of one have no meaning; a template among them has.
    let settings = adapter.join("tokenizer.json").exists() || adapter.join("tokenizer.model").exists();
    let template =
        || read(&adapter.join("tokenizer_config.json")).map(|json| json.is_some_and(|json| has_template(&json)));
    let tokenizer: &[&str] = match settings {
        true => TOKENIZER,
        false if template()? => &["tokenizer_config.json"],
        false => &[],
    };
    let mut own = Vec::new();
    for name in tokenizer.iter().chain(TEMPLATE) {
        if let Some(bytes) = read(&adapter.join(name))?
            && read(&base.join(name))?.as_ref() != Some(&bytes)
        {
            own.push(*name);
        }
    }
    Ok(own)
}

fn has_template(tokenizer_config: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(tokenizer_config)
        .is_ok_and(|config| config.contains_key("chat_template"))
}

impl Text {
    /// The files of tokenizer and template in the folder `adapter` that are not those of the folder `base`.
    ///
    /// # Errors
    /// [`LlamaError::Io`].
    pub fn own_files(base: impl AsRef<Path>, adapter: impl AsRef<Path>) -> Result<Vec<&'static str>> {
        own_files(base.as_ref(), adapter.as_ref())
    }

    /// This text with the tokenizer and the chat template of an adapter's folder in their places; `None` where the adapter
    /// has none of its own. `base` is this text's folder.
    ///
    /// # Errors
    /// As [`Self::take_from_adapter`].
    pub fn of_adapter(&self, base: impl AsRef<Path>, adapter: impl AsRef<Path>) -> Result<Option<Self>> {
        let (base, adapter) = (base.as_ref(), adapter.as_ref());
        if own_files(base, adapter)?.is_empty() {
            return Ok(None);
        }
        let mut own = self.clone();
        own.take_from_adapter(base, adapter)?;
        Ok(Some(own))
    }

    /// Puts the tokenizer and the chat template of an adapter's folder in the place of the base's, where it has its own.
    /// Returns which of its files count; none where they are the base's or there are none.
    ///
    /// # Errors
    /// [`LlamaError`] for files that are there but broken.
    pub fn take_from_adapter(
        &mut self,
        base: impl AsRef<Path>,
        adapter: impl AsRef<Path>,
    ) -> Result<Vec<&'static str>> {
        let (base, adapter) = (base.as_ref(), adapter.as_ref());
        let own = own_files(base, adapter)?;
        if own.is_empty() {
            return Ok(own);
        }
        if adapter.join("tokenizer.json").exists() {
            self.tokenizer = Tokenizer::from_dir(adapter)?;
            self.stop = StopTokens::from_dir(base, &self.tokenizer)?;
        }
        if let Some(template) = ChatTemplate::find_with(adapter, self.tokenizer.special_tokens())? {
            self.template = Some(template);
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::text::{Conversation, Message};

    const JSON: &str = include_str!("../../tests/fixtures/tokenizer/tokenizer.json");

    #[test]
    fn what_an_adapter_brings_takes_the_place_of_the_bases() {
        let (base, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write =
            |dir: &tempfile::TempDir, name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(&base, "tokenizer.json", JSON);
        write(&base, "tokenizer_config.json", r#"{"eos_token": "<|eot_id|>", "chat_template": "base"}"#);
        write(&base, "config.json", r#"{"eos_token_id": 5}"#);
        let mut text = Text::from_dir(base.path()).unwrap().unwrap();
        let say = |text: &Text| {
            text.template.as_ref().unwrap().render(&Conversation::new([Message::new("user", "x")]), false).unwrap()
        };
        write(&adapter, "tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
        assert!(text.take_from_adapter(base.path(), adapter.path()).unwrap().is_empty(), "settings of no tokenizer");
        std::fs::remove_file(adapter.path().join("tokenizer_config.json")).unwrap();
        write(&adapter, "tokenizer.json", JSON);
        assert!(text.take_from_adapter(base.path(), adapter.path()).unwrap().is_empty(), "the same file");
        assert_eq!((say(&text).as_str(), text.stop.ids()), ("base", &[317, 5][..]));
        write(&adapter, "chat_template.jinja", "{{ eos_token }} of the adapter");
        write(&adapter, "tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
        let own = text.take_from_adapter(base.path(), adapter.path()).unwrap();
        assert_eq!(own, ["tokenizer_config.json", "chat_template.jinja"]);
        assert_eq!((say(&text).as_str(), text.stop.ids()), ("<|im_end|> of the adapter", &[319, 5][..]));
    }
}
