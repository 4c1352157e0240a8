//! Cross-entropy of next tokens, straight from hidden states: a slice of the logits at a time, and the gradient in the
//! same pass as the loss.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{IndexingUpdateOp, Int, Shape, Slice, Tensor};
use peft_burn::ops::cast;
use peft_burn::ops::flex::{self, all_bf16, all_f32, contiguous, dense, dims2, mat, narrowed};
use peft_burn::ops::matrix::{Mat, MatMut, Product, compute_parallel};
use peft_burn::ops::simd::{exp, max, sum, vectorized};
use rayon::prelude::*;

use super::precise;

/// Entries of the logits that exist at a time: 32 MiB in f32.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// The same in the composed form: a GPU reads the head's weight once for each chunk, which takes it longer than to compute
/// with few rows.
const COMPOSED_CHUNK_ELEMENTS: usize = 32 << 20;

/// Rows of a chunk: as many as memory allows, all chunks of nearly one size.
fn chunk_rows(n: usize, vocab: usize, elements: usize) -> usize {
    let most = (elements / vocab.max(1)).max(16);
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

/// The summed negative log-likelihood of targets (`[n]`) given hidden states (`[n, width]`) and the head's weight
/// (`[vocab, width]`, of the same dtype).
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait CrossEntropyOps: Backend {
    /// The sum times `scale` (`[1]`, in f32 at least), and its gradients with respect to hidden states and weight, where wanted.
    #[fusion(default)]
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        scale: f64,
        wanted: [bool; 2],
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        composed::<Self>(hidden, weight, targets, scale, wanted, COMPOSED_CHUNK_ELEMENTS)
    }
}

/// The operation in terms of ordinary tensor operations, for every backend, with `elements` entries of the logits at a time.
fn composed<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    scale: f64,
    [want_hidden, want_weight]: [bool; 2],
    elements: usize,
) -> (FloatTensor<B>, Option<FloatTensor<B>>, Option<FloatTensor<B>>) {
    let (device, dtype) = (hidden.device(), weight.dtype());
    let (shape, vocab) = (hidden.shape(), weight.shape()[0]);
    let (n, width) = (shape[0], shape[1]);
    let precise = precise(dtype);
    let mut total = B::float_zeros(Shape::from([1]), &device, precise.into());
    let mut hidden_grads = Vec::new();
    let mut weight_grad: Option<FloatTensor<B>> = None;
    let rows = chunk_rows(n, vocab, elements);
    for start in (0..n).step_by(rows) {
        let end = (start + rows).min(n);
        let h = B::float_slice(hidden.clone(), &[start..end, 0..width].map(Slice::from));
        let target = B::int_slice(targets.clone(), &[Slice::from(start..end)]);
        let target = B::int_reshape(target, Shape::from([end - start, 1]));
        let logits = cast::<B>(B::float_matmul(h.clone(), B::float_transpose(weight.clone())), precise);
        let largest = B::float_max_dim(logits.clone(), 1);
        let shifted = B::float_sub(logits, largest);
        let picked = B::float_gather(1, shifted.clone(), target.clone());
        let exp = B::float_exp(shifted);
        let sums = B::float_sum_dim(exp.clone(), 1);
        let loss = B::float_sum(B::float_sub(B::float_log(sums.clone()), picked));
        total = B::float_add(total, B::float_reshape(loss, Shape::from([1])));
        if want_hidden || want_weight {
            let minus = B::float_full(Shape::from([end - start, 1]), (-1.0).into(), &device, precise.into());
            let p = B::float_scatter(1, B::float_div(exp, sums), target, minus, IndexingUpdateOp::Add);
            let p = cast::<B>(B::float_mul_scalar(p, scale.into()), dtype);
            if want_weight {
                let grad = B::float_matmul(B::float_transpose(p.clone()), h);
                weight_grad = Some(match weight_grad {
                    Some(sum) => B::float_add(sum, grad),
                    None => grad,
                });
            }
            if want_hidden {
                hidden_grads.push(B::float_matmul(p, weight.clone()));
            }
        }
    }
    let hidden_grad = (want_hidden && n > 0).then(|| B::float_cat(hidden_grads, 0));
    (B::float_mul_scalar(total, scale.into()), hidden_grad, weight_grad)
}

#[cfg(feature = "cube")]
impl CrossEntropyOps for burn::backend::Cube {}

/// The values of a tensor of integers.
fn ints(tensor: IntTensor<Flex>) -> Vec<usize> {
    tensor.into_data().iter::<i64>().map(|i| i as usize).collect()
}

/// The loss of one row; its logits become `scale·(softmax − one at target)`.
#[inline(always)]
fn row_loss(logits: &mut [f32], target: usize, scale: f32) -> f32 {
    let largest = max(logits);
    let picked = logits[target] - largest;
    for l in logits.iter_mut() {
        *l = exp(*l - largest);
    }
    let total = sum(
        logits.len(),
        #[inline(always)]
        |i| logits[i],
    );
    let factor = scale / total;
    for l in logits.iter_mut() {
        *l *= factor;
    }
    logits[target] -= scale;
    total.ln() - picked
}

impl CrossEntropyOps for Flex {
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        scale: f64,
        wanted: [bool; 2],
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        let half = all_bf16(&[&hidden, &weight]);
        if !half && !all_f32(&[&hidden, &weight]) {
            return composed::<Self>(hidden, weight, targets, scale, wanted, COMPOSED_CHUNK_ELEMENTS);
        }
        let ([n, width], [vocab, _]) = (dims2(&hidden), dims2(&weight));
        let (hidden, weight, targets) = (contiguous(hidden), dense(weight), ints(targets));
        let (hidden, weight) = (mat(&hidden), mat(&weight));
        let rows = chunk_rows(n, vocab, CHUNK_ELEMENTS);
        let mut logits = flex::buffer(rows.min(n) * vocab);
        let mut hidden_grad = wanted[0].then(|| flex::buffer(n * width));
        let mut weight_grad = wanted[1].then(|| flex::buffer(vocab * width));
        let mut total = 0.0;
        for start in (0..n).step_by(rows) {
            let end = (start + rows).min(n);
            let count = end - start;
            let logits = &mut logits[..count * vocab];
            let h = hidden.rows(start, end);
            compute_parallel(MatMut::new(logits, count, vocab), &[Product::of(h, weight.t())]);
            let losses: Vec<f32> = logits
                .par_chunks_mut(vocab)
                .zip(&targets[start..end])
                .map(|(logits, &target)| {
                    vectorized(
                        #[inline(always)]
                        || row_loss(logits, target, scale as f32),
                    )
                })
                .collect();
            total += losses.into_iter().map(f64::from).sum::<f64>();
            let grads = Mat::new(logits, count, vocab);
            if let Some(grad) = &mut hidden_grad {
                let out = MatMut::new(&mut grad[start * width..end * width], count, width);
                compute_parallel(out, &[Product::of(grads, weight)]);
            }
            if let Some(grad) = &mut weight_grad {
                compute_parallel(MatMut::new(grad, vocab, width), &[Product::of(grads.t(), h).added()]);
            }
        }
        let loss = flex::tensor(vec![(total * scale) as f32], [1]);
        let grad = |g: Option<Vec<f32>>, rows| {
            let g = flex::tensor(g?, [rows, width]);
            Some(if half { narrowed(g) } else { g })
        };
        (loss, grad(hidden_grad, n), grad(weight_grad, vocab))
    }
}

impl<B: CrossEntropyOps, C: CheckpointStrategy> CrossEntropyOps for Autodiff<B, C> {
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        scale: f64,
        _: [bool; 2],
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        let wanted = [hidden.is_tracked(), weight.is_tracked()];
        let ((hidden, hidden_node), (weight, weight_node)) = (hidden.into_parts(), weight.into_parts());
        let (loss, hidden_grad, weight_grad) = B::cross_entropy(hidden, weight, targets, scale, wanted);
        let loss = match CrossEntropyBackward.prepare::<C>([hidden_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([hidden_grad, weight_grad], loss),
            OpsKind::UnTracked(prep) => prep.finish(loss),
        };
        (loss, None, None)
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl<B: CrossEntropyOps> Backward<B, 2> for CrossEntropyBackward {
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for (node, own) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(own)) = (node, own) {
                let grad = B::float_cast(B::float_reshape(grad.clone(), Shape::from([1, 1])), own.dtype().into());
                grads.register::<B>(node.id, B::float_mul(own, grad));
            }
        }
    }
}

/// The summed negative log-likelihood (nats) of `targets` (`[n]`) given `hidden` (`[n, width]`) and the head's `weight`
/// (`[vocab, width]`, of the same dtype), times `scale`: one element, in f32 at least.
///
/// A slice of the logits exists at a time and none is kept: the gradient is worked out in the same pass as the loss.
pub fn cross_entropy(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    let (hidden, weight, targets) = (hidden.into_dispatch(), weight.into_dispatch(), targets.into_dispatch());
    let (loss, ..) = <Dispatch as CrossEntropyOps>::cross_entropy(hidden, weight, targets, scale, [false; 2]);
    Tensor::from_dispatch(loss)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_same, computes, evaluate, random};
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{DType, TensorData};

    fn targets(n: usize, vocab: usize, like: &Tensor<2>) -> Tensor<1, Int> {
        let ids: Vec<i32> = (0..n).map(|i| (i * 7919 % vocab) as i32).collect();
        Tensor::from_data(TensorData::new(ids, [n]), &like.device())
    }

    fn reference(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
        let [n, _] = hidden.dims();
        let logits = hidden.matmul(weight.transpose());
        log_softmax(logits, 1).gather(1, targets.reshape([n, 1])).sum().neg() * scale
    }

    #[test]
    fn fused_is_the_definition_with_both_gradients() {
        // The last has more rows than a chunk of the CPU's. A vocabulary of 65,536 or more would be wrong on Mesa's software
        // Vulkan, which ends a kernel's loops after 65,535 rounds.
        for (n, width, vocab) in [(1, 1, 1), (3, 5, 7), (70, 16, 300), (170, 4, 60_000)] {
            let inputs = [random(1, [n, width]), random(2, [vocab, width])];
            let t = targets(n, vocab, &inputs[0]);
            let as_matrix = |x: Tensor<1>| x.reshape([1, 1]);
            let fused = evaluate(&inputs, |x| as_matrix(cross_entropy(x[0].clone(), x[1].clone(), t.clone(), 0.3)));
            let expected = evaluate(&inputs, |x| as_matrix(reference(x[0].clone(), x[1].clone(), t.clone(), 0.3)));
            assert_same(&fused, &expected, 1e-4);
        }
    }

    #[test]
    fn composed_is_the_definition_with_both_gradients() {
        if !computes(DType::F64) {
            return;
        }
        let inputs = [random(1, [33, 8]), random(2, [50, 8])];
        let t = targets(33, 50, &inputs[0]);
        let double = evaluate(&inputs, |x| {
            let [hidden, weight] = [0, 1].map(|i| x[i].clone().cast(DType::F64));
            cross_entropy(hidden, weight, t.clone(), 0.3).reshape([1, 1])
        });
        let expected = evaluate(&inputs, |x| reference(x[0].clone(), x[1].clone(), t.clone(), 0.3).reshape([1, 1]));
        assert_same(&double, &expected, 1e-4);
    }

    #[test]
    fn composed_in_chunks_is_composed_at_once() {
        let (n, width, vocab) = (33, 8, 50);
        let [hidden, weight] = [random(1, [n, width]), random(2, [vocab, width])].map(|t| {
            let dims = t.dims();
            flex::tensor(t.into_data().iter::<f32>().collect(), dims)
        });
        let ids: Vec<i64> = (0..n as i64).map(|i| i * 7919 % vocab as i64).collect();
        let ids = flex::FlexTensor::from_data(TensorData::new(ids, [n]));
        let [chunks, whole] = [1, n * vocab].map(|elements| {
            let (loss, hidden_grad, weight_grad) =
                composed::<Flex>(hidden.clone(), weight.clone(), ids.clone(), 0.3, [true; 2], elements);
            [loss, hidden_grad.unwrap(), weight_grad.unwrap()].map(|t| t.into_data())
        });
        assert_same(&chunks, &whole, 1e-5);
    }

    #[test]
    fn a_bf16_head_is_the_f32_one_of_the_same_values() {
        if !computes(DType::BF16) {
            return;
        }
        for (n, width, vocab) in [(33, 8, 50), (3, 600, 7001)] {
            let t = |like: &Tensor<2>| targets(n, vocab, like);
            let half = |seed, shape| (random(seed, shape) * 0.1).cast(DType::BF16).cast(DType::F32).detach();
            let inputs = [half(1, [n, width]), half(2, [vocab, width])];
            let single =
                evaluate(&inputs, |x| cross_entropy(x[0].clone(), x[1].clone(), t(&x[0]), 0.3).reshape([1, 1]));
            let found = evaluate(&inputs, |x| {
                let [hidden, weight] = [0, 1].map(|i| x[i].clone().cast(DType::BF16));
                cross_entropy(hidden, weight, t(&x[0]), 0.3).reshape([1, 1])
            });
            found[0].assert_approx_eq::<f32>(&single[0], burn::tensor::Tolerance::rel_abs(1e-5, 1e-5));
            // The gradients are rounded to bf16, and nothing else is.
            assert_same(&found, &single, 0.005);
        }
    }

    #[test]
    fn gradients_are_the_slopes() {
        let inputs = [random(5, [4, 3]), random(6, [5, 3])];
        assert_finite_differences(&inputs, |x| {
            cross_entropy(x[0].clone(), x[1].clone(), targets(4, 5, &x[0]), 0.3).reshape([1, 1])
        });
    }

    #[test]
    fn one_gradient_alone_and_none() {
        let [hidden, weight] = [random(1, [5, 8]), random(2, [9, 8])];
        let t = targets(5, 9, &hidden);
        let loss = cross_entropy(hidden.clone(), weight.clone(), t.clone(), 1.0);
        assert!(!loss.is_tracked());
        let tracked = hidden.require_grad();
        let grads = cross_entropy(tracked.clone(), weight, t, 1.0).backward();
        assert!(tracked.grad(&grads).is_some());
    }
}
