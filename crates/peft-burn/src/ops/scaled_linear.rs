//! `y = c ∘ (x·Wᵀ)` and, with DoRA (Liu et al. 2024), `y = c ∘ (x·Wᵀ + s·(x·Aᵀ)·Bᵀ)`, each as one operation: c (`[out]`)
//! scales the columns.
//!
//! The gradient of c reads the product before it was scaled. On the CPU the product is scaled as it is written, and what
//! backward reads is y itself, over c: what follows often keeps y too, and then it is there once.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use super::cast;
use super::columns::ColumnOps;
use super::flex::{self, FlexTensor, all_f32, contiguous, dense, dims2, mat, values};
use super::linear::{LoraState, ProjectionOps, as_common, is_common};
use super::matrix::{Mat, Product, product, scaled_sum_of_products};

/// Scaled linear maps of rows: x, W, A and B as for [`ProjectionOps`], c `[out]` of A's dtype or, without A, of x's or f32.
/// W is a constant.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ScaledProjectionOps: ProjectionOps + ColumnOps {
    /// `c ∘ (x·Wᵀ)`: `[n, out]`, in x's dtype if `rounded`, else in c's; and what [`Self::scale_backward`] reads of it.
    #[fusion(default)]
    fn scaled_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        c: FloatTensor<Self>,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::scaled_linear::<Self>(x, weight, c, rounded)
    }

    /// `c ∘ (x·Wᵀ + s·low·Bᵀ)`, `low = x·Aᵀ`, and what [`Self::scale_backward`] reads of the first.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments)]
    fn dora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::dora_linear::<Self>(x, weight, a, b, c, scale, rounded)
    }

    /// The gradients, in c's dtype, with respect to what was scaled and to c.
    #[fusion(default)]
    fn scale_backward(
        grad: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        Self::scale_columns_backward(cast::<Self>(grad, c.dtype()), kept, c)
    }
}

/// The operations in terms of other ones, for every backend; they keep the product before it is scaled.
mod composed {
    use super::{FloatTensor, ScaledProjectionOps, TensorMetadata, cast};

    pub(super) fn scaled_linear<B: ScaledProjectionOps>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        c: FloatTensor<B>,
        rounded: bool,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let dtype = if rounded { x.dtype() } else { c.dtype() };
        let product = cast::<B>(B::project(x, weight), c.dtype());
        (cast::<B>(B::scale_columns(product.clone(), c), dtype), product)
    }

    pub(super) fn dora_linear<B: ScaledProjectionOps>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        a: FloatTensor<B>,
        b: FloatTensor<B>,
        c: FloatTensor<B>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let dtype = if rounded { x.dtype() } else { c.dtype() };
        let (sum, low) = B::lora_linear(x, weight, a, b, scale, false);
        let sum = cast::<B>(sum, c.dtype());
        (cast::<B>(B::scale_columns(sum.clone(), c), dtype), low, sum)
    }
}

#[cfg(feature = "cube")]
impl ScaledProjectionOps for burn::backend::Cube {}

/// Whether a product that was scaled by `c` can be told from the result.
fn can_tell(c: &FlexTensor) -> bool {
    /// Far above where the result would lose digits, far below any factor that trains.
    const LEAST: f64 = 1e-12;
    c.clone().into_data().iter::<f64>().all(|c| c.abs() > LEAST)
}

impl ScaledProjectionOps for Flex {
    fn scaled_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        c: FloatTensor<Self>,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !can_tell(&c) {
            return composed::scaled_linear::<Self>(x, weight, c, rounded);
        }
        if !(is_common(&x, &weight) && all_f32(&[&c])) {
            let (y, _) = composed::scaled_linear::<Self>(x, weight, c, rounded);
            return (y.clone(), y);
        }
        let ([n, _], [out, _]) = (dims2(&x), dims2(&weight));
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, weight, c) = (contiguous(x), dense(weight), contiguous(c));
        let y = scaled_sum_of_products(&[Product::of(mat(&x), mat(&weight).t())], &values(&c)[..out]);
        let y = as_common(flex::tensor(y, [n, out]), dtype);
        (y.clone(), y)
    }

    fn dora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !can_tell(&c) {
            return composed::dora_linear::<Self>(x, weight, a, b, c, scale, rounded);
        }
        if !(is_common(&x, &weight) && all_f32(&[&a, &b, &c])) {
            let (y, low, _) = composed::dora_linear::<Self>(x, weight, a, b, c, scale, rounded);
            return (y.clone(), low, y);
        }
        let ([n, inp], [out, r]) = (dims2(&x), dims2(&b));
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, weight, a, b, c) = (contiguous(x), dense(weight), contiguous(a), contiguous(b), contiguous(c));
        let x = mat(&x);
        let low = product(x, Mat::new(values(&a), r, inp).t());
        let update = Product::of(Mat::new(&low, n, r), Mat::new(values(&b), out, r).t()).times(scale);
        let y = scaled_sum_of_products(&[Product::of(x, mat(&weight).t()), update.added()], &values(&c)[..out]);
        let y = as_common(flex::tensor(y, [n, out]), dtype);
        (y.clone(), flex::tensor(low, [n, r]), y)
    }

    /// `kept` is the result, or what was scaled where `can_tell` says that the result does not tell it.
    fn scale_backward(
        grad: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = c.dtype();
        let [grad, kept] = [grad, kept].map(|t| cast::<Self>(t, dtype));
        let (grad, sums) = Self::scale_columns_backward(grad, kept, c.clone());
        (grad, if can_tell(&c) { Self::float_div(sums, c) } else { sums })
    }
}

impl<B: ScaledProjectionOps, C: CheckpointStrategy> ScaledProjectionOps for Autodiff<B, C> {
    fn scaled_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        c: FloatTensor<Self>,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let learns = c.is_tracked();
        let (weight, (x, x_node), (c, c_node)) = (weight.into_primitive(), x.into_parts(), c.into_parts());
        let dtype = x.dtype();
        let (y, kept) = B::scaled_linear(x, weight.clone(), c.clone(), rounded);
        let y = match ScaledBackward.prepare::<C>([x_node, c_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((weight, dtype, Scaling { c, kept: learns.then(|| kept.clone()) }), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, <FloatTensor<Self>>::new(kept))
    }

    fn dora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let learns = c.is_tracked();
        let ((x, x_node), weight, (c, c_node)) = (x.into_parts(), weight.into_primitive(), c.into_parts());
        let ((a, a_node), (b, b_node)) = (a.into_parts(), b.into_parts());
        let (y, low, kept) = B::dora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), c.clone(), scale, rounded);
        let y = match DoraBackward.prepare::<C>([x_node, a_node, b_node, c_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let scaling = Scaling { c, kept: learns.then(|| kept.clone()) };
                prep.finish((LoraState { x, weight, a, b, low: low.clone(), scale }, scaling), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, <FloatTensor<Self>>::new(low), <FloatTensor<Self>>::new(kept))
    }
}

/// What backward knows of the scaling.
#[derive(Clone, Debug)]
struct Scaling<B: Backend> {
    c: FloatTensor<B>,
    /// For c's gradient, if it is wanted.
    kept: Option<FloatTensor<B>>,
}

impl<B: ScaledProjectionOps> Scaling<B> {
    /// The gradients with respect to what was scaled and, if it is wanted, to c.
    fn backward(self, grad: FloatTensor<B>) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let Self { c, kept } = self;
        match kept {
            Some(kept) => {
                let (grad, c_grad) = B::scale_backward(grad, kept, c);
                (grad, Some(c_grad))
            }
            None => (B::scale_columns(cast::<B>(grad, c.dtype()), c), None),
        }
    }
}

#[derive(Debug)]
struct ScaledBackward;

impl<B: ScaledProjectionOps> Backward<B, 2> for ScaledBackward {
    /// W, x's dtype and the scaling.
    type State = (FloatTensor<B>, DType, Scaling<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, c_node] = ops.parents;
        let (weight, dtype, scaling) = ops.state;
        let (grad, c_grad) = scaling.backward(grad);
        if let (Some(node), Some(c_grad)) = (c_node, c_grad) {
            grads.register::<B>(node.id, c_grad);
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::project_backward(cast::<B>(grad, dtype), weight));
        }
    }
}

#[derive(Debug)]
struct DoraBackward;

impl<B: ScaledProjectionOps> Backward<B, 4> for DoraBackward {
    type State = (LoraState<B>, Scaling<B>);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, a_node, b_node, c_node] = ops.parents;
        let (lora, scaling) = ops.state;
        let (grad, c_grad) = scaling.backward(grad);
        let [a_grad, b_grad, x_grad] = lora.backward(grad, x_node.is_some());
        let found = [a_grad, b_grad, x_grad, c_grad];
        for (node, grad) in [a_node, b_node, x_node, c_node].into_iter().zip(found) {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `c ∘ (x·Wᵀ)` for x `[n, in]` and W `[out, in]` of one dtype and c `[out]` of the same or of f32. W gets no gradient.
///
/// The result is in x's dtype if `rounded`, else in c's.
pub fn scaled_linear(x: Tensor<2>, weight: Tensor<2>, c: Tensor<1>, rounded: bool) -> Tensor<2> {
    let (y, _) = <Dispatch as ScaledProjectionOps>::scaled_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        c.into_dispatch(),
        rounded,
    );
    Tensor::from_dispatch(y)
}

/// `c ∘ (x·Wᵀ + s·(x·Aᵀ)·Bᵀ)`: [`lora_linear`](super::lora_linear) with its columns scaled by c (`[out]`, of A's dtype).
pub fn dora_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    [a, b]: [Tensor<2>; 2],
    c: Tensor<1>,
    scale: f64,
    rounded: bool,
) -> Tensor<2> {
    let (y, _, _) = <Dispatch as ScaledProjectionOps>::dora_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        scale as f32,
        rounded,
    );
    Tensor::from_dispatch(y)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random};
    use crate::ops::{linear, lora_linear};
    use burn::tensor::TensorData;

    const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [3, 5, 7, 2], [130, 65, 200, 16]];

    /// A row of factors as inputs of rank two are.
    fn factors(t: &Tensor<2>) -> Tensor<1> {
        let [_, out] = t.dims();
        t.clone().reshape([out])
    }

    /// Factors, some of them zero or so small that the product cannot be told from what they made of it.
    fn vanishing(out: usize) -> Tensor<2> {
        let c = (0..out).map(|i| [0.5, 0.0, 1e-30, -2.0][i % 4] * (1.0 + i as f32 / 100.0)).collect();
        Tensor::from_data(TensorData::new(c, [1, out]), &crate::test_device().autodiff())
    }

    #[test]
    fn a_scaled_product_is_the_composed_form_with_every_gradient() {
        for [n, inp, out, _] in SHAPES {
            for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
                for c in [random(8, [1, out]), vanishing(out)] {
                    let inputs = [random(3, [n, inp]), c];
                    let fused =
                        evaluate(&inputs, |t| scaled_linear(t[0].clone(), weight.clone(), factors(&t[1]), true));
                    let composed = evaluate(&inputs, |t| linear(t[0].clone(), weight.clone()) * t[1].clone());
                    assert_same(&fused, &composed, 1e-3);
                }
            }
        }
    }

    #[test]
    fn dora_is_the_composed_form_with_every_gradient() {
        for [n, inp, out, r] in SHAPES {
            for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
                for c in [random(8, [1, out]), vanishing(out)] {
                    let inputs = [random(3, [n, inp]), random(4, [r, inp]), random(5, [out, r]), c];
                    let fused = evaluate(&inputs, |t| {
                        let factors = factors(&t[3]);
                        dora_linear(t[0].clone(), weight.clone(), [t[1].clone(), t[2].clone()], factors, 0.5, true)
                    });
                    let composed = evaluate(&inputs, |t| {
                        let [x, a, b, c] = [0, 1, 2, 3].map(|i| t[i].clone());
                        lora_linear(x, weight.clone(), a, b, 0.5, true) * c
                    });
                    assert_same(&fused, &composed, 1e-3);
                }
            }
        }
    }

    #[test]
    fn a_factor_that_does_not_learn_scales_the_gradient_alone() {
        let [weight, a, b] = [random(1, [4, 5]), random(2, [2, 5]), random(3, [4, 2])].map(Tensor::detach);
        let c = factors(&random(4, [1, 4])).detach();
        let inputs = [random(5, [3, 5])];
        let plain = evaluate(&inputs, |t| scaled_linear(t[0].clone(), weight.clone(), c.clone(), true));
        let expected = evaluate(&inputs, |t| linear(t[0].clone(), weight.clone()) * c.clone().unsqueeze());
        assert_same(&plain, &expected, 1e-4);
        let low = || [a.clone(), b.clone()];
        let dora = evaluate(&inputs, |t| dora_linear(t[0].clone(), weight.clone(), low(), c.clone(), 0.5, true));
        let expected = evaluate(&inputs, |t| {
            lora_linear(t[0].clone(), weight.clone(), a.clone(), b.clone(), 0.5, true) * c.clone().unsqueeze()
        });
        assert_same(&dora, &expected, 1e-4);
    }

    #[test]
    fn gradients_are_the_slopes() {
        let weight = random(23, [6, 5]).detach().cast(DType::F64);
        let weight_for = |t: &[Tensor<2>]| if t[0].is_autodiff() { weight.clone() } else { weight.clone().inner() };
        let (x, c) = (random(24, [4, 5]), random(27, [1, 6]));
        assert_finite_differences(&[x.clone(), c.clone()], |t| {
            scaled_linear(t[0].clone(), weight_for(t), factors(&t[1]), true)
        });
        let inputs = [x, random(25, [2, 5]), random(26, [6, 2]), c];
        assert_finite_differences(&inputs, |t| {
            let low = [t[1].clone(), t[2].clone()];
            dora_linear(t[0].clone(), weight_for(t), low, factors(&t[3]), 0.5, true)
        });
    }

    #[test]
    fn a_bf16_base_takes_f32_factors() {
        if !computes(DType::BF16) {
            return;
        }
        for [n, inp, out, r] in SHAPES {
            let (x, w) = (random(8, [n, inp]).cast(DType::BF16), random(9, [out, inp]).cast(DType::BF16));
            let precise = [x.clone(), w.clone()].map(|t| t.cast(DType::F32));
            let inputs = [random(10, [r, inp]), random(11, [out, r]), random(12, [1, out])];
            let dora = |x: &Tensor<2>, w: &Tensor<2>, t: &[Tensor<2>], rounded| {
                let y = dora_linear(x.clone(), w.clone(), [t[0].clone(), t[1].clone()], factors(&t[2]), 0.5, rounded);
                assert_eq!(y.dtype(), if rounded { x.dtype() } else { DType::F32 });
                y.cast(DType::F32)
            };
            let plain = |x: &Tensor<2>, w: &Tensor<2>, t: &[Tensor<2>], rounded| {
                scaled_linear(x.clone(), w.clone(), factors(&t[0]), rounded).cast(DType::F32)
            };
            for rounded in [true, false] {
                let expected = evaluate(&inputs, |t| dora(&precise[0], &precise[1], t, rounded));
                assert_near(&evaluate(&inputs, |t| dora(&x, &w, t, rounded)), &expected);
                let inputs = &inputs[2..];
                let expected = evaluate(inputs, |t| plain(&precise[0], &precise[1], t, rounded));
                assert_near(&evaluate(inputs, |t| plain(&x, &w, t, rounded)), &expected);
            }
        }
    }
}
