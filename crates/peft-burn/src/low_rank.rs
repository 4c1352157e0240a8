//! Updates `s·B·A` taken out of adapters of any method that has them, and put into new LoRA adapters.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};

use crate::config::LoraConfig;
use crate::error::Result;
use crate::layer::LayerRef;
use crate::model::{PeftModel, file_key};
use crate::svd::svd;

/// An update of a weight `[out, in]`; of an embedding `[vocab, hidden]`, of its transpose. In f32, outside any graph.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    /// A: `[r, in]`.
    pub(crate) a: Tensor<2>,
    /// B: `[out, r]`.
    pub(crate) b: Tensor<2>,
    /// s.
    pub(crate) scaling: f64,
}

impl LowRank {
    pub(crate) fn new(a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Self {
        let plain = |t: Tensor<2>| t.detach().inner().cast(DType::F32);
        Self { a: plain(a), b: plain(b), scaling }
    }

    /// The best update of rank `r` for `delta` (`[out, in]`), at scaling 1.
    pub(crate) fn nearest(delta: Tensor<2>, r: usize) -> Self {
        let [out, inp] = delta.dims();
        let r = r.min(out).min(inp);
        let (u, s, vt) = svd(delta);
        let b = u.narrow(1, 0, r) * s.narrow(0, 0, r).reshape([1, r]);
        Self::new(vt.narrow(0, 0, r), b, 1.0)
    }

    pub(crate) fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `s·B·A`: `[out, in]`.
    pub(crate) fn delta(&self) -> Tensor<2> {
        let ([r, inp], [out, _]) = (self.a.dims(), self.b.dims());
        if r == 0 {
            return Tensor::zeros([out, inp], &self.a.device());
        }
        self.b.clone().matmul(self.a.clone()).mul_scalar(self.scaling)
    }

    /// The same update at scaling 1 with at least `r` rows, the added ones zero.
    pub(crate) fn at_rank(self, r: usize) -> Self {
        let ([rank, inp], [out, _]) = (self.a.dims(), self.b.dims());
        let (device, a, b) = (self.a.device(), self.a.mul_scalar(self.scaling), self.b);
        if rank >= r {
            return Self { a, b, scaling: 1.0 };
        }
        let a = Tensor::cat(vec![a, Tensor::zeros([r - rank, inp], &device)], 0);
        let b = Tensor::cat(vec![b, Tensor::zeros([out, r - rank], &device)], 1);
        Self { a, b, scaling: 1.0 }
    }
}

/// One layer of a new LoRA adapter.
#[derive(Clone, Debug)]
pub(crate) struct NewLayer {
    pub(crate) update: LowRank,
    /// DoRA's m.
    pub(crate) magnitude: Option<Tensor<1>>,
    /// B's bias.
    pub(crate) bias: Option<Tensor<1>>,
}

/// Adds a LoRA adapter with these layers, by path, and the values of `copied` by their names in a file. What was active
/// stays so.
pub(crate) fn add_lora<M: PeftModel>(
    model: &mut M,
    name: &str,
    config: LoraConfig,
    layers: BTreeMap<String, NewLayer>,
    copied: BTreeMap<String, TensorData>,
) -> Result<()> {
    let mut values = copied;
    for (path, layer) in layers {
        let is_embedding = model.layers().iter().any(|(p, l)| *p == path && matches!(l, LayerRef::Embedding(_)));
        let names =
            if is_embedding { ["lora_embedding_A", "lora_embedding_B"] } else { ["lora_A.weight", "lora_B.weight"] };
        let update = layer.update.at_rank(0);
        let mut put = |suffix, data| values.insert(file_key(&path, suffix), data);
        put(names[0], update.a.into_data());
        put(names[1], update.b.into_data());
        layer.magnitude.into_iter().for_each(|m| drop(put("lora_magnitude_vector", m.detach().into_data())));
        layer.bias.into_iter().for_each(|b| drop(put("lora_B.bias", b.detach().into_data())));
    }
    let active = model.active_adapters().to_vec();
    model.add_adapter(name, &config.into(), 0)?;
    for (key, mut param) in model.adapter_params_mut(name)? {
        if let Some(data) = values.remove(&key) {
            param.set(data);
        }
    }
    model.set_adapter(&active.iter().map(String::as_str).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::param::from_vec;
    use crate::random::TensorRng;
    use burn::tensor::{Device, Tolerance};

    #[test]
    fn a_matrix_of_low_rank_is_found_again_and_padding_changes_nothing() {
        let device = Device::flex();
        let mut rng = TensorRng::new(1, "l");
        let [a, b] = [[2, 6], [5, 2]].map(|s| from_vec(rng.normal(s[0] * s[1], 1.0), s, &device).val());
        let update = LowRank::new(a, b, 0.5);
        let delta = update.delta();
        for found in [LowRank::nearest(delta.clone(), 2), LowRank::nearest(delta.clone(), 99), update.at_rank(7)] {
            assert_eq!(found.scaling, 1.0);
            found.delta().into_data().assert_approx_eq::<f32>(&delta.to_data(), Tolerance::absolute(1e-5));
        }
    }
}
