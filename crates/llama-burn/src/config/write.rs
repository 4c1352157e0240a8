//! A configuration as a `config.json`.

use serde_json::{Value, json};

use super::LlamaConfig;
use super::decoder::Gate;
use super::family;
use super::rope::{RopeConfig, RopeScaling};

impl LlamaConfig {
    /// A `config.json` of this model, in the spelling that transformers v4 and v5 both read.
    pub fn to_hf_json(&self) -> Value {
        let rope_scaling = match &self.rope.scaling {
            RopeScaling::Default => Value::Null,
            scaling => json!(scaling),
        };
        let eos_token_id = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        let family = family::family(&self.model_type);
        let (activation, values, _) =
            family.map_or(("hidden_act", &["silu"][..], Gate::Silu), |family| family.activation);
        let mut json = json!({
            "architectures": [self.architecture()],
            "attention_bias": self.attention_bias,
            "attention_dropout": self.attention_dropout,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos_token_id,
            "head_dim": self.head_dim,
            activation: values[0],
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": self.mlp_bias,
            "model_type": self.model_type,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "pretraining_tp": 1,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": rope_scaling,
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": self.dtype.torch_name(),
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let Value::Object(object) = &mut json {
            object.extend(self.decoder.own_keys.clone());
            if self.decoder.rotary_dim != self.head_dim {
                let (turn, all) = (self.decoder.rotary_dim, self.head_dim as f64);
                let share = turn as f64 / all;
                // Readers round down.
                let share = if ((share * all) as usize) < turn { share.next_up() } else { share };
                object.insert("partial_rotary_factor".into(), share.into());
            }
            if let Some(local) = &self.decoder.local_rope {
                // Both spellings: Transformers 4 reads the one, 5 the other.
                let parameters = |rope: &RopeConfig| {
                    let mut all = json!(rope.scaling);
                    all["rope_theta"] = rope.theta.into();
                    all
                };
                object.insert("rope_local_base_freq".into(), local.theta.into());
                let both = json!({"full_attention": parameters(&self.rope), "sliding_attention": parameters(local)});
                object.insert("rope_parameters".into(), both);
            }
        }
        json
    }
}
