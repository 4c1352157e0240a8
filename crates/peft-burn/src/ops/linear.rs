//! `y = x·Wᵀ` and, with LoRA (Hu et al. 2021), `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`, each as one operation.
//!
//! On the CPU the second product is added where the first was written, and the same in backward. Backward reads x, which
//! projections of one input share, and `x·Aᵀ`.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use super::flex::{self, FlexTensor, all_bf16, all_f32, contiguous, dense, dims2, mat, narrowed, values};
use super::matrix::{Mat, Product, product, sum_of_products};

/// Linear maps of rows: x `[n, in]`, W `[out, in]`, A `[r, in]`, B `[out, r]`. x and W are of one dtype, and so are A and B:
/// the same, or f32 where that one is less precise; the sum with what A and B make is then f32 too, and rounded at the end.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ProjectionOps: Backend {
    /// `x·Wᵀ`: `[n, out]`.
    #[fusion(default)]
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::linear::<Self>(x, weight)
    }

    /// The gradient of [`project`](Self::project) with respect to x.
    #[fusion(default)]
    fn project_backward(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(grad, weight)
    }

    /// `x·Wᵀ + s·low·Bᵀ`, and `low = x·Aᵀ` (`[n, r]`), which backward reads. W is a constant. The sum is in x's dtype if
    /// `rounded`, else in A's.
    #[fusion(default)]
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::lora_linear::<Self>(x, weight, a, b, scale, rounded)
    }

    /// The gradients of [`lora_linear`](Self::lora_linear) with respect to A, B and `low`.
    #[fusion(default)]
    fn lora_factors_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        low: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::lora_factors_backward::<Self>(grad, x, low, b, scale)
    }

    /// The gradient of [`lora_linear`](Self::lora_linear) with respect to x: `g·W + low_grad·A`.
    #[fusion(default)]
    fn lora_input_backward(
        grad: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        low_grad: FloatTensor<Self>,
        a: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::lora_input_backward::<Self>(grad, weight, low_grad, a)
    }
}

/// The operations in terms of ordinary tensor operations, for every backend.
mod composed {
    use super::{Backend, FloatTensor, TensorMetadata};
    use crate::ops::cast;

    pub(super) fn linear<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
        B::float_matmul(x, B::float_transpose(weight))
    }

    pub(super) fn lora_linear<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        a: FloatTensor<B>,
        b: FloatTensor<B>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let precise = a.dtype();
        let dtype = if rounded { x.dtype() } else { precise };
        let low = linear::<B>(cast::<B>(x.clone(), precise), a);
        let update = linear::<B>(B::float_mul_scalar(low.clone(), scale.into()), b);
        let product = cast::<B>(linear::<B>(x, weight), precise);
        (cast::<B>(B::float_add(product, update), dtype), low)
    }

    pub(super) fn lora_factors_backward<B: Backend>(
        grad: FloatTensor<B>,
        x: FloatTensor<B>,
        low: FloatTensor<B>,
        b: FloatTensor<B>,
        scale: f32,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let (grad, x) = (cast::<B>(grad, b.dtype()), cast::<B>(x, b.dtype()));
        let low_grad = B::float_mul_scalar(B::float_matmul(grad.clone(), b), scale.into());
        let a_grad = B::float_matmul(B::float_transpose(low_grad.clone()), x);
        let b_grad = B::float_matmul(B::float_transpose(grad), B::float_mul_scalar(low, scale.into()));
        (a_grad, b_grad, low_grad)
    }

    pub(super) fn lora_input_backward<B: Backend>(
        grad: FloatTensor<B>,
        weight: FloatTensor<B>,
        low_grad: FloatTensor<B>,
        a: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let (dtype, precise) = (weight.dtype(), a.dtype());
        let x_grad = cast::<B>(B::float_matmul(cast::<B>(grad, dtype), weight), precise);
        cast::<B>(B::float_add(x_grad, B::float_matmul(low_grad, a)), dtype)
    }
}

#[cfg(feature = "cube")]
impl ProjectionOps for burn::backend::Cube {}

/// Whether `x` and `weight` hold f32 both, or bf16 both, which is what the CPU versions are written for.
pub(super) fn is_common(x: &FlexTensor, weight: &FlexTensor) -> bool {
    all_f32(&[x, weight]) || all_bf16(&[x, weight])
}

/// `tensor` in `dtype`, f32 or bf16.
pub(super) fn as_common(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    if dtype == DType::BF16 { narrowed(tensor) } else { tensor }
}

impl ProjectionOps for Flex {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_common(&x, &weight) {
            return composed::linear::<Self>(x, weight);
        }
        let ([n, _], [out, _], dtype) = (dims2(&x), dims2(&weight), x.dtype());
        let (x, weight) = (contiguous(x), dense(weight));
        let y = product(mat(&x), mat(&weight).t());
        as_common(flex::tensor(y, [n, out]), dtype)
    }

    fn project_backward(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_common(&grad, &weight) {
            return Self::float_matmul(grad, weight);
        }
        let ([n, _], [_, inp], dtype) = (dims2(&grad), dims2(&weight), grad.dtype());
        let (grad, weight) = (contiguous(grad), dense(weight));
        let x_grad = product(mat(&grad), mat(&weight));
        as_common(flex::tensor(x_grad, [n, inp]), dtype)
    }

    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !(is_common(&x, &weight) && all_f32(&[&a, &b])) {
            return composed::lora_linear::<Self>(x, weight, a, b, scale, rounded);
        }
        let ([n, inp], [out, r]) = (dims2(&x), dims2(&b));
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, weight, a, b) = (contiguous(x), dense(weight), contiguous(a), contiguous(b));
        let x = mat(&x);
        let low = product(x, Mat::new(values(&a), r, inp).t());
        let update = Product::of(Mat::new(&low, n, r), Mat::new(values(&b), out, r).t()).times(scale);
        let y = sum_of_products(&[Product::of(x, mat(&weight).t()), update.added()]);
        (as_common(flex::tensor(y, [n, out]), dtype), flex::tensor(low, [n, r]))
    }

    fn lora_factors_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        low: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let common = |t: &FlexTensor| all_f32(&[t]) || all_bf16(&[t]);
        if !(common(&grad) && common(&x) && all_f32(&[&low, &b])) {
            return composed::lora_factors_backward::<Self>(grad, x, low, b, scale);
        }
        let ([n, inp], [out, r]) = (dims2(&x), dims2(&b));
        let (grad, x, low, b) = (contiguous(grad), contiguous(x), contiguous(low), contiguous(b));
        let (grad, x) = (mat(&grad), mat(&x));
        let low_grad = sum_of_products(&[Product::of(grad, Mat::new(values(&b), out, r)).times(scale)]);
        let a_grad = product(Mat::new(&low_grad, n, r).t(), x);
        // Its transpose, for which the larger factor is read as it lies.
        let b_grad = sum_of_products(&[Product::of(Mat::new(values(&low), n, r).t(), grad).times(scale)]);
        let b_grad = contiguous(flex::tensor(b_grad, [r, out]).transpose(0, 1));
        (flex::tensor(a_grad, [r, inp]), b_grad, flex::tensor(low_grad, [n, r]))
    }

    fn lora_input_backward(
        grad: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        low_grad: FloatTensor<Self>,
        a: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let precise = [DType::F32, DType::BF16].contains(&weight.dtype()) && all_f32(&[&low_grad, &a]);
        if !(precise && [DType::F32, weight.dtype()].contains(&grad.dtype())) {
            return composed::lora_input_backward::<Self>(grad, weight, low_grad, a);
        }
        let ([n, _], [r, inp], dtype) = (dims2(&grad), dims2(&a), weight.dtype());
        let (grad, weight) = (contiguous(grad), dense(weight));
        let (low_grad, a) = (contiguous(low_grad), contiguous(a));
        let x_grad = sum_of_products(&[
            Product::of(mat(&grad), mat(&weight)).rounded(),
            Product::of(Mat::new(values(&low_grad), n, r), Mat::new(values(&a), r, inp)).added(),
        ]);
        as_common(flex::tensor(x_grad, [n, inp]), dtype)
    }
}

impl<B: ProjectionOps, C: CheckpointStrategy> ProjectionOps for Autodiff<B, C> {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        // Each is kept only if the other's gradient is wanted.
        let kept_x = weight.is_tracked().then(|| x.primitive().clone());
        let kept_weight = x.is_tracked().then(|| weight.primitive().clone());
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        match LinearBackward.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((kept_x, kept_weight), B::project(x, weight)),
            OpsKind::UnTracked(prep) => prep.finish(B::project(x, weight)),
        }
    }

    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ((x, x_node), weight) = (x.into_parts(), weight.into_primitive());
        let ((a, a_node), (b, b_node)) = (a.into_parts(), b.into_parts());
        let (y, low) = B::lora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), scale, rounded);
        let y = match LoraBackward.prepare::<C>([x_node, a_node, b_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(LoraState { x, weight, a, b, low: low.clone(), scale }, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, <FloatTensor<Self>>::new(low))
    }
}

#[derive(Debug)]
struct LinearBackward;

impl<B: ProjectionOps> Backward<B, 2> for LinearBackward {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, weight_node] = ops.parents;
        let (x, weight) = ops.state;
        if let (Some(node), Some(x)) = (weight_node, x) {
            grads.register::<B>(node.id, B::float_matmul(B::float_transpose(grad.clone()), x));
        }
        if let (Some(node), Some(weight)) = (x_node, weight) {
            grads.register::<B>(node.id, B::project_backward(grad, weight));
        }
    }
}

#[derive(Debug)]
struct LoraBackward;

/// What the backward pass of a product with LoRA's update reads.
#[derive(Clone, Debug)]
pub(super) struct LoraState<B: Backend> {
    pub(super) x: FloatTensor<B>,
    pub(super) weight: FloatTensor<B>,
    pub(super) a: FloatTensor<B>,
    pub(super) b: FloatTensor<B>,
    pub(super) low: FloatTensor<B>,
    pub(super) scale: f32,
}

impl<B: ProjectionOps> LoraState<B> {
    /// The gradients with respect to A, B and, if it is wanted, x.
    pub(super) fn backward(self, grad: FloatTensor<B>, wants_x: bool) -> [Option<FloatTensor<B>>; 3] {
        let Self { x, weight, a, b, low, scale } = self;
        let (a_grad, b_grad, low_grad) = B::lora_factors_backward(grad.clone(), x, low, b, scale);
        let x_grad = wants_x.then(|| B::lora_input_backward(grad, weight, low_grad, a));
        [Some(a_grad), Some(b_grad), x_grad]
    }
}

impl<B: ProjectionOps> Backward<B, 3> for LoraBackward {
    type State = LoraState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, a_node, b_node] = ops.parents;
        let found = ops.state.backward(grad, x_node.is_some());
        for (node, grad) in [a_node, b_node, x_node].into_iter().zip(found) {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `x·Wᵀ` for x `[n, in]` and W `[out, in]` of one dtype.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ProjectionOps>::project(x.into_dispatch(), weight.into_dispatch()))
}

/// `x·Wᵀ + s·(x·Aᵀ)·Bᵀ` for x `[n, in]`, W `[out, in]`, A `[r, in]` and B `[out, r]`: x and W of
/// one dtype, A and B of the same or of f32. W gets no gradient.
///
/// The sum is in x's dtype if `rounded`, else in A's.
pub fn lora_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
    rounded: bool,
) -> Tensor<2> {
    let (y, _) = <Dispatch as ProjectionOps>::lora_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        scale as f32,
        rounded,
    );
    Tensor::from_dispatch(y)
}

/// Whether `x·Wᵀ` and an update made of `factors` can be one operation: their dtypes fit, and W is not trained.
pub(crate) fn can_join(x: &Tensor<2>, weight: &Tensor<2>, factors: &[&Tensor<2>]) -> bool {
    let mut dtypes = factors.iter().map(|factor| factor.dtype());
    let dtype = dtypes.next().unwrap_or(DType::F32);
    let fits = x.dtype() == weight.dtype() && [x.dtype(), DType::F32].contains(&dtype) && dtypes.all(|d| d == dtype);
    fits && !weight.is_tracked()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random};
    use burn::tensor::Tolerance;

    #[test]
    fn linear_is_the_composed_form_with_both_gradients() {
        for (n, inp, out) in [(1, 1, 1), (3, 5, 7), (130, 65, 200), (257, 128, 48)] {
            let inputs = [random(1, [n, inp]), random(2, [out, inp])];
            let fused = evaluate(&inputs, |t| linear(t[0].clone(), t[1].clone()));
            let composed = evaluate(&inputs, |t| t[0].clone().matmul(t[1].clone().transpose()));
            assert_same(&fused, &composed, 1e-3);
        }
    }

    #[test]
    fn lora_linear_is_the_composed_form_with_every_gradient() {
        for (n, inp, out, r) in [(1, 1, 1, 1), (3, 5, 7, 2), (130, 65, 200, 16), (257, 128, 48, 8)] {
            let inputs = [random(3, [n, inp]), random(4, [r, inp]), random(5, [out, r])];
            // As Hugging Face stores it, and a view of Burn's `[in, out]`.
            for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
                let fused = evaluate(&inputs, |t| {
                    lora_linear(t[0].clone(), weight.clone(), t[1].clone(), t[2].clone(), 0.5, true)
                });
                let composed = evaluate(&inputs, |t| {
                    let low = t[0].clone().matmul(t[1].clone().transpose());
                    t[0].clone().matmul(weight.clone().transpose()) + low.matmul(t[2].clone().transpose()) * 0.5
                });
                assert_same(&fused, &composed, 1e-3);
            }
        }
    }

    #[test]
    fn gradients_are_the_slopes() {
        let inputs = [random(21, [4, 5]), random(22, [3, 5])];
        assert_finite_differences(&inputs, |t| linear(t[0].clone(), t[1].clone()));
        let weight = random(23, [6, 5]).detach().cast(DType::F64);
        let inputs = [random(24, [4, 5]), random(25, [2, 5]), random(26, [6, 2])];
        assert_finite_differences(&inputs, |t| {
            let weight = if t[0].is_autodiff() { weight.clone() } else { weight.clone().inner() };
            lora_linear(t[0].clone(), weight, t[1].clone(), t[2].clone(), 0.5, true)
        });
    }

    #[test]
    fn a_bf16_base_takes_f32_adapters_fused_and_composed() {
        if !computes(DType::BF16) {
            return;
        }
        for (n, inp, out, r) in [(3, 5, 7, 2), (130, 65, 200, 16)] {
            let (x, w) = (random(8, [n, inp]).cast(DType::BF16), random(9, [out, inp]).cast(DType::BF16));
            let inputs = [random(10, [r, inp]), random(11, [out, r])];
            let precise = [x.clone(), w.clone()].map(|t| t.cast(DType::F32));
            let expected = evaluate(&inputs, |t| {
                lora_linear(precise[0].clone(), precise[1].clone(), t[0].clone(), t[1].clone(), 0.5, true)
            });
            // The same values, as Hugging Face stores them and as a view of `[in, out]`.
            for w in [w.clone(), w.clone().transpose().reshape([inp, out]).transpose()] {
                let found = evaluate(&inputs, |t| {
                    lora_linear(x.clone(), w.clone(), t[0].clone(), t[1].clone(), 0.5, true).cast(DType::F32)
                });
                assert_near(&found, &expected);
                let unrounded = evaluate(&inputs, |t| {
                    let y = lora_linear(x.clone(), w.clone(), t[0].clone(), t[1].clone(), 0.5, false);
                    assert_eq!(y.dtype(), DType::F32);
                    y
                });
                assert_near(&unrounded, &found);
            }
            // f64 goes the composed way.
            if !computes(DType::F64) {
                continue;
            }
            let composed = evaluate(&inputs, |t| {
                let [a, b] = [0, 1].map(|i| t[i].clone().cast(DType::F64));
                lora_linear(x.clone(), w.clone(), a, b, 0.5, true).cast(DType::F32)
            });
            assert_near(&composed, &expected);
        }
    }

    #[test]
    fn other_dtypes_and_layouts_work_too() {
        let (x, w) = (random(12, [6, 8]), random(13, [8, 5]));
        let expected = x.clone().matmul(w.clone()).into_data();
        let found = linear(x.clone().transpose().transpose(), w.clone().transpose()).into_data();
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        if !computes(DType::BF16) {
            return;
        }
        let half = linear(x.cast(DType::BF16), w.transpose().cast(DType::BF16)).cast(DType::F32).into_data();
        half.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(0.05, 0.1));
    }
}
