//! The Llama decoder.

use burn::tensor::{Device, Tensor};
use peft_burn::{EmbeddingAdapter, PeftEmbedding, PeftLinear, PeftModel, PeftState};

use super::cache::KvCache;
use super::input::Input;
use super::layer::{DecoderLayer, Memories, Surroundings};
use super::norm::RmsNorm;
use super::parts::{Builder, PartMut, PartRef, Parts, Source};
use super::recompute;
use super::rotary::Rotation;
use crate::config::LlamaConfig;

/// A Llama model whose linear layers and embedding take adapters. Its own weights are frozen.
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
}

impl Llama {
    /// Puts a model together from its weights.
    ///
    /// # Errors
    /// What `source` returns.
    pub(crate) fn build<S: Source>(config: LlamaConfig, source: S) -> Result<Self, S::Error> {
        let mut from = Builder::new(&config, source);
        let embed_tokens = from.embedding("model.embed_tokens")?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| DecoderLayer::build(&mut from, &format!("model.layers.{i}")))
            .collect::<Result<_, _>>()?;
        let norm = from.norm("model.norm")?;
        let lm_head = from.head("lm_head", &embed_tokens)?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head,
            config,
            peft: PeftState::default(),
            gradient_checkpointing: false,
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
    pub fn set_base_trainable(&mut self, trainable: bool) {
        for (_, part) in self.parts_mut() {
            match part {
                PartMut::Embedding(embedding) => embedding.set_base_trainable(trainable),
                PartMut::Linear(linear) => linear.set_base_trainable(trainable),
                PartMut::Norm(norm) => norm.set_trainable(trainable),
            }
        }
        // A tied head has no weight of its own to train: it reads the embedding's.
        self.lm_head.set_base_trainable(trainable && !self.config.tie_word_embeddings);
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
            base.weight = base.weight.clone().map(|_| weight.detach());
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
        let past = cache.as_ref().map_or(0, |c| c.len());
        let inv_freq = self.inv_freq();
        let surroundings = |device: &Device| Surroundings {
            batch,
            rotation: match &input.positions {
                Some(positions) => Rotation::new(&inv_freq, positions, device),
                None => Rotation::new(&inv_freq, &[(past..past + seq).collect()], device),
            },
            pattern: input.mask.pattern(seq, past + seq, device),
            plan: None,
        };
        let recomputes = cache.is_none() && self.recomputes();
        let ids = input.ids.clone().reshape([batch * seq]);
        let memories = cache.map_or(Memories::None, |cache| Memories::Cache(&mut cache.layers));
        self.pass(self.embed_tokens.forward(ids), surroundings, recomputes, memories, see)
    }

    /// The layers and the last norm, for embedded tokens `x`.
    pub(super) fn pass(
        &self,
        x: Tensor<2>,
        surroundings: impl Fn(&Device) -> Surroundings,
        recomputes: bool,
        mut memories: Memories<'_>,
        mut see: impl FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let mut x = x;
        let inside = surroundings(&x.device());
        let outside = recomputes.then(|| surroundings(&x.device().inner()));
        see(&x);
        for (i, layer) in self.layers.iter().enumerate() {
            let recomputed = outside.as_ref().and_then(|outside| recompute::forward(layer, &x, outside, &inside));
            x = recomputed.unwrap_or_else(|| layer.forward(x, &inside, memories.of(i)));
            see(&x);
        }
        self.norm.forward(x)
    }

    /// The frequencies of the rotary embedding.
    pub(super) fn inv_freq(&self) -> Vec<f64> {
        self.config.rope.inv_freq(self.config.head_dim)
    }

    /// Scores of the next token for rows of [`Self::hidden`]: `[n, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.lm_head.forward_with(hidden, self.tied_weight())
    }

    /// The head's weight (`[vocab, hidden]`) if the head is one plain product, else `None`: an adapter is on it.
    pub fn head_weight(&self) -> Option<Tensor<2>> {
        let plain = self.lm_head.plain_weight()?;
        Some(if self.lm_head.replaces_weight() { plain } else { self.tied_weight().unwrap_or(plain) })
    }

    /// The embedding's matrix, where it is the head's too.
    pub(super) fn tied_weight(&self) -> Option<Tensor<2>> {
        // A merge that makes the two differ gives the head its own until it is undone.
        let shared = self.config.tie_word_embeddings && !self.differ_when_merged(self.lm_head.adapters().merged());
        shared.then(|| self.embed_tokens.tied_weight())
    }

    /// Whether the head and the embedding differ once the adapters `names` are folded in: one is on either of the two
    /// alone. Trained rows of the embedding are the head's too.
    pub(super) fn differ_when_merged<S: AsRef<str>>(&self, names: &[S]) -> bool {
        let on_embedding = |a: &EmbeddingAdapter| a.lora.is_some() || a.weight.is_some();
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
