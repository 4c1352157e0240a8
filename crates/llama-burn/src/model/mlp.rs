//! The feedforward block.

use burn::module::Module;
use burn::tensor::Tensor;
use fused_burn::{Activation, glu, scaled_glu};
use peft_burn::{PeftLinear, Plan};

use super::parts::{Builder, PartMut, PartRef, Parts, Source};
use super::projection::{alone, together};

/// `down(act(gate(x)) · up(x))` (Shazeer 2020).
#[derive(Module, Debug)]
pub struct Mlp {
    /// gate and up (`[hidden, intermediate]` each), or both side by side in one.
    pub gate_up: Vec<PeftLinear>,
    /// `[intermediate, hidden]`.
    pub down_proj: PeftLinear,
    #[module(skip)]
    activation: Activation,
}

const APART: [&str; 2] = ["gate_proj", "up_proj"];
const FUSED: [&str; 1] = ["gate_up_proj"];

/// The names of the projections of gate and up.
fn names(fused: bool) -> &'static [&'static str] {
    if fused { &FUSED } else { &APART }
}

impl Parts for Mlp {
    fn parts<'a>(&'a self, path: &str, all: &mut Vec<(String, PartRef<'a>)>) {
        for (layer, name) in self.gate_up.iter().zip(names(self.gate_up.len() == 1)) {
            layer.parts(&format!("{path}.{name}"), all);
        }
        self.down_proj.parts(&format!("{path}.down_proj"), all);
    }

    fn parts_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, PartMut<'a>)>) {
        let names = names(self.gate_up.len() == 1);
        for (layer, name) in self.gate_up.iter_mut().zip(names) {
            layer.parts_mut(&format!("{path}.{name}"), all);
        }
        self.down_proj.parts_mut(&format!("{path}.down_proj"), all);
    }
}

impl Mlp {
    pub(crate) fn build<S: Source>(from: &mut Builder<'_, S>, path: &str) -> Result<Self, S::Error> {
        let decoder = &from.config.decoder;
        let linear = |name: &&str| from.linear(&format!("{path}.{name}"));
        Ok(Self {
            gate_up: names(decoder.fused).iter().map(linear).collect::<Result<_, _>>()?,
            down_proj: from.linear(&format!("{path}.down_proj"))?,
            activation: decoder.gate.into(),
        })
    }

    /// `x`: `[n, hidden]`; the result has the same shape.
    pub(crate) fn forward(&self, x: Tensor<2>, plan: Option<&Plan>) -> Tensor<2> {
        let [gate, up] = match self.gate_up.as_slice() {
            [gate, up] => together([gate, up], x, plan),
            fused => {
                let both = alone(&fused[0], x, plan);
                let width = both.dims()[1] / 2;
                [0, width].map(|start| both.clone().narrow(1, start, width))
            }
        };
        match self.down_proj.input_scale().filter(|_| plan.is_none()) {
            Some(scale) => self.down_proj.forward_scaled(scaled_glu(gate, up, scale, self.activation)),
            None => alone(&self.down_proj, glu(gate, up, self.activation), plan),
        }
    }
}
