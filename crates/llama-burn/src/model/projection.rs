//! Projections of one x, under attached adapters or those of a plan.

use burn::tensor::Tensor;
use peft_burn::{PeftLinear, Plan};

/// Projections of one x: under the adapters of `plan`, or those that are attached.
pub(super) fn together<const N: usize>(layers: [&PeftLinear; N], x: Tensor<2>, plan: Option<&Plan>) -> [Tensor<2>; N] {
    match plan {
        Some(plan) => PeftLinear::serve_together(layers, &x, plan),
        None => PeftLinear::forward_together(layers, x),
    }
}

/// One projection, as [`together`].
pub(super) fn alone(layer: &PeftLinear, x: Tensor<2>, plan: Option<&Plan>) -> Tensor<2> {
    match plan {
        Some(_) => {
            let [y] = together([layer], x, plan);
            y
        }
        None => layer.forward(x),
    }
}
