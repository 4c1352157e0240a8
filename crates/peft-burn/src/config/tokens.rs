//! Tokens that are trained themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `trainable_token_indices`: tokens of the input embedding, or of each of several embeddings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of token ids, or a map from embedding names to lists")]
#[non_exhaustive]
pub enum TokenIndices {
    /// Of `embed_tokens`.
    List(Vec<usize>),
    /// By the embedding's name or path.
    ByModule(BTreeMap<String, Vec<usize>>),
}

impl TokenIndices {
    /// Name of each embedding, and its tokens.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&str, &[usize])> + '_> {
        match self {
            Self::List(ids) => Box::new(std::iter::once(("embed_tokens", ids.as_slice()))),
            Self::ByModule(map) => Box::new(map.iter().map(|(name, ids)| (name.as_str(), ids.as_slice()))),
        }
    }
}
