//! Decoder layers that keep nothing but their input for backward, and run again there (gradient checkpointing).
//!
//! A layer is one operation of the graph. Its forward pass runs outside autodiff; its backward pass runs it once more
//! on leaves of its own, in a graph of its own, and hands on the gradients.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, DispatchKindConversion, DispatchTensor, Flex};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients as LayerGradients, Tensor};

use super::layer::DecoderLayer;
use super::surroundings::{Memory, Surroundings};

/// `layer` of `x`, to run again in backward. `outside` is what the layer needs outside autodiff, `inside` under it.
/// `None` where there is nothing to train, or on a backend that this is not made for.
pub(crate) fn forward(
    layer: &DecoderLayer,
    x: &Tensor<2>,
    outside: &Surroundings,
    inside: &Surroundings,
) -> Option<Tensor<2>> {
    let recorded = record::<Flex>(layer, x, outside, inside);
    #[cfg(feature = "cube")]
    let recorded = recorded.or_else(|| record::<burn::backend::Cube>(layer, x, outside, inside));
    recorded
}

fn record<B: Backend>(
    layer: &DecoderLayer,
    x: &Tensor<2>,
    outside: &Surroundings,
    inside: &Surroundings,
) -> Option<Tensor<2>>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    let node = x.clone().try_into_primitive::<Autodiff<B>>().ok()?.node();
    let mut trained = Trained::<B> { nodes: Vec::new(), first: None, backend: std::marker::PhantomData };
    layer.visit(&mut trained);
    let wants_x = x.is_tracked();
    // The layer's parameters get their gradients by their nodes; one of them suffices to have it in the graph.
    let anchor = match trained.first {
        Some(anchor) => anchor,
        None if wants_x => x.clone().try_into_primitive::<Autodiff<B>>().ok()?.node(),
        None => return None,
    };
    let (layer, x) = (layer.valid(), x.clone().inner());
    let y = layer.forward(x.clone(), outside, Memory::None).try_into_primitive::<B>().ok()?;
    let OpsKind::Tracked(operation) = Rerun.prepare::<NoCheckpointing>([node, anchor]).compute_bound().stateful()
    else {
        return None;
    };
    let state = Block { layer, x, wants_x, nodes: trained.nodes, inside: inside.clone() };
    Some(Tensor::from_primitive::<Autodiff<B>>(operation.finish(state, y)))
}

/// A layer and its input, both outside autodiff.
#[derive(Clone, Debug)]
struct Block {
    layer: DecoderLayer,
    x: Tensor<2>,
    wants_x: bool,
    /// The graph's node of each trained parameter.
    nodes: Vec<(ParamId, NodeId)>,
    inside: Surroundings,
}

#[derive(Debug)]
struct Rerun;

impl<B: Backend> Backward<B, 2> for Rerun
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Block;

    fn backward(self, ops: Ops<Block, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = Tensor::<2>::from_primitive::<B>(grads.consume::<B>(&ops.node));
        let Block { layer, x, wants_x, nodes, inside } = ops.state;
        // Training mode makes new leaves of the trained parameters.
        let layer = layer.train();
        let x = Tensor::from_inner(x).set_require_grad(wants_x);
        let y = layer.forward(x.clone(), &inside, Memory::None);
        // Adapters of rank 0 are trained in name only.
        if !y.is_tracked() {
            return;
        }
        let mut found = (y * Tensor::from_inner(dy)).sum().backward();
        if let [Some(node), _] = &ops.parents
            && let Some(dx) = x.grad_remove(&mut found).and_then(|dx| dx.try_into_primitive::<B>().ok())
        {
            grads.register::<B>(node.id, dx);
        }
        layer.visit(&mut HandOn::<B> { found, nodes, grads, backend: std::marker::PhantomData });
    }
}

/// Collects the nodes of trained parameters.
struct Trained<B> {
    nodes: Vec<(ParamId, NodeId)>,
    first: Option<NodeGuard>,
    backend: std::marker::PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for Trained<B>
where
    DispatchTensor: DispatchKindConversion<Autodiff<B>>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad()
            && let Ok(value) = value.try_into_primitive::<Autodiff<B>>()
        {
            self.nodes.push((param.id, value.id()));
            self.first.get_or_insert_with(|| value.node());
        }
    }
}

/// Registers the gradients of the leaves as those of the parameters that they stand for.
struct HandOn<'a, B> {
    found: LayerGradients,
    nodes: Vec<(ParamId, NodeId)>,
    grads: &'a mut Gradients,
    backend: std::marker::PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for HandOn<'_, B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let node = self.nodes.iter().find(|(id, _)| *id == param.id);
        if let Some((_, node)) = node
            && let Some(grad) = param.val().grad_remove(&mut self.found)
            && let Ok(grad) = grad.try_into_primitive::<B>()
        {
            self.grads.register::<B>(*node, grad);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use burn::tensor::TensorData;
    use fused_burn::testing::test_device;
    use peft_burn::{
        AdaLoraConfig, Ia3Config, InitLoraWeights, LoraConfig, PeftConfig, PeftModel, TargetModules, TensorRng,
        VeraConfig,
    };

    use super::*;
    use crate::{AttentionMask, Input, Llama, LlamaConfig};

    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "initializer_range": 0.2}"#;

    fn model() -> Llama {
        Llama::random(LlamaConfig::from_json(CONFIG, Path::new("config.json")).unwrap(), 1, &test_device())
    }

    /// The output and the gradient of every trained parameter, as bits.
    fn evaluate(model: &Llama, mask: AttentionMask) -> (TensorData, BTreeMap<String, TensorData>) {
        struct Grads(burn::tensor::Gradients, BTreeMap<String, TensorData>);
        impl ModuleVisitor for Grads {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(grad) = param.val().grad(&self.0) {
                    self.1.insert(param.id.to_string(), grad.into_data());
                }
            }
        }
        let rows = [vec![3, 1, 4, 1, 5, 9, 2], vec![6, 5, 3, 5, 8, 9, 7]];
        let input = Input::from_rows(&rows, &model.device()).with_mask(mask);
        let hidden = model.hidden(&input, None);
        let n = hidden.dims();
        let weights = TensorData::new(TensorRng::new(2, "w").normal(n[0] * n[1], 1.0), n);
        let loss = (hidden.clone() * Tensor::from_data(weights, &model.device())).sum();
        let mut grads = Grads(loss.backward(), BTreeMap::new());
        model.visit(&mut grads);
        (hidden.into_data(), grads.1)
    }

    fn assert_the_same(mut model: Llama, trained: usize) {
        let hidden = AttentionMask::Hidden(vec![vec![false; 7], vec![false, false, false, false, false, true, true]]);
        let segments = AttentionMask::Segments(vec![vec![0, 0, 0, 1, 1, 1, 1], vec![0; 7]]);
        for mask in [AttentionMask::Causal, segments, hidden] {
            model.set_gradient_checkpointing(false);
            let expected = evaluate(&model, mask.clone());
            assert_eq!(expected.1.len(), trained);
            model.set_gradient_checkpointing(true);
            let found = evaluate(&model, mask.clone());
            assert!(found.1.keys().eq(expected.1.keys()));
            let pairs = found.1.values().zip(expected.1.values()).chain([(&found.0, &expected.0)]);
            for (found, expected) in pairs {
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn gradients_are_the_same_to_the_bit_with_every_method() {
        let list = |names: &[&str]| TargetModules::list(names.iter().copied());
        let lora = |use_dora, target_modules| {
            let init_lora_weights = InitLoraWeights::Random;
            let config = LoraConfig { r: 4, use_dora, target_modules, init_lora_weights, ..LoraConfig::default() };
            PeftConfig::Lora(config)
        };
        let configs = [
            (lora(false, list(&["q_proj", "v_proj", "down_proj"])), 18),
            (lora(false, list(&["q_proj", "v_proj", "embed_tokens"])), 14),
            (lora(true, TargetModules::AllLinear), 63),
            (PeftConfig::Vera(VeraConfig { r: 8, init_weights: false, ..VeraConfig::default() }), 12),
            (
                PeftConfig::AdaLora(AdaLoraConfig {
                    init_r: 4,
                    target_r: 2,
                    total_step: Some(1000),
                    init_lora_weights: InitLoraWeights::Random,
                    target_modules: list(&["q_proj", "o_proj"]),
                    ..AdaLoraConfig::default()
                }),
                18,
            ),
            (PeftConfig::Ia3(Ia3Config { init_ia3_weights: false, ..Ia3Config::default() }), 9),
        ];
        for (config, trained) in configs {
            let mut model = model();
            model.add_adapter("default", &config, 5).unwrap();
            assert_the_same(model.train(), trained);
        }
    }

    #[test]
    fn adapters_on_some_layers_alone_and_two_at_once() {
        let mut model = model();
        for (name, layer) in [("a", 1), ("b", 2)] {
            let layers_to_transform = Some(peft_burn::OneOrMany::One(layer));
            let init_lora_weights = InitLoraWeights::Random;
            let config = LoraConfig { layers_to_transform, init_lora_weights, ..LoraConfig::default() };
            model.add_adapter(name, &PeftConfig::Lora(config), 5).unwrap();
        }
        model.set_adapter(&["a", "b"]).unwrap();
        assert_the_same(model.train(), 8);
    }

    #[test]
    fn a_trained_base() {
        let mut model = model();
        model.set_base_trainable(true).unwrap();
        assert_the_same(model.train(), 29);
    }

    #[test]
    fn dropout_and_validation_run_as_usual() {
        let mut model = model();
        let config = LoraConfig { lora_dropout: 0.5, ..LoraConfig::default() };
        model.add_adapter("default", &PeftConfig::Lora(config), 5).unwrap();
        model.set_gradient_checkpointing(true);
        assert!(!model.recomputes());
        let rows = [vec![3, 1, 4]];
        let logits = model.valid().forward(&Input::from_rows(&rows, &test_device()));
        assert_eq!(logits.dims(), [1, 3, 40]);
    }
}
