//! Root-mean-square normalisation.

use burn::module::Module;
use burn::tensor::Tensor;
use fused_burn::offset_rms_norm;
use peft_burn::PeftNorm;

/// `y = x / √(mean(x²) + ε) · g` over the last dimension (Zhang & Sennrich 2019), computed in f32 as transformers does.
#[derive(Module, Debug)]
pub struct RmsNorm {
    gain: PeftNorm,
    eps: f64,
    offset: f64,
}

/// `x` through `norm`, where there is one.
pub(super) fn through(norm: Option<&RmsNorm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

impl RmsNorm {
    /// A frozen norm with the given gain (`[hidden]`).
    pub fn new(gain: Tensor<1>, eps: f64) -> Self {
        Self { gain: PeftNorm::new(gain), eps, offset: 0.0 }
    }

    /// With a gain that is stored less `offset`: Gemma's norms multiply by 1 + g.
    pub fn with_offset(mut self, offset: f64) -> Self {
        self.offset = offset;
        self
    }

    /// The gain (`[hidden]`), as it is stored, and the copies of it that adapters train.
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

    /// Normalises each row of `x` (`[n, hidden]`), or each part of a row that is as wide as the gain.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gain = self.gain.value();
        let gain = if gain.dtype() == x.dtype() { gain } else { gain.cast(x.dtype()) };
        let (shape, [width]) = (x.dims(), gain.dims());
        if shape[1] == width {
            return offset_rms_norm(x, gain, self.eps, self.offset);
        }
        let parts = x.reshape([shape[0] * shape[1] / width.max(1), width]);
        offset_rms_norm(parts, gain, self.eps, self.offset).reshape(shape)
    }
}
