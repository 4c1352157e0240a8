//! Root-mean-square normalisation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use fused_burn::rms_norm;
use peft_burn::Frozen;

/// `y = x / √(mean(x²) + ε) · g` over the last dimension (Zhang & Sennrich 2019), computed in f32 as transformers does.
#[derive(Module, Debug)]
pub struct RmsNorm {
    gain: Frozen<Param<Tensor<1>>>,
    eps: f64,
}

impl RmsNorm {
    /// A frozen norm with the given gain (`[hidden]`).
    pub fn new(gain: Tensor<1>, eps: f64) -> Self {
        Self { gain: Frozen::new(Param::from_tensor(gain).set_require_grad(false)), eps }
    }

    /// The gain, `[hidden]`.
    pub fn gain(&self) -> &Param<Tensor<1>> {
        &self.gain
    }

    /// Makes the gain trainable and visible to the optimiser, or frozen and hidden.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.gain.thaw(trainable);
        let gain = self.gain.inner_mut();
        *gain = gain.clone().set_require_grad(trainable);
    }

    /// Normalises each row of `x` (`[n, hidden]`).
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gain = self.gain.val();
        let gain = if gain.dtype() == x.dtype() { gain } else { gain.cast(x.dtype()) };
        rms_norm(x, gain, self.eps)
    }
}
