//! VeRA (Kopiczko et al. 2023), `y = x·Wᵀ + λ_b ∘ ((λ_d ∘ low)·Bᵀ)` for `low = x·Aᵀ`, as one operation. W and B are
//! constants.
//!
//! On the CPU the update is added where the base's product is written, and λ_b scales B's rows beforehand. So the update
//! alone never exists: the gradient of λ_b, which would read it, is the sum of `(gᵀ·(λ_d ∘ low)) ∘ B` along its rows.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use super::cast;
use super::columns::ColumnOps;
use super::flex::{self, all_f32, contiguous, dense, dims2, mat, values, widened};
use super::linear::{ProjectionOps, as_common, is_common};
use super::matrix::{Mat, Product, product, sum_of_products};
use super::rows::each_row;
use super::simd::sum;

/// x `[n, in]` and W `[out, in]` of one dtype; low `[n, r]`, λ_d `[r]`, B `[out, r]` and λ_b `[out]` of the same, or of f32.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait VeraOps: ProjectionOps + ColumnOps {
    /// `[n, out]`, in x's dtype if `rounded`, else in low's.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments)]
    fn vera_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
        rounded: bool,
    ) -> FloatTensor<Self> {
        composed::vera_linear::<Self>(x, weight, [low, lambda_d, b, lambda_b], rounded)
    }

    /// The gradients with respect to low, λ_d and λ_b.
    #[fusion(default)]
    fn vera_backward(
        grad: FloatTensor<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::vera_backward::<Self>(grad, low, lambda_d, b, lambda_b)
    }
}

/// The operations in terms of ordinary tensor operations, for every backend.
mod composed {
    use super::{FloatTensor, TensorMetadata, VeraOps, cast};
    use burn::tensor::Shape;

    pub(super) fn vera_linear<B: VeraOps>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        [low, lambda_d, b, lambda_b]: [FloatTensor<B>; 4],
        rounded: bool,
    ) -> FloatTensor<B> {
        let precise = low.dtype();
        let dtype = if rounded { x.dtype() } else { precise };
        let update = B::scale_columns(B::project(B::scale_columns(low, lambda_d), b), lambda_b);
        let product = cast::<B>(B::project(x, weight), precise);
        cast::<B>(B::float_add(product, update), dtype)
    }

    pub(super) fn vera_backward<B: VeraOps>(
        grad: FloatTensor<B>,
        low: FloatTensor<B>,
        lambda_d: FloatTensor<B>,
        b: FloatTensor<B>,
        lambda_b: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let grad = cast::<B>(grad, low.dtype());
        let scaled = B::scale_columns(low.clone(), lambda_d.clone());
        let sums = B::float_mul(B::float_matmul(B::float_transpose(grad.clone()), scaled), b.clone());
        let lambda_b_grad = B::float_reshape(B::float_sum_dim(sums, 1), Shape::from([lambda_b.shape()[0]]));
        let scaled_grad = B::float_matmul(B::scale_columns(grad, lambda_b), b);
        let (low_grad, lambda_d_grad) = B::scale_columns_backward(scaled_grad, low, lambda_d);
        (low_grad, lambda_d_grad, lambda_b_grad)
    }
}

#[cfg(feature = "cube")]
impl VeraOps for burn::backend::Cube {}

/// Rows of `width` values, each row times its factor.
fn scaled_rows(values: &[f32], width: usize, factors: &[f32]) -> Vec<f32> {
    let mut out = flex::buffer(values.len());
    each_row(
        &mut out,
        width,
        #[inline(always)]
        |row, out| {
            let factor = factors[row];
            for (out, value) in out.iter_mut().zip(&values[row * width..]) {
                *out = value * factor;
            }
        },
    );
    out
}

impl VeraOps for Flex {
    fn vera_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
        rounded: bool,
    ) -> FloatTensor<Self> {
        if !(is_common(&x, &weight) && all_f32(&[&low, &lambda_d, &b, &lambda_b])) {
            return composed::vera_linear::<Self>(x, weight, [low, lambda_d, b, lambda_b], rounded);
        }
        let ([n, _], [out, r]) = (dims2(&x), dims2(&b));
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, weight, low) = (contiguous(x), dense(weight), contiguous(low));
        let [b, lambda_b] = [b, lambda_b].map(contiguous);
        let scaled = flex::tensor(scaled_rows(values(&b), r, values(&lambda_b)), [out, r]);
        let scaled = Self::scale_columns(scaled, lambda_d);
        let update = Product::of(mat(&low), mat(&scaled).t());
        let y = sum_of_products(&[Product::of(mat(&x), mat(&weight).t()), update.added()]);
        as_common(flex::tensor(y, [n, out]), dtype)
    }

    fn vera_backward(
        grad: FloatTensor<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let grad = widened(grad);
        if !all_f32(&[&grad, &low, &lambda_d, &b, &lambda_b]) {
            return composed::vera_backward::<Self>(grad, low, lambda_d, b, lambda_b);
        }
        let ([n, r], [out, _]) = (dims2(&low), dims2(&b));
        let [grad, low, lambda_d, b, lambda_b] = [grad, low, lambda_d, b, lambda_b].map(contiguous);
        let slopes = product(mat(&grad).t(), mat(&low));
        let scaled = scaled_rows(values(&b), r, values(&lambda_b));
        let scaled_grad = product(mat(&grad), Mat::new(&scaled, out, r));
        let mut lambda_b_grad = flex::buffer(out);
        let (b, d) = (values(&b), values(&lambda_d));
        each_row(
            &mut lambda_b_grad,
            1,
            #[inline(always)]
            |row, grad| {
                let (slopes, b) = (&slopes[row * r..][..r], &b[row * r..][..r]);
                grad[0] = sum(
                    r,
                    #[inline(always)]
                    |k| slopes[k] * d[k] * b[k],
                );
            },
        );
        let (low_grad, lambda_d_grad) = Self::scale_columns_backward(flex::tensor(scaled_grad, [n, r]), low, lambda_d);
        (low_grad, lambda_d_grad, flex::tensor(lambda_b_grad, [out]))
    }
}

impl<B: VeraOps, C: CheckpointStrategy> VeraOps for Autodiff<B, C> {
    fn vera_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
        rounded: bool,
    ) -> FloatTensor<Self> {
        let (weight, b) = (weight.into_primitive(), b.into_primitive());
        let ((x, x_node), (low, low_node)) = (x.into_parts(), low.into_parts());
        let ((lambda_d, d_node), (lambda_b, b_node)) = (lambda_d.into_parts(), lambda_b.into_parts());
        let dtype = x.dtype();
        let nodes = [x_node, low_node, d_node, b_node];
        match VeraBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::vera_linear(
                    x,
                    weight.clone(),
                    low.clone(),
                    lambda_d.clone(),
                    b.clone(),
                    lambda_b.clone(),
                    rounded,
                );
                prep.finish(VeraState { dtype, weight, low, lambda_d, b, lambda_b }, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::vera_linear(x, weight, low, lambda_d, b, lambda_b, rounded)),
        }
    }
}

#[derive(Debug)]
struct VeraBackward;

#[derive(Clone, Debug)]
struct VeraState<B: Backend> {
    /// x's.
    dtype: DType,
    weight: FloatTensor<B>,
    low: FloatTensor<B>,
    lambda_d: FloatTensor<B>,
    b: FloatTensor<B>,
    lambda_b: FloatTensor<B>,
}

impl<B: VeraOps> Backward<B, 4> for VeraBackward {
    type State = VeraState<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let VeraState { dtype, weight, low, lambda_d, b, lambda_b } = ops.state;
        let [x_node, low_node, d_node, b_node] = ops.parents;
        if low_node.is_some() || d_node.is_some() || b_node.is_some() {
            let (low_grad, d_grad, b_grad) = B::vera_backward(grad.clone(), low, lambda_d, b, lambda_b);
            for (node, grad) in [(low_node, low_grad), (d_node, d_grad), (b_node, b_grad)] {
                if let Some(node) = node {
                    grads.register::<B>(node.id, grad);
                }
            }
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::project_backward(cast::<B>(grad, dtype), weight));
        }
    }
}

/// VeRA's two vectors.
#[derive(Clone, Debug)]
pub struct VeraVectors {
    /// λ_d: `[r]`.
    pub d: Tensor<1>,
    /// λ_b: `[out]`.
    pub b: Tensor<1>,
}

/// `x·Wᵀ + λ_b ∘ ((λ_d ∘ low)·Bᵀ)` for x `[n, in]`, W `[out, in]`, low `[n, r]` and B `[out, r]`: x and W of one dtype, the
/// rest of the same or of f32. W and B get no gradients.
///
/// The sum is in x's dtype if `rounded`, else in low's.
pub fn vera_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    low: Tensor<2>,
    b: Tensor<2>,
    lambda: VeraVectors,
    rounded: bool,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as VeraOps>::vera_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        low.into_dispatch(),
        lambda.d.into_dispatch(),
        b.into_dispatch(),
        lambda.b.into_dispatch(),
        rounded,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear;
    use crate::ops::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random};

    const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [3, 5, 7, 2], [130, 65, 200, 33]];

    /// x, low and the two vectors, as rows.
    fn inputs([n, inp, out, r]: [usize; 4]) -> [Tensor<2>; 4] {
        [random(1, [n, inp]), random(2, [n, r]), random(3, [1, r]), random(4, [1, out])]
    }

    fn fused(t: &[Tensor<2>], [weight, b]: &[Tensor<2>; 2], rounded: bool) -> Tensor<2> {
        let row = |t: &Tensor<2>| t.clone().flatten(0, 1);
        let lambda = VeraVectors { d: row(&t[2]), b: row(&t[3]) };
        vera_linear(t[0].clone(), weight.clone(), t[1].clone(), b.clone(), lambda, rounded)
    }

    #[test]
    fn fused_is_composed_with_every_gradient() {
        for shape in SHAPES {
            let [_, inp, out, r] = shape;
            for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
                let fixed = [weight.detach(), random(8, [out, r]).detach()];
                let found = evaluate(&inputs(shape), |t| fused(t, &fixed, true));
                let expected = evaluate(&inputs(shape), |t| {
                    let update = linear(t[1].clone() * t[2].clone(), fixed[1].clone()) * t[3].clone();
                    linear(t[0].clone(), fixed[0].clone()) + update
                });
                assert_same(&found, &expected, 1e-3);
            }
        }
    }

    #[test]
    fn gradients_are_the_slopes() {
        let fixed = [random(9, [4, 5]), random(10, [4, 2])].map(|t| t.detach().cast(DType::F64));
        assert_finite_differences(&inputs([3, 5, 4, 2]), |t| {
            let fixed = if t[0].is_autodiff() { fixed.clone() } else { fixed.clone().map(Tensor::inner) };
            fused(t, &fixed, true)
        });
    }

    #[test]
    fn a_bf16_base_takes_an_f32_update() {
        if !computes(DType::BF16) {
            return;
        }
        for shape in SHAPES {
            let [_, inp, out, r] = shape;
            let (weight, b) = (random(11, [out, inp]).detach().cast(DType::BF16), random(12, [out, r]).detach());
            let [x, low, d, lambda_b] = inputs(shape);
            let rounded_x = x.cast(DType::BF16);
            let inputs = [low, d, lambda_b];
            let with = |x: &Tensor<2>, weight: &Tensor<2>, t: &[Tensor<2>], rounded| {
                let all = [x.clone(), t[0].clone(), t[1].clone(), t[2].clone()];
                let y = fused(&all, &[weight.clone(), b.clone()], rounded);
                assert_eq!(y.dtype(), if rounded { x.dtype() } else { DType::F32 });
                y.cast(DType::F32)
            };
            for rounded in [true, false] {
                let found = evaluate(&inputs, |t| with(&rounded_x, &weight, t, rounded));
                let precise = [&rounded_x, &weight].map(|t| t.clone().cast(DType::F32));
                let expected = evaluate(&inputs, |t| with(&precise[0], &precise[1], t, rounded));
                assert_near(&found, &expected);
            }
        }
    }
}
