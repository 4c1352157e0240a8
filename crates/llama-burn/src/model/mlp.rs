//! The feedforward block.

use burn::module::Module;
use burn::tensor::Tensor;
use fused_burn::{scaled_swiglu, swiglu};
use peft_burn::{PeftLinear, Plan};

use super::parts::{Builder, Source, parts};
use super::served::{alone, together};

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

parts!(Mlp { gate_proj, up_proj, down_proj });

impl Mlp {
    pub(crate) fn build<S: Source>(from: &mut Builder<'_, S>, path: &str) -> Result<Self, S::Error> {
        Ok(Self {
            gate_proj: from.linear(&format!("{path}.gate_proj"))?,
            up_proj: from.linear(&format!("{path}.up_proj"))?,
            down_proj: from.linear(&format!("{path}.down_proj"))?,
        })
    }

    /// `x`: `[n, hidden]`; the result has the same shape.
    pub(crate) fn forward(&self, x: Tensor<2>, plan: Option<&Plan>) -> Tensor<2> {
        let [gate, up] = together([&self.gate_proj, &self.up_proj], x, plan);
        match self.down_proj.input_scale().filter(|_| plan.is_none()) {
            Some(scale) => self.down_proj.forward_scaled(scaled_swiglu(gate, up, scale)),
            None => alone(&self.down_proj, swiglu(gate, up), plan),
        }
    }
}
