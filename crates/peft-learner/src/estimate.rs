//! The memory of a training step on a CPU, from shapes alone: before any weight is read.
//!
//! Tensors that backward reads are counted layer by layer, as the fused operations keep them: for each token the inputs of both
//! norms, the inputs of products that are adapted by an update of low rank (once for q, k and v, and once for gate and up), q, k
//! and v, gate and up.

use llama_burn::{Dtype, LlamaConfig, Quantize};
use peft_burn::methods::Change;
use peft_burn::targets::{ModuleInfo, ModuleKind, Resolution, resolve};
use peft_burn::{PeftConfig, count_parameters};
use serde::Serialize;

use crate::error::Result;

/// Memory of the program itself.
const PROGRAM: u64 = 24 << 20;
/// Entries of the logits that exist at a time.
const LOGITS: u64 = 8 << 20;

/// A run to estimate: the model, the adapter and the batches.
#[derive(Clone, Debug)]
pub struct Planned<'a> {
    /// The base's shape.
    pub model: &'a LlamaConfig,
    /// Bytes of the base's weights as they are stored, where they stay so.
    pub stored: Option<u64>,
    /// The adapter; without one there is a forward pass alone.
    pub adapter: Option<&'a PeftConfig>,
    /// The dtype of dense weights and of activations.
    pub dtype: Dtype,
    /// Which weights are packed.
    pub quantize: &'a Quantize,
    /// Rows of a micro-batch.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Whether layers run again in backward.
    pub gradient_checkpointing: bool,
}

/// Bytes at the peak of a training step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// The base's weights.
    pub weights: u64,
    /// The adapter's parameters, and tensors that its layers share.
    pub adapter: u64,
    /// AdamW's two moments, gradients, and AdaLoRA's averages.
    pub optimizer: u64,
    /// Tensors that are kept for backward.
    pub activations: u64,
    /// The part of the logits that exists at a time.
    pub logits: u64,
    /// The program.
    pub program: u64,
    /// All of it.
    pub total: u64,
}

impl Estimate {
    /// For a step of `planned`.
    ///
    /// # Errors
    /// The errors of an adapter that does not fit the model.
    pub fn of(planned: &Planned<'_>) -> Result<Self> {
        let modules = planned.model.modules();
        let dtype = match planned.dtype {
            Dtype::F32 => 4,
            _ => 2,
        };
        let weights = planned.stored.unwrap_or_else(|| weights(&modules, planned.model, dtype, planned.quantize));
        let resolution = planned.adapter.map(|adapter| resolve(adapter, &modules, &planned.model.model_type));
        let resolution = resolution.transpose()?;
        let (adapter, optimizer) = resolution.as_ref().map_or((0, 0), |resolution| adapter(resolution, &modules));
        let tokens = (planned.batch * planned.seq) as u64;
        let mut activations = 0;
        if let Some(resolution) = &resolution {
            let kept = kept(planned.model, resolution) * dtype;
            let (layers, hidden) = (planned.model.num_hidden_layers as u64, planned.model.hidden_size as u64);
            activations = if planned.gradient_checkpointing {
                tokens * (layers * hidden * dtype + kept)
            } else {
                tokens * layers * kept
            };
        }
        let targets = (planned.batch * planned.seq.saturating_sub(1)) as u64;
        let logits =
            4 * (targets * planned.model.vocab_size as u64).min(LOGITS.max(16 * planned.model.vocab_size as u64));
        let total = weights + adapter + optimizer + activations + logits + PROGRAM;
        Ok(Self { weights, adapter, optimizer, activations, logits, program: PROGRAM, total })
    }
}

/// Bytes of the base's weights.
fn weights(modules: &[ModuleInfo], model: &LlamaConfig, dtype: u64, quantize: &Quantize) -> u64 {
    let how = match quantize {
        Quantize::To(how) => Some(how),
        _ => None,
    };
    let bytes = |module: &ModuleInfo| {
        let numbers = module.parameters() as u64;
        let packed = how.filter(|how| module.kind == ModuleKind::Linear && how.packs(&module.path));
        match packed.and_then(|how| how.num_bytes([module.out_features, module.in_features])) {
            Some(bytes) => bytes as u64 + module.bias_parameters() as u64 * dtype,
            None => numbers * dtype,
        }
    };
    let tied = |module: &&ModuleInfo| !(model.tie_word_embeddings && module.kind == ModuleKind::OutputHead);
    modules.iter().filter(tied).map(bytes).sum()
}

/// Bytes of the adapter, and of what training it needs.
fn adapter(resolution: &Resolution, modules: &[ModuleInfo]) -> (u64, u64) {
    let config = &resolution.config;
    let trained = count_parameters(resolution, modules, 0).trainable as u64;
    let (max_in, max_out) = resolution.largest_features();
    let pair = config.shared_pair(max_in, max_out).map_or(0, |pair| pair.r * (pair.max_in + pair.max_out)) as u64;
    // AdaLoRA keeps two averages and the gradients of a step.
    let averages = if config.prunes() { 3 } else { 0 };
    (4 * (trained + pair), 4 * trained * (3 + averages))
}

/// Numbers that backward reads, a token and layer.
fn kept(model: &LlamaConfig, resolution: &Resolution) -> u64 {
    let (hidden, inner) = (model.hidden_size as u64, model.intermediate_size as u64);
    let q = (model.num_attention_heads * model.head_dim) as u64;
    let kv = (model.num_key_value_heads * model.head_dim) as u64;
    let config = &resolution.config;
    let adapted = |names: &[&str]| {
        let ends = |module: &ModuleInfo| names.iter().any(|name| module.path.ends_with(name));
        resolution.adapted.iter().any(ends)
    };
    let pair = config.shared_pair(1, 1).map(|pair| pair.r as u64);
    // Of the input of a product: all of it for a trained A, what VeRA's frozen one makes of it, nothing for (IA)³.
    let input = |names: &[&str], width: u64| match (adapted(names), config.change()) {
        (false, _) | (_, Change::Vectors) => 0,
        _ => pair.unwrap_or(width),
    };
    // DoRA keeps results too, where nothing that follows does.
    let result = |names: &[&str], width: u64| {
        if config.change() == Change::Direction && adapted(names) { width } else { 0 }
    };
    2 * hidden
        + input(&["q_proj", "k_proj", "v_proj", "qkv_proj"], hidden)
        + q
        + 2 * kv
        + result(&["q_proj"], q)
        + result(&["k_proj"], kv)
        + input(&["o_proj"], q)
        + result(&["o_proj"], hidden)
        + input(&["gate_proj", "up_proj", "gate_up_proj"], hidden)
        + 2 * inner
        + input(&["down_proj"], inner)
        + result(&["down_proj"], hidden)
}
