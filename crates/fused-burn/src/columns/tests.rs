use burn::tensor::{DType, Tensor, TensorData, Tolerance};

use super::scale_columns;
use crate::testing::{assert_finite_differences, computes, random};

/// The value and the gradients that are there, with x and c trained as said.
fn evaluate(
    [n, m]: [usize; 2],
    dtype: DType,
    trained: [bool; 2],
    f: impl Fn(Tensor<2>, Tensor<1>) -> Tensor<2>,
) -> Vec<TensorData> {
    let x = random(1, [n, m]).cast(dtype).detach().set_require_grad(trained[0]);
    let c_dtype = if dtype == DType::BF16 { DType::F32 } else { dtype };
    let c = random(2, [m]).cast(c_dtype).detach().set_require_grad(trained[1]);
    let y = f(x.clone(), c.clone());
    let grads = (y.clone() * random(3, [n, m]).cast(dtype)).sum().backward();
    let grads = [x.grad(&grads).map(Tensor::into_data), c.grad(&grads).map(Tensor::into_data)];
    assert_eq!(grads.each_ref().map(Option::is_some), trained);
    std::iter::once(y.into_data()).chain(grads.into_iter().flatten()).collect()
}

#[test]
fn gradients_are_the_slopes() {
    let inputs = [random(4, [5, 3]), random(5, [1, 3])];
    assert_finite_differences(&inputs, |t| scale_columns(t[0].clone(), t[1].clone().reshape([3])));
}

#[test]
fn fused_is_the_broadcast_product_with_every_gradient() {
    for shape in [[1, 1], [3, 7], [200, 333], [1, 70_000]] {
        let dtypes = [(DType::F32, 1e-4), (DType::F64, 1e-6), (DType::BF16, 0.05)];
        for (dtype, tolerance) in dtypes.into_iter().filter(|(dtype, _)| computes(*dtype)) {
            for trained in [[true, true], [true, false], [false, true]] {
                let fused = evaluate(shape, dtype, trained, scale_columns);
                let plain =
                    evaluate(shape, dtype, trained, |x, c| (x.cast(c.dtype()) * c.unsqueeze::<2>()).cast(dtype));
                for (fused, plain) in fused.iter().zip(&plain) {
                    let (fused, plain) = (fused.clone().convert::<f64>(), plain.clone().convert::<f64>());
                    fused.assert_approx_eq::<f64>(&plain, Tolerance::rel_abs(tolerance, tolerance * 10.0));
                }
            }
        }
    }
}
