//! LoRA and DoRA on an embedding.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor};
use fused_burn::Weight;

use super::magnitude::Magnitude;
use crate::low_rank::LowRank;
use crate::param::{ParamMut, ParamRef, from_vec};
use crate::random::TensorRng;

/// LoRA on an embedding: row `i` becomes `E[i] + s·(B·A)[:, i]`; with DoRA that is scaled to learned norms of the
/// columns. PEFT ignores dropout here, and so does this.
#[derive(Module, Debug)]
pub struct EmbeddingLora {
    /// A: `[r, vocab]`, zero at the start.
    lora_a: Param<Tensor<2>>,
    /// B: `[hidden, r]`.
    lora_b: Param<Tensor<2>>,
    /// DoRA's norms of the columns, `[hidden]`.
    magnitude: Option<Magnitude>,
    /// Factor of the update.
    scaling: f64,
}

impl EmbeddingLora {
    /// The adapter for `weight` (`[vocab, hidden]`): A = 0, B ~ N(0, 1), as PEFT begins.
    pub(crate) fn init(weight: &Weight, r: usize, scaling: f64, dora: bool, rng: &mut TensorRng) -> Self {
        let ([vocab, hidden], device) = (weight.dims(), weight.device());
        let lora_a = from_vec(vec![0.0; r * vocab], [r, vocab], &device);
        let lora_b = from_vec(rng.normal(hidden * r, 1.0), [hidden, r], &device);
        let base = weight.dense().transpose().into();
        let magnitude = dora.then(|| Magnitude::new(&base, &lora_a.val(), &lora_b.val(), scaling));
        Self { lora_a, lora_b, magnitude, scaling }
    }

    /// The adapted rows `y` (`[n, hidden]`) that were looked up for `ids`. `base` is the matrix `[vocab, hidden]` before
    /// any merge.
    pub(crate) fn apply(&self, y: Tensor<2>, ids: Tensor<1, Int>, base: &Weight) -> Tensor<2> {
        let dtype = y.dtype();
        let low = self.lora_a.val().select(1, ids).transpose();
        let update = low.matmul(self.lora_b.val().transpose()).mul_scalar(self.scaling);
        self.scale(y.cast(DType::F32) + update, base).cast(dtype)
    }

    /// The matrix `[vocab, hidden]` (f32) with the update folded in.
    pub(crate) fn merge(&self, weight: Tensor<2>, base: &Weight) -> Tensor<2> {
        let update = self.lora_b.val().matmul(self.lora_a.val()).transpose().mul_scalar(self.scaling);
        self.scale(weight + update, base)
    }

    /// Multiplies the scaling.
    pub(crate) fn rescale(&mut self, multiplier: f64) {
        self.scaling *= multiplier;
        self.magnitude.iter_mut().for_each(Magnitude::forget_norm);
    }

    /// The update of the transposed matrix, without DoRA's norms.
    pub(crate) fn low_rank(&self) -> LowRank {
        LowRank::new(self.lora_a.val(), self.lora_b.val(), self.scaling)
    }

    /// DoRA's norms.
    pub(crate) fn norms(&self) -> Option<&Magnitude> {
        self.magnitude.as_ref()
    }

    fn scale(&self, rows: Tensor<2>, base: &Weight) -> Tensor<2> {
        let Some(magnitude) = &self.magnitude else { return rows };
        let base = base.dense().transpose().into();
        let (a, b) = (self.lora_a.val(), self.lora_b.val());
        rows * magnitude.factor(&base, &a, &b, self.scaling).unsqueeze()
    }

    /// To be called before the base's matrix is written into.
    pub(crate) fn forget_base(&mut self) {
        self.magnitude.iter_mut().for_each(Magnitude::forget_base);
    }

    /// Parameters by the names that PEFT gives them on disk.
    pub fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        let mut all = vec![
            ("lora_embedding_A", ParamRef::from(&self.lora_a)),
            ("lora_embedding_B", ParamRef::from(&self.lora_b)),
        ];
        all.extend(self.magnitude.iter().map(|m| ("lora_magnitude_vector", ParamRef::from(m.magnitude()))));
        all
    }

    /// As [`Self::params`], to write into.
    pub fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let mut all = vec![
            ("lora_embedding_A", ParamMut::from(&mut self.lora_a)),
            ("lora_embedding_B", ParamMut::from(&mut self.lora_b)),
        ];
        if let Some(magnitude) = &mut self.magnitude {
            magnitude.forget_norm();
            all.push(("lora_magnitude_vector", ParamMut::from(magnitude.magnitude_mut())));
        }
        all
    }
}
