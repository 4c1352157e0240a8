//! On the CPU.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::{RowGroup, RowLowRank, RowUpdate, SharedPair};
use crate::flex::{self, FlexTensor, dims2, owned, values, values_mut};
use crate::matrix::{Mat, MatMut, Product, compute, product};
use crate::simd::{sum, vectorized};

/// Up to so many rows are updated one by one, as fast as memory gives the factors.
const FEW: usize = 4;
/// Rows of a task, where one group has many.
const TASK_ROWS: usize = 64;

/// Rows of one projection that one thread updates.
struct Task<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    update: &'a RowUpdate,
}

pub(super) fn update_rows(products: Vec<FlexTensor>, x: FlexTensor, groups: &[Vec<RowGroup<'_>>]) -> Vec<FlexTensor> {
    let [n, inputs] = dims2(&x);
    let x = values(&x);
    let mut lows = HashMap::new();
    let mut outs: Vec<FlexTensor> = products.into_iter().map(owned).collect();
    let mut tasks = Vec::new();
    for (out, groups) in outs.iter_mut().zip(groups) {
        let [rows, width] = dims2(out);
        assert_eq!(rows, n, "rows of a product and of its input");
        let y = values_mut(out);
        replace(y, width, x, inputs, groups);
        add_shared(y, width, x, inputs, groups, &mut lows);
        let (mut rest, mut at) = (y, 0);
        for RowGroup { rows, update } in groups {
            assert!(at <= rows.start && rows.end <= n, "groups of rows that overlap or lie outside: {rows:?} of {n}");
            let mut row = rows.start;
            let (_, mut own) = std::mem::take(&mut rest).split_at_mut((row - at) * width);
            while row < rows.end {
                let end = (row + TASK_ROWS).min(rows.end);
                let (y, left) = own.split_at_mut((end - row) * width);
                tasks.push(Task { x: &x[row * inputs..end * inputs], y, update });
                (own, row) = (left, end);
            }
            (rest, at) = (own, rows.end);
        }
    }
    tasks.into_par_iter().with_min_len(4).for_each(|task| task.run(inputs));
    outs
}

impl Task<'_> {
    fn run(self, inputs: usize) {
        let Self { x, y, update } = self;
        let rows = x.len() / inputs.max(1);
        let width = y.len() / rows.max(1);
        if let Some(low_rank) = &update.low_rank {
            assert!(
                low_rank.a.len() == low_rank.rank * inputs && low_rank.b.len() == low_rank.rank * width,
                "an update of rank {} for {inputs} inputs and {width} outputs",
                low_rank.rank
            );
            if rows <= FEW {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(inputs)) {
                    vectorized(
                        #[inline(always)]
                        || add_low_rank(y, x, low_rank),
                    );
                }
            } else {
                let r = low_rank.rank;
                let mut low = flex::buffer(rows * r);
                let shrink = Product::of(Mat::new(x, rows, inputs), Mat::new(&low_rank.a, r, inputs).t());
                compute(MatMut::new(&mut low, rows, r), &[shrink]);
                let expand = Product::of(Mat::new(&low, rows, r), Mat::new(&low_rank.b, r, width));
                compute(MatMut::new(y, rows, width), &[expand.added()]);
            }
        }
        let RowUpdate { scale, bias, .. } = update;
        for y in y.chunks_exact_mut(width) {
            if !scale.is_empty() {
                multiply(y, scale);
            }
            if !bias.is_empty() {
                y.iter_mut().zip(&bias[..width]).for_each(|(y, b)| *y += b);
            }
        }
    }
}

/// Puts outputs in place that are other products. They come before everything that is added.
fn replace(y: &mut [f32], width: usize, x: &[f32], inputs: usize, groups: &[RowGroup<'_>]) {
    for RowGroup { rows, update } in groups {
        for (place, factor) in &update.replaced {
            for row in rows.clone() {
                y[row * width + place] = vectorized(
                    #[inline(always)]
                    || dot(&x[row * inputs..][..inputs], factor),
                );
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    sum(
        a.len(),
        #[inline(always)]
        |i| a[i] * b[i],
    )
}

/// y += (x·Aᵀ)·(s·Bᵀ) for one row: A and B are read once, in order.
#[inline(always)]
fn add_low_rank(y: &mut [f32], x: &[f32], RowLowRank { a, b, .. }: &RowLowRank) {
    let width = y.len();
    let (a, a_rest) = (a.chunks_exact(4 * x.len()), a.chunks_exact(4 * x.len()).remainder());
    let (b, b_rest) = (b.chunks_exact(4 * width), b.chunks_exact(4 * width).remainder());
    for (a, b) in a.zip(b) {
        let (a, b) = (four(a, x.len()), four(b, width));
        let low = [dot(x, a[0]), dot(x, a[1]), dot(x, a[2]), dot(x, a[3])];
        for i in 0..width {
            y[i] += (low[0] * b[0][i] + low[1] * b[1][i]) + (low[2] * b[2][i] + low[3] * b[3][i]);
        }
    }
    for (a, b) in a_rest.chunks_exact(x.len().max(1)).zip(b_rest.chunks_exact(width.max(1))) {
        let low = dot(x, a);
        for i in 0..width {
            y[i] += low * b[i];
        }
    }
}

/// Four rows that lie one after another.
#[inline(always)]
fn four(values: &[f32], width: usize) -> [&[f32]; 4] {
    let (first, last) = values.split_at(2 * width);
    let ((a, b), (c, d)) = (first.split_at(width), last.split_at(width));
    [a, b, c, &d[..width]]
}

#[inline(always)]
fn multiply(values: &mut [f32], by: &[f32]) {
    values.iter_mut().zip(by).for_each(|(value, by)| *value *= by);
}

/// `x·Aᵀ` of rows, by the pair and the rows: projections of one x share them.
type Lows = HashMap<(*const SharedPair, usize, usize), Vec<f32>>;

/// Adds the updates by shared pairs: one product for all rows of a pair that follow each other.
fn add_shared(y: &mut [f32], width: usize, x: &[f32], inputs: usize, groups: &[RowGroup<'_>], lows: &mut Lows) {
    let mut at = 0;
    while let Some(first) = groups.get(at) {
        let Some(shared) = &first.update.shared else {
            at += 1;
            continue;
        };
        let pair = &shared.pair;
        let mut end = at + 1;
        let same = |group: &RowGroup<'_>, last: &RowGroup<'_>| {
            let other = group.update.shared.as_ref();
            group.rows.start == last.rows.end && other.is_some_and(|other| Arc::ptr_eq(&other.pair, pair))
        };
        while end < groups.len() && same(&groups[end], &groups[end - 1]) {
            end += 1;
        }
        let (run, rows) = (&groups[at..end], first.rows.start..groups[end - 1].rows.end);
        at = end;
        let (n, r) = (rows.len(), pair.rank);
        assert!(inputs <= pair.inputs && width <= pair.outputs, "a pair that is too small for its layer");
        let low = lows.entry((Arc::as_ptr(pair), rows.start, rows.end)).or_insert_with(|| {
            let x = Mat::new(&x[rows.start * inputs..rows.end * inputs], n, inputs);
            product(x, Mat::strided(&pair.a, r, inputs, pair.inputs).t())
        });
        let vectors = || run.iter().filter_map(|group| Some((group.rows.clone(), group.update.shared.as_ref()?)));
        let mut low = low.clone();
        for (own, shared) in vectors() {
            let values = &mut low[(own.start - rows.start) * r..(own.end - rows.start) * r];
            values.chunks_exact_mut(r.max(1)).for_each(|row| multiply(row, &shared.d[..r]));
        }
        let high = product(Mat::new(&low, n, r), Mat::new(&pair.b, width, r).t());
        for (own, shared) in vectors() {
            for row in own {
                let (y, high) = (&mut y[row * width..][..width], &high[(row - rows.start) * width..][..width]);
                y.iter_mut().zip(high).zip(&shared.b[..width]).for_each(|((y, high), b)| *y += high * b);
            }
        }
    }
}

pub(super) fn scale_rows(x: FlexTensor, groups: &[(Range<usize>, &[f32])]) -> FlexTensor {
    let [_, width] = dims2(&x);
    let mut x = owned(x);
    let values = values_mut(&mut x);
    for (rows, scale) in groups {
        values[rows.start * width..rows.end * width].chunks_exact_mut(width).for_each(|row| multiply(row, scale));
    }
    x
}
