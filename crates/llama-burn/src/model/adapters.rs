//! A Llama as adapters, fine-tuning and generation see it.

use burn::tensor::{Device, Tensor};
use fused_burn::{LogitRule, Weight};
use peft_burn::targets::ModuleInfo;
use peft_burn::{AdaptableModel, LayerMut, LayerRef, PeftState, Unsupported};

use super::cache::KvCache;
use super::causal::{CausalModel, ModelSpec};
use super::input::Input;
use super::llama::Llama;
use super::parts::{PartMut, PartRef};

impl AdaptableModel for Llama {
    fn model_type(&self) -> &str {
        &self.config().model_type
    }

    fn layers(&self) -> Vec<(String, LayerRef<'_>)> {
        let layer = |part| match part {
            PartRef::Embedding(embedding) => LayerRef::Embedding(embedding),
            PartRef::Linear(linear) => LayerRef::Linear(linear),
            PartRef::Norm(norm) => LayerRef::Norm(norm.gain()),
        };
        self.parts().into_iter().map(|(path, part)| (path, layer(part))).collect()
    }

    fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)> {
        let layer = |part| match part {
            PartMut::Embedding(embedding) => LayerMut::Embedding(embedding),
            PartMut::Linear(linear) => LayerMut::Linear(linear),
            PartMut::Norm(norm) => LayerMut::Norm(norm.gain_mut()),
        };
        self.parts_mut().into_iter().map(|(path, part)| (path, layer(part))).collect()
    }

    fn modules(&self) -> Vec<ModuleInfo> {
        self.config().modules()
    }

    fn num_base_parameters(&self) -> usize {
        self.config().num_parameters()
    }

    fn prepare_merge(&mut self, names: &[&str], for_good: bool) -> peft_burn::Result<()> {
        if for_good {
            let own = |name: &&str| self.embed_tokens.adapters().get(name)?.weight.as_ref();
            if let Some(weight) = names.iter().find_map(own) {
                self.config.vocab_size = weight.val().dims()[0];
            }
        }
        if !self.config().tie_word_embeddings || !self.differ_when_merged(names) {
            return Ok(());
        }
        if for_good {
            self.untie();
            return Ok(());
        }
        let rows = names.iter().any(|name| self.embed_tokens.adapters().get(name).is_some_and(|a| a.tokens.is_some()));
        if rows && names.iter().any(|name| self.lm_head.adapters().get(name).is_some()) {
            return Err(Unsupported::TiedRows.into());
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
            vocab_size: self.embed_tokens.num_tokens(),
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

    fn head_weight(&self) -> Option<Weight> {
        self.head_weight()
    }

    fn logit_rule(&self) -> LogitRule {
        self.logit_rule()
    }

    fn dropout(&self) -> f64 {
        self.config().attention_dropout
    }

    fn set_gradient_checkpointing(&mut self, on: bool) {
        self.set_gradient_checkpointing(on);
    }

    fn set_base_trainable(&mut self, trainable: bool) -> peft_burn::Result<()> {
        self.set_base_trainable(trainable)
    }
}
