//! A pass whose rows belong to many sequences and many adapters.

use std::ops::Range;
use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Int, Tensor, TensorData};
use fused_burn::{BlockRows, BlockShape};
use peft_burn::{AdapterPack, Pairs, Plan, Unsupported};

use super::llama::Llama;
use super::pattern::{Pattern, Patterns};
use super::surroundings::{Memories, Surroundings};

/// Tokens of a block of keys and values.
const BLOCK_TOKENS: usize = 32;

/// The next tokens of many sequences.
#[derive(Debug)]
pub struct Step<'a> {
    /// The tokens, those of a sequence side by side.
    pub ids: Vec<u32>,
    /// Whose adapter each token has.
    pub plan: Arc<Plan>,
    /// Which tokens belong to which sequence, in their order, and its keys and values so far. Tokens of a sequence follow
    /// what its blocks hold.
    pub sequences: &'a mut [BlockRows],
}

impl Llama {
    /// The sizes of the blocks that [`Self::serve`] keeps keys and values in.
    pub fn block_shape(&self) -> BlockShape {
        let config = self.config();
        BlockShape {
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            tokens: BLOCK_TOKENS,
        }
    }

    /// The attached adapter `name` as one that [`Self::serve`] takes in a plan, on this model or another of the same base.
    ///
    /// # Errors
    /// A name that is not attached.
    pub fn pack(&self, name: &str, pairs: &Pairs) -> peft_burn::Result<AdapterPack> {
        let mut pack = AdapterPack::of(self, name, pairs)?;
        let on_embedding = self.embed_tokens.adapters().get(name);
        if on_embedding.is_some_and(|adapter| adapter.tied || (adapter.tokens.is_some() && adapter.weight.is_some())) {
            return Err(Unsupported::ServedVocabulary { adapter: name.to_owned() }.into());
        }
        let tokens = on_embedding.and_then(|adapter| adapter.tokens.as_ref());
        let head_has_rows = self.lm_head.adapters().get(name).is_some_and(|adapter| adapter.tokens.is_some());
        if let Some(tokens) = tokens.filter(|_| self.config().tie_word_embeddings && !head_has_rows) {
            let bias = self.lm_head.base().bias.as_ref().map(Param::val);
            let tied = self.embed_tokens.tied_weight();
            pack.replace_outputs(self.lm_head.slot(), bias, tokens, &tied);
        }
        Ok(pack)
    }

    /// The residual stream after the last norm for the tokens of a step, `[tokens, hidden]`. Their keys and values are put
    /// into the sequences' blocks. Adapters that are attached to the model do not count; those of the plan do.
    ///
    /// Each token's result is what it would be with its sequence alone, but for rounding, as long as no sequence is longer
    /// than [`LlamaConfig::fixed_context`](crate::LlamaConfig::fixed_context).
    pub fn serve(&self, step: Step<'_>) -> Tensor<2> {
        let Step { ids, plan, sequences } = step;
        let positions = sequences.iter().flat_map(|s| s.past..s.past + s.rows.len()).collect();
        let (n, device) = (ids.len(), self.device());
        let ids = ids.into_iter().map(|id| id as i32).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new::<i32, _>(ids, [n]), &device);
        let x = self.embedded(self.embed_tokens.serve(ids, &plan));
        let shape = self.block_shape();
        let rotations = self.rotations.of(&[positions], &x.device(), x.dtype());
        let patterns = Patterns::same(Pattern::Causal(None));
        let surroundings = Surroundings { batch: 1, rotations, patterns, plan: Some(plan) };
        let memories = Memories::Blocks { shape: &shape, sequences };
        self.pass(x, |_, _| surroundings.clone(), false, memories, |_| {})
    }

    /// Scores of the next token for rows of [`Self::serve`], each under the adapter that `plan` has for it. Adapters may
    /// bring vocabularies of their own, so that rows come in parts of one width each: `[rows, vocab]`.
    pub fn serve_logits(&self, hidden: Tensor<2>, plan: &Plan) -> Vec<(Range<usize>, Tensor<2>)> {
        let tied = self.config().tie_word_embeddings.then(|| self.embed_tokens.base().val());
        let rule = self.logit_rule();
        let parts = self.lm_head.serve_head(hidden, tied, plan);
        parts.into_iter().map(|(rows, part)| (rows, rule.apply(part))).collect()
    }
}
