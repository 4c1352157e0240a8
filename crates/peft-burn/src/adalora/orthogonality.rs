//! AdaLoRA's regulariser, which keeps the rows of A and the columns of B orthogonal (Zhang et al. 2023, section 3.1), so
//! that an entry of E tells of its triplet alone.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use fused_burn::better_together;

use super::layers::layers;
use crate::error::Result;
use crate::methods::AdaLora;
use crate::model::{PeftModel, device_of};

/// The orthogonality term, `[1]`: `orth_reg_weight` times the mean, over every A and B of the adapter `name`, of how far
/// it is from orthogonal. It belongs to the training loss and to no other.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub fn orthogonal_regularization<M: PeftModel>(model: &M, name: &str) -> Result<Tensor<1>> {
    let (config, layers) = layers(model, name)?;
    let count = 2.0 * layers.len() as f64;
    let sum = orthogonality(layers.iter().map(|(_, layer)| *layer));
    Ok(sum.unwrap_or_else(|| Tensor::zeros([1], &device_of(model))).mul_scalar(config.orth_reg_weight / count))
}

/// The sum of ‖A·Aᵀ − I‖ + ‖Bᵀ·B − I‖ over the layers, Frobenius norms: `[1]`. `None` where all are of rank 0.
fn orthogonality<'a>(layers: impl Iterator<Item = &'a AdaLora>) -> Option<Tensor<1>> {
    let layers = layers.filter(|layer| layer.rank() > 0);
    let factors = layers.flat_map(|layer| [layer.lora_a.val(), layer.lora_b.val().transpose()]);
    let norms = batches(factors).into_iter().map(|rows| {
        let r = rows.dims()[1];
        let identity = Tensor::<2>::eye(r, &rows.device()).unsqueeze::<3>();
        let gram = rows.clone().matmul(rows.transpose());
        let squares = (gram - identity).powi_scalar(2).sum_dim(2).sum_dim(1);
        // The root has no gradient at zero.
        squares.clamp_min(1e-30).sqrt().sum()
    });
    norms.reduce(|a, b| a + b)
}

/// The factors as batches of equal shapes: there are hundreds of factors and a handful of shapes, and a GPU takes a batch in
/// as many launches as one. The CPU, which would only copy them, takes each alone.
fn batches(factors: impl Iterator<Item = Tensor<2>>) -> Vec<Tensor<3>> {
    let mut shapes: BTreeMap<[usize; 2], Vec<Tensor<2>>> = BTreeMap::new();
    let mut alone = Vec::new();
    for rows in factors {
        match better_together(&rows.device()) {
            true => shapes.entry(rows.dims()).or_default().push(rows),
            false => alone.push(rows.unsqueeze::<3>()),
        }
    }
    alone.into_iter().chain(shapes.into_values().map(|factors| Tensor::stack::<3>(factors, 0))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::methods::{AdaLoraConfig, MethodLayer};
    use crate::random::TensorRng;
    use burn::module::Module;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn orthogonal_factors_cost_nothing_and_have_a_finite_gradient() {
        let config = AdaLoraConfig { init_r: 3, target_r: 2, ..AdaLoraConfig::default() };
        let weight = Tensor::zeros([4, 5], &Device::flex());
        let mut adalora = AdaLora::init(&config, "q", &weight.clone().into(), &mut TensorRng::new(1, "a")).train();
        for (name, mut param) in adalora.params_mut() {
            let eye = |rows: usize, columns: usize| {
                let values = (0..rows * columns).map(|i| if i / columns == i % columns { 1.0_f32 } else { 0.0 });
                TensorData::new(values.collect(), [rows, columns])
            };
            param.set(match name {
                "lora_A" => eye(3, 5),
                "lora_B" => eye(4, 3),
                _ => continue,
            });
        }
        let term = orthogonality(std::iter::once(&adalora)).unwrap();
        assert!(term.clone().into_scalar::<f32>() < 1e-6);
        let grad = adalora.lora_a.val().grad(&term.backward()).unwrap();
        assert!(grad.is_finite().all().into_scalar::<bool>());
    }
}
