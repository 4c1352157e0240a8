//! The decoder.

use burn::tensor::{DType, Device, Tensor, TensorData};
use fused_burn::{LogitRule, Weight};
use peft_burn::{EmbeddingAdapter, PeftEmbedding, PeftLinear, PeftModel, PeftState, Unsupported};

use super::cache::KvCache;
use super::input::Input;
use super::layer::DecoderLayer;
use super::mask::Columns;
use super::norm::RmsNorm;
use super::parts::{Builder, PartMut, PartRef, Parts, Source};
use super::recompute;
use super::rotary::Rotations;
use super::surroundings::{Memories, Surroundings};
use crate::config::{EmbeddingScale, LlamaConfig};

/// A model of the Llama kind, of any supported family, whose linear layers and embedding take adapters. Its own weights are
/// frozen.
#[derive(Clone, Debug)]
pub struct Llama {
    /// Token embedding, `[vocab, hidden]`.
    pub embed_tokens: PeftEmbedding,
    /// Decoder layers.
    pub layers: Vec<DecoderLayer>,
    /// Before the head.
    pub norm: RmsNorm,
    /// The head, `[hidden, vocab]`; shares the embedding's weight where the configuration ties them.
    pub lm_head: PeftLinear,
    pub(super) config: LlamaConfig,
    pub(super) peft: PeftState,
    pub(super) gradient_checkpointing: bool,
    pub(super) rotations: Rotations,
}

impl Llama {
    /// Puts a model together from its weights.
    ///
    /// # Errors
    /// Those of `source`.
    pub(crate) fn build<S: Source>(config: LlamaConfig, source: S) -> Result<Self, S::Error> {
        let mut from = Builder::new(&config, source);
        let embed_tokens = from.embedding("model.embed_tokens")?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| DecoderLayer::build(&mut from, &format!("model.layers.{i}"), i))
            .collect::<Result<_, _>>()?;
        let norm = from.norm("model.norm")?;
        let lm_head = from.head("lm_head", &embed_tokens)?;
        let rotations = Rotations::new(&config);
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head,
            config,
            peft: PeftState::default(),
            gradient_checkpointing: false,
            rotations,
        })
    }

    /// Every module that holds weights, with its Hugging Face path, in the order of the forward pass.
    pub(crate) fn parts(&self) -> Vec<(String, PartRef<'_>)> {
        let mut all = Vec::new();
        self.embed_tokens.parts("model.embed_tokens", &mut all);
        self.layers.parts("model.layers", &mut all);
        self.norm.parts("model.norm", &mut all);
        self.lm_head.parts("lm_head", &mut all);
        all
    }

    /// The same, to change.
    pub(crate) fn parts_mut(&mut self) -> Vec<(String, PartMut<'_>)> {
        let mut all = Vec::new();
        self.embed_tokens.parts_mut("model.embed_tokens", &mut all);
        self.layers.parts_mut("model.layers", &mut all);
        self.norm.parts_mut("model.norm", &mut all);
        self.lm_head.parts_mut("lm_head", &mut all);
        all
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The device that the weights are on.
    pub fn device(&self) -> Device {
        self.embed_tokens.base().val().device()
    }

    /// Makes every weight trainable and visible to the optimiser, or frozen and hidden (as a new model is).
    ///
    /// # Errors
    /// Packed weights, which cannot be trained.
    pub fn set_base_trainable(&mut self, trainable: bool) -> peft_burn::Result<()> {
        let packed = self.packed_weights();
        if trainable && !packed.is_empty() {
            let modules = packed.into_iter().map(|(path, _)| path).collect();
            return Err(Unsupported::PackedTraining { modules }.into());
        }
        for (_, part) in self.parts_mut() {
            match part {
                PartMut::Embedding(embedding) => embedding.set_base_trainable(trainable),
                PartMut::Linear(linear) => linear.set_base_trainable(trainable),
                PartMut::Norm(norm) => norm.set_trainable(trainable),
            }
        }
        // A tied head has no weight of its own to train: it reads the embedding's.
        self.lm_head.set_base_trainable(trainable && !self.config.tie_word_embeddings);
        Ok(())
    }

    /// Whether decoder layers keep nothing but their input for backward and run again there: memory hardly grows with
    /// the number of layers, and each layer's forward pass is paid twice. The gradients are the same to the bit.
    ///
    /// Dropout, of an adapter or of attention, draws other numbers when it runs again, so that models with it run as if this
    /// were off.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.gradient_checkpointing = on;
    }

    /// Whether decoder layers run again in backward, as [`Self::set_gradient_checkpointing`] said.
    pub fn gradient_checkpointing(&self) -> bool {
        self.gradient_checkpointing
    }

    /// Whether a pass without a cache is one whose layers run again in backward.
    pub(crate) fn recomputes(&self) -> bool {
        let dropout = |name: &str| self.adapter_config(name).map_or(0.0, |config| config.dropout());
        let own = self.config.attention_dropout;
        self.gradient_checkpointing && own == 0.0 && self.active_adapters().iter().all(|name| dropout(name) == 0.0)
    }

    /// Gives a tied head a weight of its own: the one it reads at present, adapters of its own left aside.
    pub fn untie(&mut self) {
        if let Some(weight) = self.tied_weight() {
            let base = self.lm_head.base_mut();
            base.weight.set(weight.detach());
            self.config.tie_word_embeddings = false;
        }
    }

    /// The residual stream after the last norm, `[batch·seq, hidden]`.
    pub fn hidden(&self, input: &Input, cache: Option<&mut KvCache>) -> Tensor<2> {
        self.run(input, cache, |_| {})
    }

    /// The residual stream as Transformers reports it with `output_hidden_states`: the embeddings, what each layer but
    /// the last leaves, and the final norm's output. `[batch·seq, hidden]` each.
    pub fn hidden_states(&self, input: &Input) -> Vec<Tensor<2>> {
        let mut all = Vec::new();
        let last = self.run(input, None, |x| all.push(x.clone()));
        all.pop();
        all.push(last);
        all
    }

    fn run(&self, input: &Input, cache: Option<&mut KvCache>, see: impl FnMut(&Tensor<2>)) -> Tensor<2> {
        let [batch, seq] = input.ids.dims();
        let Some(cache) = cache else {
            let positions = input.positions.clone().unwrap_or_else(|| vec![(0..seq).collect()]);
            let columns = Columns { queries: seq, positions: &positions, first: 0 };
            let surroundings = |device: &Device, dtype| self.surroundings(input, &positions, columns, device, dtype);
            let x = self.embedded(self.embed_tokens.forward(input.ids.clone().reshape([batch * seq])));
            return self.pass(x, surroundings, self.recomputes(), Memories::None, see);
        };
        let past = cache.len();
        let positions = input.positions.clone().unwrap_or_else(|| vec![(past..past + seq).collect()]);
        let length = |rows: &[Vec<usize>]| rows.iter().flatten().max().map_or(0, |last| last + 1);
        let lengths = [length(cache.positions()), length(&positions)];
        cache.extend(&positions, self.config.decoder.window);
        let kept = self.rotations.depends_on_length().then(|| cache.keep_ids(input.ids.clone()));
        let (ids, positions, queries) = match kept {
            // The tokens so far have other frequencies now, as Transformers does with Phi-3.
            Some(all) if past > 0 && !self.rotations.agree(lengths) => {
                cache.restart();
                (all, cache.positions().to_vec(), past + seq)
            }
            _ => (input.ids.clone(), positions, seq),
        };
        let all = cache.positions().to_vec();
        let columns = Columns { queries, positions: &all, first: cache.first() };
        let surroundings = |device: &Device, dtype| self.surroundings(input, &positions, columns, device, dtype);
        let memories = Memories::Cache { layers: &mut cache.layers, first: columns.first };
        let x = self.embedded(self.embed_tokens.forward(ids.reshape([batch * queries])));
        let y = self.pass(x, surroundings, false, memories, see);
        if queries == seq {
            return y;
        }
        let width = y.dims()[1];
        y.reshape([batch, queries, width]).narrow(1, past, seq).reshape([batch * seq, width])
    }

    /// The surroundings of layers for rows of `positions`, the last of `columns`.
    fn surroundings(
        &self,
        input: &Input,
        positions: &[Vec<usize>],
        columns: Columns<'_>,
        device: &Device,
        dtype: DType,
    ) -> Surroundings {
        Surroundings {
            batch: input.ids.dims()[0],
            rotations: self.rotations.of(positions, device, dtype),
            patterns: input.mask.patterns(columns, self.config.decoder.window, device),
            plan: None,
        }
    }

    /// Embeddings (`[n, hidden]`) as the first layer takes them.
    pub(super) fn embedded(&self, x: Tensor<2>) -> Tensor<2> {
        let Some(EmbeddingScale { factor, rounded }) = self.config.decoder.embedding_scale else { return x };
        let factor = if rounded { rounded_to(factor, x.dtype()) } else { factor };
        x.mul_scalar(factor)
    }

    /// The layers and the last norm, for embedded tokens `x`.
    pub(super) fn pass(
        &self,
        x: Tensor<2>,
        surroundings: impl Fn(&Device, DType) -> Surroundings,
        recomputes: bool,
        mut memories: Memories<'_>,
        mut see: impl FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let mut x = x;
        let inside = surroundings(&x.device(), x.dtype());
        let outside = recomputes.then(|| surroundings(&x.device().inner(), x.dtype()));
        see(&x);
        for (i, layer) in self.layers.iter().enumerate() {
            let recomputed = outside.as_ref().and_then(|outside| recompute::forward(layer, &x, outside, &inside));
            x = recomputed.unwrap_or_else(|| layer.forward(x, &inside, memories.of(i)));
            see(&x);
        }
        self.norm.forward(x)
    }

    /// Scores of the next token for rows of [`Self::hidden`]: `[n, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.logit_rule().apply(self.lm_head.forward_with(hidden, self.tied_weight()))
    }

    /// How the head's product becomes logits.
    pub fn logit_rule(&self) -> LogitRule {
        self.config.decoder.logit_rule()
    }

    /// The head's weight (`[vocab, hidden]`) if the head is one plain product, else `None`: an adapter is on it.
    pub fn head_weight(&self) -> Option<Weight> {
        self.lm_head.plain_weight(self.tied_weight())
    }

    /// The embedding's matrix, where it is the head's too.
    pub(super) fn tied_weight(&self) -> Option<Weight> {
        // A merge that makes the two differ gives the head its own until it is undone.
        let shared = self.config.tie_word_embeddings && !self.differ_when_merged(self.lm_head.adapters().merged());
        // Trained rows of the embedding are the head's too, unless those of the head are others.
        let apart = self.lm_head.adapters().active().any(|adapter| adapter.tokens.is_some());
        shared.then(|| if apart { self.embed_tokens.base().val() } else { self.embed_tokens.tied_weight() })
    }

    /// Whether the head and the embedding differ once the adapters `names` are folded in: one is on either of the two
    /// alone. Trained rows of the embedding are the head's too.
    pub(super) fn differ_when_merged<S: AsRef<str>>(&self, names: &[S]) -> bool {
        let on_embedding =
            |a: &EmbeddingAdapter| !a.tied && (a.lora.is_some() || (a.weight.is_some() && a.tokens.is_none()));
        names.iter().map(AsRef::as_ref).any(|name| {
            self.lm_head.adapters().get(name).is_some()
                || self.embed_tokens.adapters().get(name).is_some_and(on_embedding)
        })
    }

    /// Scores of every position: `[batch, seq, vocab]`. For text of any length prefer [`Self::hidden`] and
    /// [`Self::logits`] of the positions that matter.
    pub fn forward(&self, input: &Input) -> Tensor<3> {
        let [batch, seq] = input.ids.dims();
        let logits = self.logits(self.hidden(input, None));
        let vocab = logits.dims()[1];
        logits.reshape([batch, seq, vocab])
    }
}

/// The number of `dtype` that is nearest to `value`.
fn rounded_to(value: f64, dtype: DType) -> f64 {
    let data = TensorData::new(vec![value], [1]).convert_dtype(dtype);
    data.iter::<f64>().next().unwrap_or(value)
}
