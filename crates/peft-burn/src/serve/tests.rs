#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::{Device, Tensor, Tolerance};

use super::pack::{Kind, PackedLinear};
use super::{AdapterPack, Pairs, Plan};
use crate::config::InitLoraWeights;
use crate::layers::{LinearAdapter, PeftLinear};
use crate::methods::configs::*;
use crate::methods::{PairKey, PeftConfig, Place, VeraProjection};
use crate::param::from_vec;
use crate::random::TensorRng;

fn matrix(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
    from_vec(TensorRng::new(seed, "m").normal(rows * columns, 0.5), [rows, columns], &Device::flex()).val()
}

/// Methods with values that change the result.
fn configs() -> Vec<PeftConfig> {
    let init_lora_weights = InitLoraWeights::Random;
    let lora = LoraConfig { r: 3, init_lora_weights: init_lora_weights.clone(), ..LoraConfig::default() };
    vec![
        lora.clone().into(),
        LoraConfig { lora_bias: true, ..lora.clone() }.into(),
        LoraConfig { use_dora: true, ..lora }.into(),
        AdaLoraConfig { init_r: 3, target_r: 2, init_lora_weights, ..AdaLoraConfig::default() }.into(),
        VeraConfig { r: 4, init_weights: false, ..VeraConfig::default() }.into(),
        Ia3Config { init_ia3_weights: false, ..Ia3Config::default() }.into(),
        LoHaConfig { r: 2, init_weights: false, ..LoHaConfig::default() }.into(),
        // Larger than the weight: kept as one.
        LoHaConfig { r: 9, init_weights: false, ..LoHaConfig::default() }.into(),
    ]
}

#[test]
fn in_host_memory_and_composed_a_row_gets_what_the_layer_gives_it() {
    let (n, inp, out) = (7, 10, 12);
    let pairs = Pairs::default();
    let projection = VeraProjection::draw(PairKey { key: 0, r: 4, max_in: inp, max_out: out }, &Device::flex());
    for bias in [None, Some(matrix(1, out, 3).reshape([out]))] {
        let layer = PeftLinear::new(matrix(out, inp, 1), bias).with_slot(5);
        let x = matrix(n, inp, 2);
        for config in configs() {
            let weight = layer.base().weight.val();
            let place = Place { path: "q", weight: &weight, seed: 3, shared_pair: Some(&projection) };
            let adapter = LinearAdapter::new(config.init(&place).unwrap().0);
            let mut attached = layer.clone();
            attached.adapters_mut().insert("a", adapter.clone());
            attached.adapters_mut().set_active(&["a".into()], &[]);
            let base = layer.forward(x.clone());
            let own = attached.forward(x.clone());
            let expected =
                Tensor::cat(vec![base.clone().narrow(0, 0, 2), own.narrow(0, 2, 4), base.narrow(0, 6, 1)], 0);
            let on_host = PackedLinear::new(&layer, &adapter, &pairs);
            assert!(matches!(on_host.kind, Kind::Rows { .. }));
            let composed = PackedLinear { weight: None, kind: Kind::Composed(adapter) };
            for packed in [on_host, composed] {
                let pack = Arc::new(AdapterPack::of_layer(5, packed));
                let plan = Plan::new([(None, 2), (Some(pack), 4), (None, 1)]);
                let [found] = PeftLinear::serve_together([&layer], &x, &plan);
                found.into_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::rel_abs(1e-5, 1e-5));
            }
        }
    }
}
