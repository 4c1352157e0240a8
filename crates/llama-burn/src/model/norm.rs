//! Root-mean-square normalisation.

use burn::module::Module;
use burn::tensor::Tensor;
use fused_burn::rms_norm;
use peft_burn::PeftNorm;

/// `y = x / √(mean(x²) + ε) · g` over the last dimension (Zhang & Sennrich 2019), computed in f32 as transformers does.
#[derive(Module, Debug)]
pub struct RmsNorm {
    gain: PeftNorm,
    eps: f64,
}

impl RmsNorm {
    /// A frozen norm with the given gain (`[hidden]`).
    pub fn new(gain: Tensor<1>, eps: f64) -> Self {
        Self { gain: PeftNorm::new(gain), eps }
    }

    /// The gain (`[hidden]`) and the copies of it that adapters train.
    pub fn gain(&self) -> &PeftNorm {
        &self.gain
    }

    /// As [`Self::gain`], to change.
    pub fn gain_mut(&mut self) -> &mut PeftNorm {
        &mut self.gain
    }

    /// Makes the gain trainable and visible to the optimiser, or frozen and hidden.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.gain.set_base_trainable(trainable);
    }

    /// Normalises each row of `x` (`[n, hidden]`).
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gain = self.gain.value();
        let gain = if gain.dtype() == x.dtype() { gain } else { gain.cast(x.dtype()) };
        rms_norm(x, gain, self.eps)
    }
}
