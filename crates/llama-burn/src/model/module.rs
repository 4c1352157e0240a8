//! A Llama as a Burn module: what `derive(Module)` would write, but a tied head still shares the embedding's memory after a
//! move to another device.

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;
use fused_burn::Weight;

use super::llama::Llama;

/// Burn's name of the module in the paths that its visitors see.
const CONTAINER: &str = "Struct:Llama";

/// `$model` with each of its modules replaced by `$change` of it.
macro_rules! changed {
    ($model:expr, |$name:ident, $module:ident| $change:expr) => {{
        let Llama { embed_tokens, layers, norm, lm_head, config, peft, gradient_checkpointing, rotations } = $model;
        let embed_tokens = {
            let ($name, $module) = ("embed_tokens", embed_tokens);
            $change
        };
        let layers = {
            let ($name, $module) = ("layers", layers);
            $change
        };
        let norm = {
            let ($name, $module) = ("norm", norm);
            $change
        };
        let lm_head = {
            let ($name, $module) = ("lm_head", lm_head);
            $change
        };
        Llama { embed_tokens, layers, norm, lm_head, config, peft, gradient_checkpointing, rotations }
    }};
}

impl Llama {
    /// Moves every module with `to`; the weight that a tied head shares is moved once.
    fn moved(mut self, to: impl FnOnce(Self) -> Self) -> Self {
        let shared = self.config.tie_word_embeddings && !self.differ_when_merged(self.lm_head.adapters().merged());
        if !shared {
            return to(self);
        }
        // One row stands in for it meanwhile.
        self.set_head(self.embed_tokens.base().val().rows(0, 1));
        let mut moved = to(self);
        moved.set_head(moved.embed_tokens.base().val());
        moved
    }

    fn set_head(&mut self, weight: impl Into<Weight>) {
        self.lm_head.base_mut().weight.set(weight);
    }
}

impl Module for Llama {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        let devices = self.embed_tokens.collect_devices(devices);
        let devices = self.layers.collect_devices(devices);
        self.lm_head.collect_devices(self.norm.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        self.moved(|model| changed!(model, |_name, module| Module::fork(module, device)))
    }

    fn to_device(self, device: &Device) -> Self {
        self.moved(|model| changed!(model, |_name, module| Module::to_device(module, device)))
    }

    fn train(self) -> Self {
        changed!(self, |_name, module| Module::train(module))
    }

    fn valid(&self) -> Self {
        Self {
            embed_tokens: self.embed_tokens.valid(),
            layers: self.layers.valid(),
            norm: self.norm.valid(),
            lm_head: self.lm_head.valid(),
            config: self.config.clone(),
            peft: self.peft.clone(),
            gradient_checkpointing: self.gradient_checkpointing,
            rotations: self.rotations.clone(),
        }
    }

    fn materialize(self) -> Self {
        changed!(self, |_name, module| Module::materialize(module))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        fn one<M: Module, V: ModuleVisitor>(name: &str, module: &M, visitor: &mut V) {
            visitor.enter_module(name, CONTAINER);
            module.visit(visitor);
            visitor.exit_module(name, CONTAINER);
        }
        one("embed_tokens", &self.embed_tokens, visitor);
        one("layers", &self.layers, visitor);
        one("norm", &self.norm, visitor);
        one("lm_head", &self.lm_head, visitor);
    }

    fn map<F: ModuleMapper>(self, mapper: &mut F) -> Self {
        changed!(self, |name, module| {
            mapper.enter_module(name, CONTAINER);
            let module = Module::map(module, mapper);
            mapper.exit_module(name, CONTAINER);
            module
        })
    }
}

impl ModuleDisplayDefault for Llama {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .set_top_level_type("Llama")
            .add("embed_tokens", &self.embed_tokens)
            .add("layers", &self.layers)
            .add("norm", &self.norm)
            .add("lm_head", &self.lm_head)
            .optional()
    }
}

impl ModuleDisplay for Llama {}

impl std::fmt::Display for Llama {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.format(Default::default()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use burn::backend::Flex;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::Tensor;

    use super::*;
    use crate::LlamaConfig;

    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 24, "hidden_size": 16, "intermediate_size": 20,
        "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": true}"#;

    /// Where the weights of the embedding and of the head are in memory.
    fn places(model: &Llama) -> [*const u8; 2] {
        let place = |weight: Tensor<2>| {
            let weight: FloatTensor<Flex> = weight.inner().try_into_primitive::<Flex>().unwrap();
            weight.bytes().as_ptr()
        };
        [place(model.embed_tokens.base().val().dense()), place(model.lm_head.base().weight.val().dense())]
    }

    #[test]
    fn a_tied_head_shares_the_embedding_after_a_move_even_one_that_copies() {
        let device = Device::flex();
        let config = LlamaConfig::from_json(CONFIG, Path::new("config.json")).unwrap();
        let mut model = Llama::random(config, 1, &device);
        let [embedding, head] = places(&model);
        assert_eq!(embedding, head);
        // As a move of both to another device leaves them: equal values, each in memory of its own.
        model.set_head(Tensor::from_data(model.embed_tokens.base().val().dense().into_data(), &device));
        let [embedding, head] = places(&model);
        assert_ne!(embedding, head);
        for moved in
            [model.clone().to_device(&device), model.clone().fork(&device), model.clone().train().fork(&device)]
        {
            let [embedding, head] = places(&moved);
            assert_eq!(embedding, head);
            assert_eq!(moved.lm_head.dims(), [16, 24]);
        }
        // A head of its own stays one.
        model.config.tie_word_embeddings = false;
        let [embedding, head] = places(&model.to_device(&device));
        assert_ne!(embedding, head);
    }
}
