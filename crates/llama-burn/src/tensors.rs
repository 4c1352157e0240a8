//! The one table of a model's modules: their paths, kinds and sizes.
//!
//! Names and shapes of tensors, the modules that adapters may go on, counts of parameters, building, loading, checking
//! and saving all come from it. Paths and tensor names are Transformers'.

use std::collections::BTreeMap;

use peft_burn::targets::ModuleInfo;

use crate::config::{LlamaConfig, Norms, QkNorm};

/// A module that holds weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A table of `rows` vectors: weight `[rows, width]`.
    Embedding { rows: usize, width: usize },
    /// A norm's gain: weight `[width]`.
    Norm { width: usize },
    /// A projection: weight `[out, inp]`, bias `[out]`.
    Linear { inp: usize, out: usize, bias: bool },
    /// The model's last projection: weight `[out, inp]`, none of its own if it is `tied` to the embedding.
    Head { inp: usize, out: usize, tied: bool },
}

impl Kind {
    /// The tensors that the module has in a checkpoint: name below the module, shape.
    pub fn tensors(self) -> Vec<(&'static str, Vec<usize>)> {
        match self {
            Self::Embedding { rows, width } => vec![("weight", vec![rows, width])],
            Self::Norm { width } => vec![("weight", vec![width])],
            Self::Linear { inp, out, bias } => {
                let mut all = vec![("weight", vec![out, inp])];
                all.extend(bias.then(|| ("bias", vec![out])));
                all
            }
            Self::Head { tied: true, .. } => Vec::new(),
            Self::Head { inp, out, tied: false } => vec![("weight", vec![out, inp])],
        }
    }

    /// The module as adapters see it. A tied head is a module too, though it counts no parameters.
    fn info(self, path: String) -> ModuleInfo {
        match self {
            Self::Embedding { rows, width } => ModuleInfo::embedding(path, rows, width),
            Self::Norm { width } => ModuleInfo::other(path, width),
            Self::Linear { inp, out, bias } => ModuleInfo::linear(path, inp, out).with_bias(bias),
            Self::Head { inp, out, .. } => ModuleInfo::output_head(path, inp, out),
        }
    }

    /// How many numbers it holds. In 128 bits: a file can ask for more than fits in 64, and that is to be reported.
    fn numbers(self) -> u128 {
        self.tensors().iter().map(|(_, shape)| shape.iter().map(|&n| n as u128).product::<u128>()).sum()
    }
}

impl LlamaConfig {
    /// Before the decoder layers.
    fn first_modules(&self) -> [(&'static str, Kind); 1] {
        [("model.embed_tokens", Kind::Embedding { rows: self.vocab_size, width: self.hidden_size })]
    }

    /// In each decoder layer, with paths below the layer's.
    fn layer_modules(&self) -> Vec<(&'static str, Kind)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let norm = Kind::Norm { width: hidden };
        let decoder = &self.decoder;
        let input = |out| Kind::Linear { inp: hidden, out, bias: self.attention_bias || decoder.qkv_bias };
        let mlp = |inp, out| Kind::Linear { inp, out, bias: self.mlp_bias };
        let mut all = Vec::new();
        all.extend((decoder.norms != Norms::Post).then_some(("input_layernorm", norm)));
        if decoder.fused {
            all.push(("self_attn.qkv_proj", input(q + 2 * kv)));
        } else {
            let projections = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
            all.extend(projections.map(|(path, out)| (path, input(out))));
        }
        let norms =
            |q, k| [("self_attn.q_norm", q), ("self_attn.k_norm", k)].map(|(path, width)| (path, Kind::Norm { width }));
        match decoder.qk_norm {
            None => {}
            Some(QkNorm::Head) => all.extend(norms(self.head_dim, self.head_dim)),
            Some(QkNorm::Full) => all.extend(norms(q, kv)),
        }
        all.push(("self_attn.o_proj", Kind::Linear { inp: q, out: hidden, bias: self.attention_bias }));
        all.push(("post_attention_layernorm", norm));
        all.extend((decoder.norms == Norms::Both).then_some(("pre_feedforward_layernorm", norm)));
        if decoder.fused {
            all.push(("mlp.gate_up_proj", mlp(hidden, 2 * inner)));
        } else {
            all.extend(["mlp.gate_proj", "mlp.up_proj"].map(|path| (path, mlp(hidden, inner))));
        }
        all.push(("mlp.down_proj", mlp(inner, hidden)));
        all.extend((decoder.norms != Norms::Pre).then_some(("post_feedforward_layernorm", norm)));
        all
    }

    /// After the decoder layers.
    fn last_modules(&self) -> [(&'static str, Kind); 2] {
        let (hidden, vocab) = (self.hidden_size, self.vocab_size);
        [
            ("model.norm", Kind::Norm { width: hidden }),
            ("lm_head", Kind::Head { inp: hidden, out: vocab, tied: self.tie_word_embeddings }),
        ]
    }

    /// Every module with its path, in the order of the forward pass.
    pub(crate) fn table(&self) -> Vec<(String, Kind)> {
        let owned = |(path, kind): (&str, Kind)| (path.to_owned(), kind);
        let layer_modules = self.layer_modules();
        let layers = (0..self.num_hidden_layers)
            .flat_map(|i| layer_modules.iter().map(move |&(path, kind)| (format!("model.layers.{i}.{path}"), kind)));
        let first = self.first_modules().map(owned);
        first.into_iter().chain(layers).chain(self.last_modules().map(owned)).collect()
    }

    /// The modules of a model of this shape by their Hugging Face paths. A tied head counts no parameters of its own
    /// in Transformers and has none here.
    pub fn modules(&self) -> Vec<ModuleInfo> {
        self.table().into_iter().map(|(path, kind)| kind.info(path)).collect()
    }

    /// The tensors that a checkpoint of this shape holds, with their shapes.
    pub fn tensor_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let named = |(path, kind): (String, Kind)| {
            kind.tensors().into_iter().map(move |(name, shape)| (format!("{path}.{name}"), shape))
        };
        self.table().into_iter().flat_map(named).collect()
    }

    /// How many numbers the model's weights are; a tied head is counted once.
    pub fn num_parameters(&self) -> usize {
        let sum = |modules: &[(&str, Kind)]| modules.iter().map(|(_, kind)| kind.numbers()).sum::<u128>();
        let layers = self.num_hidden_layers as u128 * sum(&self.layer_modules());
        let total = sum(&self.first_modules()) + layers + sum(&self.last_modules());
        usize::try_from(total).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn tensors_and_modules_of_a_small_model() {
        let config = r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "head_dim": 2,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": true}"#;
        let config = LlamaConfig::from_json(config, Path::new("config.json")).unwrap();
        let shapes = config.tensor_shapes();
        // 3 outside the layer; 2 norms, 7 weights and 4 biases in it.
        assert_eq!(shapes.len(), 3 + 13);
        assert_eq!(shapes["model.layers.0.self_attn.k_proj.weight"], [4, 4]);
        assert_eq!(shapes["model.layers.0.self_attn.o_proj.bias"], [4]);
        assert_eq!(shapes["lm_head.weight"], [10, 4]);
        let tied = LlamaConfig { tie_word_embeddings: true, ..config.clone() };
        assert!(!tied.tensor_shapes().contains_key("lm_head.weight"));
        assert_eq!(tied.modules().last().unwrap().path, "lm_head");
        assert_eq!(config.num_parameters() - tied.num_parameters(), 40);
        let total: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(config.num_parameters(), total);
    }
}
