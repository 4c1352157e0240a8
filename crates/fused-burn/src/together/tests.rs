use burn::tensor::{Tensor, TensorData, Tolerance};

use super::{AdamWParameter, AdamWStep, AnyTensor, adam_w, sum_of_squares};
use crate::testing::random;

/// Tensors of odd sizes and several ranks: more than one launch takes where few are bound.
fn tensors(seed: u64) -> (Vec<Tensor<1>>, Vec<Tensor<2>>) {
    let vectors = [1, 300, 2049].iter().enumerate().map(|(i, &n)| random(seed + i as u64, [n]).detach().inner());
    let shapes = (0..18).map(|i| [i % 5 + 1, 7 * i + 3]);
    let matrices = shapes.enumerate().map(|(i, shape)| random(seed + 10 + i as u64, shape).detach().inner());
    (vectors.collect(), matrices.collect())
}

fn any((vectors, matrices): &(Vec<Tensor<1>>, Vec<Tensor<2>>)) -> Vec<AnyTensor> {
    vectors.iter().cloned().map(AnyTensor::from).chain(matrices.iter().cloned().map(AnyTensor::from)).collect()
}

fn flat(tensors: &(Vec<Tensor<1>>, Vec<Tensor<2>>)) -> Vec<f32> {
    let data = tensors.0.iter().map(Tensor::to_data).chain(tensors.1.iter().map(Tensor::to_data));
    data.flat_map(|data| data.iter::<f32>().collect::<Vec<_>>()).collect()
}

fn flat_any(tensors: Vec<AnyTensor>) -> Vec<f32> {
    let tensors = tensors.into_iter().enumerate();
    let data = tensors.map(|(i, t)| if i < 3 { t.of_rank::<1>().into_data() } else { t.of_rank::<2>().into_data() });
    data.flat_map(|data| data.iter::<f32>().collect::<Vec<_>>()).collect()
}

fn same(found: Vec<f32>, expected: Vec<f32>) {
    let [found, expected] = [found, expected].map(|values| {
        let n = values.len();
        TensorData::new(values, [n])
    });
    found.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-5, 1e-6));
}

#[test]
fn the_squares_of_all_tensors_are_summed() {
    assert!(sum_of_squares(Vec::new()).is_none());
    let tensors = tensors(1);
    let expected = flat(&tensors).iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
    let found = sum_of_squares(any(&tensors)).map(Tensor::into_scalar::<f32>).map(f64::from);
    assert!(found.is_some_and(|found| (found - expected).abs() < 1e-5 * expected), "{found:?}, {expected}");
}

#[test]
fn a_step_is_burns_for_every_tensor() {
    let [values, gradients, first, second] = [1, 100, 200, 300].map(tensors);
    let step = AdamWStep { lr: 0.01, betas: [0.9, 0.99], epsilon: 1e-8, weight_decay: 0.1, time: 3 };
    let second = (
        second.0.into_iter().map(Tensor::abs).collect::<Vec<_>>(),
        second.1.into_iter().map(Tensor::abs).collect::<Vec<_>>(),
    );
    let parameters = any(&values).into_iter().zip(any(&gradients)).zip(any(&first).into_iter().zip(any(&second)));
    let parameters = parameters.map(|((value, gradient), (first, second))| AdamWParameter {
        value,
        gradient,
        moments: [first, second],
    });
    let factor = Tensor::from_data(TensorData::new(vec![0.5f32], [1]), &values.0[0].device());
    let (found, moments): (Vec<_>, Vec<_>) = adam_w(parameters.collect(), factor, step).into_iter().unzip();
    let (found_first, found_second): (Vec<_>, Vec<_>) = moments.into_iter().map(|[m, v]| (m, v)).unzip();
    let (mut expected, mut expected_first, mut expected_second) = (Vec::new(), Vec::new(), Vec::new());
    for (((p, g), m), v) in flat(&values).iter().zip(flat(&gradients)).zip(flat(&first)).zip(flat(&second)) {
        let (p, g, m, v) = (f64::from(*p), 0.5 * f64::from(g), f64::from(m), f64::from(v));
        let (m, v) = (0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g);
        let delta = m / (1.0 - 0.9f64.powi(3)) / ((v / (1.0 - 0.99f64.powi(3))).sqrt() + 1e-8);
        expected.push((p * (1.0 - 0.01 * 0.1) - 0.01 * delta) as f32);
        expected_first.push(m as f32);
        expected_second.push(v as f32);
    }
    same(flat_any(found), expected);
    same(flat_any(found_first), expected_first);
    same(flat_any(found_second), expected_second);
    // The moments that were given are still what they were.
    same(flat_any(any(&first)), flat(&first));
}
