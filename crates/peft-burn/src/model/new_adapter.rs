//! A new adapter, layer by layer.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use fused_burn::Weight;

use crate::config::Bias;
use crate::error::{PeftError, Result};
use crate::layers::embedding::{EmbeddingAdapter, PeftEmbedding};
use crate::layers::linear::{LinearAdapter, PeftLinear};
use crate::methods::{PeftConfig, Place, VeraProjection};

/// A new adapter, before its layers are made.
pub(super) struct New<'a> {
    pub config: &'a PeftConfig,
    pub seed: u64,
    /// Paths of all layers that the adapter adapts.
    pub adapted: &'a [String],
    /// Paths of those that are trained whole.
    pub saved: &'a [String],
    /// Rows of the matrices that embeddings with trained rows bring, by path.
    pub own_vocabularies: &'a BTreeMap<String, usize>,
    /// Whether what the embedding gets is the tied head's too.
    pub tied: bool,
    /// The pair that layers share, of methods that have one.
    pub shared_pair: Option<&'a VeraProjection>,
}

impl New<'_> {
    fn place<'a>(&'a self, path: &'a str, weight: &'a Weight) -> Place<'a> {
        Place { path, weight, seed: self.seed, shared_pair: self.shared_pair }
    }

    /// The adapter of one linear layer; `None` where the configuration asks for none.
    pub fn linear(&self, path: &str, layer: &PeftLinear) -> Result<Option<LinearAdapter>> {
        if self.saved.iter().any(|p| p == path) {
            return Ok(Some(LinearAdapter::copy_of(layer.base())));
        }
        let adapted = self.adapted.iter().any(|p| p == path);
        let bias = match self.config.bias() {
            Bias::None => false,
            Bias::All => true,
            Bias::LoraOnly | Bias::VeraOnly => adapted,
        };
        let bias = layer.base().bias.as_ref().filter(|_| bias);
        let bias = bias.map(|b| Param::from_tensor(b.val().detach().cast(DType::F32)));
        if !adapted {
            return Ok(bias.map(|bias| LinearAdapter { method: None, bias: Some(bias), weight: None }));
        }
        let (method, residual) = self.config.init(&self.place(path, &layer.base().weight.val().detach()))?;
        let weight = residual.map(|w| Param::from_tensor(w).set_require_grad(false));
        Ok(Some(LinearAdapter { method: Some(method), bias, weight }))
    }

    /// The adapter of an embedding; `None` where the configuration asks for none.
    pub fn embedding(&self, path: &str, layer: &PeftEmbedding) -> Result<Option<EmbeddingAdapter>> {
        let weight = layer.base().val().detach();
        if self.saved.iter().any(|p| p == path) {
            return Ok(Some(EmbeddingAdapter { tied: self.tied, ..EmbeddingAdapter::copy_of(&weight.dense()) }));
        }
        let adapted = self.adapted.iter().any(|p| p == path);
        let lora = adapted.then(|| self.config.init_embedding(&self.place(path, &weight))).flatten();
        let tokens = self.config.trainable_tokens_for(path).to_vec();
        let [vocab, hidden] = weight.dims();
        let own = self.own_vocabularies.get(path).copied();
        let vocab = own.unwrap_or(vocab);
        if let Some(bad) = tokens.iter().find(|&&t| t >= vocab) {
            let message = format!("trainable_token_indices names token {bad}, and {path} has {vocab}");
            return Err(PeftError::Config { origin: "adapter".into(), problems: vec![message] });
        }
        if tokens.is_empty() {
            return Ok(lora.map(|lora| EmbeddingAdapter { tied: self.tied, ..EmbeddingAdapter::lora(lora) }));
        }
        let rows = match own {
            Some(vocab) => {
                EmbeddingAdapter::tokens_of_own(Tensor::zeros([vocab, hidden], (&weight.device(), DType::F32)), tokens)
            }
            None => EmbeddingAdapter::tokens(&weight, tokens),
        };
        Ok(Some(EmbeddingAdapter { tied: self.tied && lora.is_some(), lora, ..rows }))
    }
}
