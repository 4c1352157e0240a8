//! The contents of a model directory, without loading it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};
use crate::gguf;
use crate::text::{ChatTemplate, Tokenizer};
use crate::weights::{Checkpoint, fit};

/// A model directory at a glance. Only headers of weight files are read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSummary {
    /// The model's shape.
    pub config: LlamaConfig,
    /// Numbers in the weights; a tied head is counted once.
    pub parameters: usize,
    /// Tensors in the files by dtype, as safetensors names it.
    pub dtypes: BTreeMap<String, usize>,
    /// Bytes of the tensors.
    pub bytes: usize,
    /// Weight files.
    pub files: usize,
    /// The tokenizer, if there is one.
    pub tokenizer: Option<TokenizerSummary>,
    /// The parts that do not fit together; empty for a good model.
    pub problems: Vec<String>,
    /// The warnings of loading it.
    pub warnings: Vec<String>,
}

/// A model's tokenizer at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizerSummary {
    /// Tokens, added ones included.
    pub vocab_size: usize,
    /// Whether the model has a chat template.
    pub chat_template: bool,
    /// The token that ends a text.
    pub eos_token: Option<String>,
}

impl ModelSummary {
    /// Reads a model directory.
    ///
    /// # Errors
    /// A configuration or a weight file that is missing or cannot be read at all. What can be read but does not fit
    /// together is among [`problems`](Self::problems).
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = &*gguf::directory(dir.as_ref())?;
        let config = LlamaConfig::from_dir(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        let mut problems = Vec::new();
        let mut warnings = Vec::new();
        let mut config = config;
        match fit(dir, config.clone(), &checkpoint) {
            Ok(fit) => (config, warnings) = (fit.config, fit.warnings),
            Err(error) => problems.push(error.to_string()),
        }
        let tokenizer = if dir.join("tokenizer.json").exists() {
            match TokenizerSummary::read(dir, config.vocab_size) {
                Ok((tokenizer, beyond)) => {
                    warnings.extend(beyond);
                    Some(tokenizer)
                }
                Err(error) => {
                    problems.push(error.to_string());
                    None
                }
            }
        } else {
            None
        };
        let (mut dtypes, mut bytes) = (BTreeMap::new(), 0);
        for name in checkpoint.names() {
            *dtypes.entry(checkpoint.dtype(name).unwrap_or_default()).or_insert(0) += 1;
            bytes += checkpoint.num_bytes(name);
        }
        let (parameters, files) = (config.num_parameters(), checkpoint.num_files());
        Ok(Self { config, parameters, dtypes, bytes, files, tokenizer, problems, warnings })
    }
}

impl TokenizerSummary {
    /// The tokenizer, and a warning where it has tokens that the model has no embedding for.
    fn read(dir: &Path, vocab_size: usize) -> Result<(Self, Option<String>), LlamaError> {
        let tokenizer = Tokenizer::from_dir(dir)?;
        let beyond = tokenizer.beyond(vocab_size);
        let summary = Self {
            vocab_size: tokenizer.vocab_size(),
            chat_template: ChatTemplate::find(dir)?.is_some(),
            eos_token: tokenizer.special_tokens().get("eos_token").map(str::to_owned),
        };
        Ok((summary, beyond))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_fixture_is_told_in_numbers() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/glassllm-en");
        let summary = ModelSummary::read(dir).unwrap();
        assert_eq!((summary.parameters * 4, summary.files), (summary.bytes, 1));
        assert_eq!(summary.dtypes.keys().collect::<Vec<_>>(), ["F32"]);
        assert_eq!(summary.tokenizer.unwrap().eos_token.as_deref(), Some("<eos>"));
        assert!(summary.problems.is_empty(), "{:?}", summary.problems);
    }

    #[test]
    fn what_does_not_fit_is_a_problem_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/glassllm-en");
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(fixture.join(name), dir.path().join(name)).unwrap();
        }
        let path = dir.path().join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, config.replace("\"vocab_size\": 1024", "\"vocab_size\": 1000")).unwrap();
        let problems = ModelSummary::read(dir.path()).unwrap().problems.join("\n");
        assert!(problems.contains("model.embed_tokens.weight") && problems.contains("[1000, 128]"), "{problems}");
        let warnings = ModelSummary::read(dir.path()).unwrap().warnings.join("\n");
        assert!(warnings.contains("24 tokens of") && warnings.contains("(id 1023)"), "{warnings}");
    }
}
