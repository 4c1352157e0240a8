//! Where a Llama's adapters go.

use burn::tensor::{Device, Tensor};
use peft_burn::targets::ModuleInfo;
use peft_burn::{AdaptableModel, LayerMut, LayerRef, PeftError, PeftState};

use crate::cache::KvCache;
use crate::causal::{CausalModel, ModelSpec};
use crate::model::{DecoderLayer, Input, Llama};

impl AdaptableModel for Llama {
    fn model_type(&self) -> &str {
        "llama"
    }

    fn layers(&self) -> Vec<(String, LayerRef<'_>)> {
        let mut all = vec![("model.embed_tokens".to_owned(), LayerRef::Embedding(&self.embed_tokens))];
        for (i, layer) in self.layers.iter().enumerate() {
            all.extend(layer.linears().map(|(name, l)| (format!("model.layers.{i}.{name}"), LayerRef::Linear(l))));
        }
        all.push(("lm_head".to_owned(), LayerRef::Linear(&self.lm_head)));
        all
    }

    fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)> {
        let mut all = vec![("model.embed_tokens".to_owned(), LayerMut::Embedding(&mut self.embed_tokens))];
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let linears = DecoderLayer::NAMES.iter().zip(layer.linears_mut());
            all.extend(linears.map(|(name, l)| (format!("model.layers.{i}.{name}"), LayerMut::Linear(l))));
        }
        all.push(("lm_head".to_owned(), LayerMut::Linear(&mut self.lm_head)));
        all
    }

    fn modules(&self) -> Vec<ModuleInfo> {
        self.config().modules()
    }

    fn num_base_parameters(&self) -> usize {
        self.config().num_parameters()
    }

    fn prepare_merge(&mut self, names: &[&str], for_good: bool) -> peft_burn::Result<()> {
        if !self.config().tie_word_embeddings || !self.differ_when_merged(names) {
            return Ok(());
        }
        if for_good {
            self.untie();
            return Ok(());
        }
        let rows = names.iter().any(|name| self.embed_tokens.adapters().get(name).is_some_and(|a| a.tokens.is_some()));
        if rows && names.iter().any(|name| self.lm_head.adapters().get(name).is_some()) {
            return Err(PeftError::Unsupported(
                "merging an adapter of the head while the tied embedding has trained rows: call `untie` first, or merge \
                 for good"
                    .into(),
            ));
        }
        Ok(())
    }

    fn peft_state(&self) -> &PeftState {
        &self.peft
    }

    fn peft_state_mut(&mut self) -> &mut PeftState {
        &mut self.peft
    }
}

impl CausalModel for Llama {
    fn spec(&self) -> ModelSpec {
        let config = self.config();
        ModelSpec {
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            num_hidden_layers: config.num_hidden_layers,
            max_position_embeddings: config.max_position_embeddings,
            bos_token_id: config.bos_token_id,
            eos_token_ids: config.eos_token_ids.clone(),
            pad_token_id: config.pad_token_id,
        }
    }

    fn device(&self) -> Device {
        self.device()
    }

    fn hidden(&self, input: &Input, cache: Option<&mut KvCache>) -> Tensor<2> {
        self.hidden(input, cache)
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.logits(hidden)
    }

    fn head_weight(&self) -> Option<Tensor<2>> {
        self.head_weight()
    }

    fn set_gradient_checkpointing(&mut self, on: bool) {
        self.set_gradient_checkpointing(on);
    }

    fn set_base_trainable(&mut self, trainable: bool) {
        self.set_base_trainable(trainable);
    }
}

impl crate::LlamaConfig {
    /// The modules of a model of this shape by their Hugging Face paths. A tied head counts no parameters of its own
    /// in Transformers and has none here.
    pub fn modules(&self) -> Vec<ModuleInfo> {
        let hidden = self.hidden_size;
        let mut all = vec![ModuleInfo::embedding("model.embed_tokens", self.vocab_size, hidden)];
        for i in 0..self.num_hidden_layers {
            for (name, [inp, out], bias) in self.projections() {
                all.push(ModuleInfo::linear(format!("model.layers.{i}.{name}"), inp, out).with_bias(bias));
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                all.push(ModuleInfo::other(format!("model.layers.{i}.{norm}"), hidden));
            }
        }
        all.push(ModuleInfo::other("model.norm", hidden));
        all.push(ModuleInfo::output_head("lm_head", hidden, self.vocab_size));
        all
    }

    /// The seven projections of a layer: path, `[in, out]`, and whether there is a bias.
    pub(crate) fn projections(&self) -> [(&'static str, [usize; 2], bool); 7] {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let (attn, mlp) = (self.attention_bias, self.mlp_bias);
        let [a, b, c, d, e, f, g] = DecoderLayer::NAMES;
        [
            (a, [hidden, q], attn),
            (b, [hidden, kv], attn),
            (c, [hidden, kv], attn),
            (d, [q, hidden], attn),
            (e, [hidden, inner], mlp),
            (f, [hidden, inner], mlp),
            (g, [inner, hidden], mlp),
        ]
    }
}
