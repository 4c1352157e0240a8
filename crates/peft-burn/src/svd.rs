//! Singular values, in double precision.

use burn::tensor::{DType, Device, Tensor};

/// U `[m, k]`, S `[k]` (descending) and Vᵀ `[k, n]` of a matrix, k = min(m, n), in f32 on its device.
///
/// Burn decomposes on the host whatever the device, so f64 is to be had on all of them; in f32 its result would be a
/// decimal place worse than LAPACK's, which PEFT's files were made with.
pub(crate) fn svd(matrix: Tensor<2>) -> (Tensor<2>, Tensor<1>, Tensor<2>) {
    const SWEEPS: usize = 30;
    let device = matrix.device();
    let host = (&Device::flex(), DType::F64);
    let double = Tensor::<2>::from_data(matrix.into_data().convert_dtype(DType::F64), host);
    let (u, s, vt) = burn::linalg::svd::<2, 1>(double, SWEEPS);
    (back(u, &device), back(s, &device), back(vt, &device))
}

fn back<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    Tensor::from_data(tensor.into_data().convert_dtype(DType::F32), (device, DType::F32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::param::from_vec;
    use crate::random::TensorRng;

    #[test]
    fn factors_multiply_to_the_matrix_in_f32_precision() {
        for shape in [[6, 9], [9, 6], [64, 64]] {
            let values = TensorRng::new(1, "m").normal(shape[0] * shape[1], 1.0);
            let matrix = from_vec(values, shape, &Device::flex()).val();
            let (u, s, vt) = svd(matrix.clone());
            let product = (u * s.unsqueeze()).matmul(vt);
            let error = (product - matrix).abs().max().into_scalar::<f32>();
            assert!(error < 5e-6, "{shape:?}: {error}");
        }
    }
}
