//! A language model, as fine-tuning, evaluation and generation need it.

use burn::module::ModuleDisplay;
use burn::tensor::{Device, Tensor};
use fused_burn::{LogitRule, Weight};
use peft_burn::AdaptableModel;

use super::cache::KvCache;
use super::input::Input;

/// A causal language model that takes adapters. [`Llama`](crate::Llama) is one.
///
/// The learner, the evaluation and [`Generate`](crate::Generate) speak to this trait, so that a model of your own is
/// trained and served like a Llama once it implements these methods.
pub trait CausalModel: AdaptableModel + ModuleDisplay + Sync + 'static {
    /// Sizes and special tokens.
    fn spec(&self) -> ModelSpec;

    /// The device that the weights are on.
    fn device(&self) -> Device;

    /// The output of the last layer after the final norm, `[batch·seq, hidden]`. With `cache`, the tokens of earlier
    /// calls are seen too, and those of this call are added to it.
    fn hidden(&self, input: &Input, cache: Option<&mut KvCache>) -> Tensor<2>;

    /// Scores of the next token for rows of [`hidden`](Self::hidden): `[n, hidden]` to `[n, vocab]`.
    fn logits(&self, hidden: Tensor<2>) -> Tensor<2>;

    /// The head's weight, `[vocab, hidden]`, if [`logits`](Self::logits) is one product with it, what
    /// [`logit_rule`](Self::logit_rule) makes of that, and nothing else. The loss then never holds all logits at once. `None`
    /// if the head does more, for example if an adapter is on it.
    fn head_weight(&self) -> Option<Weight> {
        None
    }

    /// The rule for the product with [`head_weight`](Self::head_weight): nothing changes, unless a model says otherwise.
    fn logit_rule(&self) -> LogitRule {
        LogitRule::default()
    }

    /// An empty cache for [`hidden`](Self::hidden).
    fn new_cache(&self) -> KvCache {
        KvCache::new(self.spec().num_hidden_layers)
    }

    /// Sets whether layers run again in backward instead of keeping what it needs. The gradients are the same.
    fn set_gradient_checkpointing(&mut self, on: bool);

    /// Makes the model's own weights trainable, or frozen (as those of a loaded model are).
    ///
    /// # Errors
    /// Packed weights, which cannot be trained.
    fn set_base_trainable(&mut self, trainable: bool) -> peft_burn::Result<()>;

    /// The probability of the model's own dropout in training, apart from that of adapters.
    fn dropout(&self) -> f64 {
        0.0
    }
}

/// Sizes and special tokens of a [`CausalModel`], under Transformers' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Rows of the embedding: ids are below it.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers; each has a part in the cache.
    pub num_hidden_layers: usize,
    /// The context length that the model is made for, in tokens.
    pub max_position_embeddings: usize,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// The token that fills up a batch.
    pub pad_token_id: Option<u32>,
}
