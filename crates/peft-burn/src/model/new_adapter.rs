//! A new adapter, layer by layer.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use fused_burn::Weight;

use crate::config::Bias;
use crate::error::{PeftError, Result};
use crate::layers::embedding::{EmbeddingAdapter, PeftEmbedding};
use crate::layers::linear::{LinearAdapter, PeftLinear};
use crate::layers::trained_rows::TrainableTokens;
use crate::methods::{PeftConfig, Place, VeraProjection};

/// A new adapter, before its layers are made.
pub(super) struct New<'a> {
    pub config: &'a PeftConfig,
    pub seed: u64,
    /// Paths of all layers that the adapter adapts.
    pub adapted: &'a [String],
    /// Paths of those that it has whole.
    pub saved: &'a [String],
    /// Paths of those among them that are not trained.
    pub frozen: &'a [String],
    /// Rows of the matrices that layers with trained rows bring, by path.
    pub own_vocabularies: &'a BTreeMap<String, usize>,
    /// The head whose trained rows are the embedding's, to which it is tied.
    pub follower: Option<&'a str>,
    /// Whether what the embedding gets is the tied head's too.
    pub tied: bool,
    /// The pair that layers share, of methods that have one.
    pub shared_pair: Option<&'a VeraProjection>,
}

impl New<'_> {
    /// Whether the whole copy of a layer is only used.
    pub fn frozen(&self, path: &str) -> bool {
        self.frozen.iter().any(|p| p == path)
    }

    fn place<'a>(&'a self, path: &'a str, weight: &'a Weight) -> Place<'a> {
        Place { path, weight, seed: self.seed, shared_pair: self.shared_pair }
    }

    /// The adapter of one linear layer; `None` where the configuration asks for none.
    pub fn linear(&self, path: &str, layer: &PeftLinear) -> Result<Option<LinearAdapter>> {
        if self.saved.iter().any(|p| p == path) {
            return Ok(Some(LinearAdapter { frozen: self.frozen(path), ..LinearAdapter::copy_of(layer.base()) }));
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
            return match self.rows_of(path, &layer.base().weight.val().detach())? {
                Some((tokens, weight)) => {
                    Ok(Some(LinearAdapter { method: None, bias, weight, tokens: Some(tokens), frozen: false }))
                }
                None => Ok(bias.map(LinearAdapter::of_bias)),
            };
        }
        let (method, residual) = self.config.init(&self.place(path, &layer.base().weight.val().detach()))?;
        let weight = residual.map(|w| Param::from_tensor(w).set_require_grad(false));
        Ok(Some(LinearAdapter { bias, weight, ..LinearAdapter::new(method) }))
    }

    /// The trained rows of a layer with `weight` (`[vocab, hidden]`), and the matrix that they belong to, if that is not the base's:
    /// one that is still to be filled.
    fn rows_of(&self, path: &str, weight: &Weight) -> Result<Option<(TrainableTokens, Option<Param<Tensor<2>>>)>> {
        let indices = self.config.trainable_tokens_for(path).to_vec();
        if indices.is_empty() || self.follower == Some(path) {
            return Ok(None);
        }
        let [vocab, hidden] = weight.dims();
        let own = self.own_vocabularies.get(path).copied();
        let vocab = own.unwrap_or(vocab);
        if let Some(bad) = indices.iter().find(|&&t| t >= vocab) {
            let message = format!("trainable_token_indices names token {bad}, and {path} has {vocab}");
            return Err(PeftError::Config { origin: "adapter".into(), problems: vec![message] });
        }
        Ok(Some(match own {
            Some(vocab) => {
                let own = Tensor::zeros([vocab, hidden], (&weight.device(), DType::F32));
                let tokens = TrainableTokens::of(&own.clone().into(), indices);
                (tokens, Some(Param::from_tensor(own).set_require_grad(false)))
            }
            None => (TrainableTokens::of(weight, indices), None),
        }))
    }

    /// The adapter of an embedding; `None` where the configuration asks for none.
    pub fn embedding(&self, path: &str, layer: &PeftEmbedding) -> Result<Option<EmbeddingAdapter>> {
        let weight = layer.base().val().detach();
        if self.saved.iter().any(|p| p == path) {
            let copy = EmbeddingAdapter::copy_of(&weight.dense());
            return Ok(Some(EmbeddingAdapter { tied: self.tied, frozen: self.frozen(path), ..copy }));
        }
        let adapted = self.adapted.iter().any(|p| p == path);
        let lora = adapted.then(|| self.config.init_embedding(&self.place(path, &weight))).flatten();
        match self.rows_of(path, &weight)? {
            None => Ok(lora.map(|lora| EmbeddingAdapter { tied: self.tied, ..EmbeddingAdapter::lora(lora) })),
            Some((tokens, weight)) => {
                let tied = self.tied && lora.is_some();
                Ok(Some(EmbeddingAdapter { lora, tokens: Some(tokens), weight, tied, frozen: false }))
            }
        }
    }
}
