//! The adapter methods, one file each, and the one enum that names them all.

mod lora;

use burn::module::Module;
use burn::tensor::{Bool, Distribution, Tensor};

pub use lora::{Lora, LoraInit, LoraSpec};

use crate::param::{ParamMut, ParamRef};

/// An adapter of one linear layer, whatever its method.
#[derive(Module, Debug)]
pub enum Method {
    /// Low-rank update.
    Lora(Lora),
}

impl Method {
    /// Adds the method's contribution for `x` (`[n, in]`) to the base's output `y` (`[n, out]`).
    pub(crate) fn apply(&self, y: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Lora(lora) => y + lora.update(x),
        }
    }

    /// The base weight `[out, in]` in f32 with the adapter folded in.
    pub(crate) fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Lora(lora) => lora.merge(weight),
        }
    }

    /// The base's bias `[out]` in f32 with the adapter folded in; `None` where the layer has none and needs none.
    pub(crate) fn merge_bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        let delta = match self {
            Self::Lora(lora) => lora.delta_bias(),
        };
        match (bias, delta) {
            (Some(bias), Some(delta)) => Some(bias + delta),
            (bias, delta) => bias.or(delta),
        }
    }

    /// Parameters by the names that PEFT gives them on disk, after the module's path.
    pub fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        match self {
            Self::Lora(lora) => lora.params(),
        }
    }

    /// As [`Self::params`], to write into.
    pub fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        match self {
            Self::Lora(lora) => lora.params_mut(),
        }
    }
}

/// Zeroes each entry with probability `p` and scales the rest by 1/(1−p), in training only.
pub(crate) fn dropout<const D: usize>(x: Tensor<D>, p: f64, training: bool) -> Tensor<D> {
    if p == 0.0 || !training {
        return x;
    }
    let drop: Tensor<D, Bool> = x.random_like(Distribution::Bernoulli(p)).bool();
    x.mask_fill(drop, 0.0).mul_scalar(1.0 / (1.0 - p))
}
