#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};

use super::*;
use crate::testing::normal;

fn vector(seed: u64, n: usize) -> Vec<f32> {
    normal(seed).take(n).collect()
}

fn matrix(seed: u64, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(vector(seed, shape[0] * shape[1]), shape), &Device::flex())
}

fn update(seed: u64, [inp, out]: [usize; 2], rank: usize, pair: Option<&Arc<SharedPair>>) -> RowUpdate {
    let low_rank =
        (rank > 0).then(|| RowLowRank { rank, a: vector(seed, rank * inp), b: vector(seed + 1, rank * out) });
    let shared =
        pair.map(|pair| RowShared { pair: Arc::clone(pair), d: vector(seed + 2, pair.rank), b: vector(seed + 3, out) });
    RowUpdate {
        replaced: vec![(1, vector(seed + 4, inp))],
        low_rank,
        shared,
        scale: vector(seed + 5, out),
        bias: vector(seed + 6, out),
    }
}

/// By the definition, a row after another, in f64.
fn reference(y: &[f32], x: &[f32], update: &RowUpdate) -> Vec<f32> {
    let (inp, out) = (x.len(), y.len());
    let dot = |a: &[f32]| x.iter().zip(a).map(|(x, a)| f64::from(*x) * f64::from(*a)).sum::<f64>();
    let mut y: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
    for (place, row) in &update.replaced {
        y[*place] = dot(row);
    }
    if let Some(l) = &update.low_rank {
        for j in 0..l.rank {
            let low = dot(&l.a[j * inp..(j + 1) * inp]);
            (0..out).for_each(|i| y[i] += low * f64::from(l.b[j * out + i]));
        }
    }
    if let Some(s) = &update.shared {
        for j in 0..s.pair.rank {
            let low = dot(&s.pair.a[j * s.pair.inputs..][..inp]) * f64::from(s.d[j]);
            (0..out).for_each(|i| y[i] += low * f64::from(s.pair.b[i * s.pair.rank + j]) * f64::from(s.b[i]));
        }
    }
    if !update.scale.is_empty() {
        (0..out).for_each(|i| y[i] *= f64::from(update.scale[i]));
    }
    if !update.bias.is_empty() {
        (0..out).for_each(|i| y[i] += f64::from(update.bias[i]));
    }
    y.into_iter().map(|v| v as f32).collect()
}

#[test]
fn every_row_gets_what_its_adapter_does_and_no_other_row_does() {
    let (n, inp, outs) = (90, 40, [24, 17]);
    let pair = Arc::new(SharedPair { rank: 6, inputs: 50, outputs: 30, a: vector(1, 300), b: vector(2, 180) });
    let rows = [0..1, 1..3, 3..8, 10..80, 80..81];
    for dtype in [DType::F32, DType::BF16] {
        let x = matrix(7, [n, inp]).cast(dtype);
        let products = outs.map(|out| matrix(8, [n, out]).cast(dtype));
        let updates: Vec<Vec<RowUpdate>> = outs
            .iter()
            .map(|&out| {
                let of = |i: u64, rank, shared: bool| update(100 * i, [inp, out], rank, shared.then_some(&pair));
                vec![
                    of(1, 3, false),
                    of(2, 0, true),
                    of(3, 5, true),
                    of(4, 8, false),
                    RowUpdate { bias: vector(3, out), ..RowUpdate::default() },
                ]
            })
            .collect();
        let groups = [0, 1].map(|i| {
            let groups = rows.iter().zip(&updates[i]);
            groups.map(|(rows, update)| RowGroup { rows: rows.clone(), update }).collect::<Vec<_>>()
        });
        let found = update_rows(products.clone(), &x, groups);
        let values = |t: &Tensor<2>| t.clone().into_data().iter::<f32>().collect::<Vec<_>>();
        let x = values(&x);
        for (i, (found, product)) in found.iter().zip(&products).enumerate() {
            assert_eq!(found.dtype(), dtype);
            let mut expected = Vec::new();
            for (row, y) in values(product).chunks(outs[i]).enumerate() {
                let at = rows.iter().position(|rows| rows.contains(&row));
                let x = &x[row * inp..][..inp];
                expected.extend(at.map_or(y.to_vec(), |at| reference(y, x, &updates[i][at])));
            }
            let tolerance = if dtype == DType::F32 { 2e-5 } else { 1e-2 };
            let expected = TensorData::new(expected, [n, outs[i]]);
            found
                .clone()
                .cast(DType::F32)
                .into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(tolerance, 10.0 * tolerance));
        }
    }
}

#[test]
fn a_row_of_nan_stays_alone() {
    let x = Tensor::<2>::from_data([[f32::NAN, 1.0], [1.0, 2.0], [3.0, 1.0]], &Device::flex());
    let pair = Arc::new(SharedPair { rank: 1, inputs: 2, outputs: 2, a: vec![1.0; 2], b: vec![1.0; 2] });
    let own = RowUpdate { shared: Some(RowShared { pair, d: vec![1.0], b: vec![1.0; 2] }), ..RowUpdate::default() };
    let groups = (0..3).map(|row| RowGroup { rows: row..row + 1, update: &own }).collect();
    let [y] = update_rows([Tensor::zeros([3, 2], &Device::flex())], &x, [groups]);
    let y: Vec<f32> = y.into_data().iter().collect();
    assert!(y[0].is_nan() && y[2..].iter().all(|v| v.is_finite()), "{y:?}");
}

#[test]
fn inputs_are_scaled_row_by_row() {
    let x = Tensor::<2>::ones([3, 2], &Device::flex());
    let y = scale_rows(x.clone(), &[(1..3, &[2.0, 3.0])]);
    assert_eq!(y.into_data().iter::<f32>().collect::<Vec<_>>(), [1.0, 1.0, 2.0, 3.0, 2.0, 3.0]);
    assert_eq!(x.into_data().iter::<f32>().sum::<f32>(), 6.0);
}
