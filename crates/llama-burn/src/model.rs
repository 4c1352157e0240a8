//! The Llama decoder.

use burn::module::Module;
use burn::tensor::{DType, Device, Distribution, FloatDType, Int, Tensor, TensorData};
use peft_burn::{EmbeddingAdapter, PeftEmbedding, PeftLinear, PeftModel, PeftState, TensorRng};

use crate::attention::Attention;
use crate::cache::{KvCache, LayerCache};
use crate::config::LlamaConfig;
use crate::mask::AttentionMask;
use crate::norm::RmsNorm;
use crate::ops::{scaled_swiglu, swiglu};
use crate::recompute::{self, Surroundings};
use crate::rotary::Rotation;

/// `down(silu(gate(x)) · up(x))` (Shazeer 2020).
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden, intermediate]`.
    pub gate_proj: PeftLinear,
    /// `[hidden, intermediate]`.
    pub up_proj: PeftLinear,
    /// `[intermediate, hidden]`.
    pub down_proj: PeftLinear,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [gate, up] = PeftLinear::forward_together([&self.gate_proj, &self.up_proj], x);
        match self.down_proj.input_scale() {
            Some(scale) => self.down_proj.forward_scaled(scaled_swiglu(gate, up, scale)),
            None => self.down_proj.forward(swiglu(gate, up)),
        }
    }
}

/// One decoder layer.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Before the feedforward block.
    pub post_attention_layernorm: RmsNorm,
    /// Feedforward block.
    pub mlp: Mlp,
}

impl DecoderLayer {
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        surroundings: &Surroundings,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let Surroundings { batch, rotation, pattern } = surroundings;
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), *batch, rotation, pattern, cache);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }
}

/// What a forward pass reads.
#[derive(Clone, Debug)]
pub struct Input {
    /// Token ids, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// Position of each column, a row for the whole batch or one each. `None`: 0, 1, 2, … after what is cached.
    pub positions: Option<Vec<Vec<usize>>>,
    /// Which earlier columns a token sees.
    pub mask: AttentionMask,
}

impl Input {
    /// Rows of one length, causal, from position 0.
    pub fn new(ids: Tensor<2, Int>) -> Self {
        Self { ids, positions: None, mask: AttentionMask::Causal }
    }

    /// Rows given as numbers, all of one length.
    pub fn from_rows(rows: &[Vec<u32>], device: &Device) -> Self {
        let seq = rows.first().map_or(0, Vec::len);
        let ids: Vec<i32> = rows.iter().flatten().map(|&id| id as i32).collect();
        Self::new(Tensor::from_data(TensorData::new(ids, [rows.len(), seq]), device))
    }

    /// With another attention pattern.
    pub fn with_mask(mut self, mask: AttentionMask) -> Self {
        self.mask = mask;
        self
    }

    /// With positions of its own.
    pub fn with_positions(mut self, positions: Vec<Vec<usize>>) -> Self {
        self.positions = Some(positions);
        self
    }
}

/// A Llama model whose linear layers and embedding take adapters. Its own weights are frozen.
#[derive(Module, Debug)]
pub struct Llama {
    /// Token embedding, `[vocab, hidden]`.
    pub embed_tokens: PeftEmbedding,
    /// Decoder layers.
    pub layers: Vec<DecoderLayer>,
    /// Before the head.
    pub norm: RmsNorm,
    /// The head, `[hidden, vocab]`; shares the embedding's weight where the configuration ties them.
    pub lm_head: PeftLinear,
    #[module(skip)]
    config: LlamaConfig,
    #[module(skip)]
    pub(crate) peft: PeftState,
    #[module(skip)]
    gradient_checkpointing: bool,
}

impl Llama {
    /// Puts a model together from its weights: `matrix` and `vector` give the tensor that Hugging Face calls `path`,
    /// in the shape asked for.
    ///
    /// # Errors
    /// What `matrix` and `vector` return.
    pub(crate) fn build<E>(
        config: LlamaConfig,
        mut matrix: impl FnMut(&str, [usize; 2]) -> Result<Tensor<2>, E>,
        mut vector: impl FnMut(&str, usize) -> Result<Tensor<1>, E>,
    ) -> Result<Self, E> {
        let hidden = config.hidden_size;
        let eps = config.rms_norm_eps;
        let embed_tokens = PeftEmbedding::new(matrix("model.embed_tokens.weight", [config.vocab_size, hidden])?);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let mut linears = Vec::with_capacity(7);
            for (name, [inp, out], bias) in config.projections() {
                let path = format!("model.layers.{i}.{name}");
                let weight = matrix(&format!("{path}.weight"), [out, inp])?;
                let bias = if bias { Some(vector(&format!("{path}.bias"), out)?) } else { None };
                linears.push(PeftLinear::new(weight, bias));
            }
            let mut linears = linears.into_iter();
            let mut next = || linears.next().unwrap_or_else(|| unreachable!("there are seven projections"));
            let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
            let self_attn =
                Attention { q_proj: next(), k_proj: next(), v_proj: next(), o_proj: next(), heads, kv_heads, head_dim };
            let mlp = Mlp { gate_proj: next(), up_proj: next(), down_proj: next() };
            let mut norm = |name: &str| {
                let gain = vector(&format!("model.layers.{i}.{name}.weight"), hidden)?;
                Ok(RmsNorm::new(gain, eps))
            };
            layers.push(DecoderLayer {
                input_layernorm: norm("input_layernorm")?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                self_attn,
                mlp,
            });
        }
        let norm = RmsNorm::new(vector("model.norm.weight", hidden)?, eps);
        let lm_head = if config.tie_word_embeddings {
            embed_tokens.base().val()
        } else {
            matrix("lm_head.weight", [config.vocab_size, hidden])?
        };
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head: PeftLinear::new(lm_head, None),
            config,
            peft: PeftState::default(),
            gradient_checkpointing: false,
        })
    }

    /// A model with random weights in f32: N(0, `initializer_range`²), gains one, biases zero. One seed, one model, on every
    /// device.
    pub fn random(config: LlamaConfig, seed: u64, device: &Device) -> Self {
        let std = config.initializer_range as f32;
        Self::made_up(config, DType::F32, device, |path, [rows, cols]| {
            let values = TensorRng::new(seed, path).normal(rows * cols, std);
            Tensor::from_data(TensorData::new(values, [rows, cols]), (device, DType::F32))
        })
    }

    /// As [`Self::random`], with the weights in `dtype` and drawn by the device's own generator: at once for a large model
    /// too, and other values on each kind of device. For measurements.
    pub fn random_on_device(config: LlamaConfig, seed: u64, dtype: FloatDType, device: &Device) -> Self {
        device.seed(seed);
        let (normal, dtype) = (Distribution::Normal(0.0, config.initializer_range), DType::from(dtype));
        Self::made_up(config, dtype, device, |_, shape| Tensor::random(shape, normal, (device, dtype)))
    }

    /// As [`Self::build`] from matrices that need no file, with gains of one and biases of zero.
    fn made_up(
        config: LlamaConfig,
        dtype: DType,
        device: &Device,
        matrix: impl Fn(&str, [usize; 2]) -> Tensor<2>,
    ) -> Self {
        let vector = |path: &str, n: usize| {
            let fill = if path.ends_with(".bias") { 0.0 } else { 1.0 };
            Ok(Tensor::full([n], fill, (device, dtype)))
        };
        match Self::build::<std::convert::Infallible>(config, |path, shape| Ok(matrix(path, shape)), vector) {
            Ok(model) => model,
            Err(never) => match never {},
        }
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
        self.embed_tokens.set_base_trainable(trainable);
        for layer in &mut self.layers {
            layer.input_layernorm.set_trainable(trainable);
            layer.post_attention_layernorm.set_trainable(trainable);
            for linear in layer.linears_mut() {
                linear.set_base_trainable(trainable);
            }
        }
        self.norm.set_trainable(trainable);
        // A tied head has no weight of its own to train: it reads the embedding's.
        self.lm_head.set_base_trainable(trainable && !self.config.tie_word_embeddings);
    }

    /// Whether decoder layers keep nothing but their input for backward and run again there: memory hardly grows with
    /// the number of layers, and each layer's forward pass is paid twice. The gradients are the same to the bit.
    ///
    /// An adapter with dropout draws other numbers when it runs again, so that models with one run as if this were off.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.gradient_checkpointing = on;
    }

    /// Whether a pass without a cache is one whose layers run again in backward.
    pub(crate) fn recomputes(&self) -> bool {
        let dropout = |name: &str| self.adapter_config(name).map_or(0.0, |config| config.dropout());
        self.gradient_checkpointing && self.active_adapters().iter().all(|name| dropout(name) == 0.0)
    }

    /// Makes a tied head share the embedding's memory again, after a move to another device copied both.
    pub fn retie(&mut self) {
        if self.config.tie_word_embeddings {
            let weight = self.embed_tokens.base().val();
            let base = self.lm_head.base_mut();
            base.weight = base.weight.clone().map(|_| weight);
        }
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

    fn run(&self, input: &Input, cache: Option<&mut KvCache>, mut see: impl FnMut(&Tensor<2>)) -> Tensor<2> {
        let [batch, seq] = input.ids.dims();
        let past = cache.as_ref().map_or(0, |c| c.len());
        let mut x = self.embed_tokens.forward(input.ids.clone().reshape([batch * seq]));
        let inv_freq = self.config.rope.inv_freq(self.config.head_dim);
        let surroundings = |device: &Device| Surroundings {
            batch,
            rotation: match &input.positions {
                Some(positions) => Rotation::new(&inv_freq, positions, device),
                None => Rotation::new(&inv_freq, &[(past..past + seq).collect()], device),
            },
            pattern: input.mask.pattern(seq, past + seq, device),
        };
        let inside = surroundings(&x.device());
        let outside = (cache.is_none() && self.recomputes()).then(|| surroundings(&x.device().inner()));
        let mut caches = cache.map(|c| c.layers.iter_mut());
        see(&x);
        for layer in &self.layers {
            let cache = caches.as_mut().and_then(Iterator::next);
            let recomputed = outside.as_ref().and_then(|outside| recompute::forward(layer, &x, outside, &inside));
            x = recomputed.unwrap_or_else(|| layer.forward(x, &inside, cache));
            see(&x);
        }
        self.norm.forward(x)
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
    fn tied_weight(&self) -> Option<Tensor<2>> {
        // A merge that makes the two differ gives the head its own until it is undone.
        let shared = self.config.tie_word_embeddings && !self.differ_when_merged(self.lm_head.adapters().merged());
        shared.then(|| self.embed_tokens.tied_weight())
    }

    /// Whether the head and the embedding differ once the adapters `names` are folded in: one is on either of the two
    /// alone. Trained rows of the embedding are the head's too.
    pub(crate) fn differ_when_merged<S: AsRef<str>>(&self, names: &[S]) -> bool {
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

impl DecoderLayer {
    /// Paths of the seven projections below the layer, in Hugging Face's order.
    pub const NAMES: [&'static str; 7] = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];

    /// The projections with their names, in that order.
    pub fn linears(&self) -> [(&'static str, &PeftLinear); 7] {
        let (attn, mlp) = (&self.self_attn, &self.mlp);
        let all =
            [&attn.q_proj, &attn.k_proj, &attn.v_proj, &attn.o_proj, &mlp.gate_proj, &mlp.up_proj, &mlp.down_proj];
        std::array::from_fn(|i| (Self::NAMES[i], all[i]))
    }

    /// The same layers, to change, in the same order.
    pub fn linears_mut(&mut self) -> [&mut PeftLinear; 7] {
        let (attn, mlp) = (&mut self.self_attn, &mut self.mlp);
        [
            &mut attn.q_proj,
            &mut attn.k_proj,
            &mut attn.v_proj,
            &mut attn.o_proj,
            &mut mlp.gate_proj,
            &mut mlp.up_proj,
            &mut mlp.down_proj,
        ]
    }
}
