//! Work on the rows of a buffer, shared out over the threads.

use rayon::prelude::*;

use super::simd::vectorized;

/// Values that a thread takes at a time: enough to be worth waking it.
const PART: usize = 1 << 15;

fn part_rows(width: usize) -> usize {
    (PART / width.max(1)).max(1)
}

/// Calls `f(row, values)` for each row of `out`. Mark `f` with `#[inline(always)]`: it is compiled for the processor's
/// vectors.
pub fn each_row(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = part_rows(width);
    out.par_chunks_mut((rows * width).max(1)).enumerate().for_each(|(part, out)| {
        vectorized(
            #[inline(always)]
            || {
                // A loop, since `for_each` may become a function of its own, which would be compiled for any processor.
                for (i, row) in out.chunks_mut(width.max(1)).enumerate() {
                    f(part * rows + i, row);
                }
            },
        );
    });
}

/// As [`each_row`], for the rows of two buffers of one shape.
pub fn each_row2(a: &mut [f32], b: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) {
    let rows = part_rows(width);
    let size = (rows * width).max(1);
    a.par_chunks_mut(size).zip(b.par_chunks_mut(size)).enumerate().for_each(|(part, (a, b))| {
        vectorized(
            #[inline(always)]
            || {
                let pairs = a.chunks_mut(width.max(1)).zip(b.chunks_mut(width.max(1)));
                for (i, (a, b)) in pairs.enumerate() {
                    f(part * rows + i, a, b);
                }
            },
        );
    });
}

/// As [`each_row`], where `f(row, values, sums)` also adds to sums of `width` values; returns those of all rows.
pub fn each_row_summing(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) -> Vec<f32> {
    let rows = part_rows(width);
    let parts = out.par_chunks_mut((rows * width).max(1)).enumerate();
    summing(
        parts,
        width,
        #[inline(always)]
        |(part, out), sums| {
            for (i, row) in out.chunks_mut(width.max(1)).enumerate() {
                f(part * rows + i, row, sums);
            }
        },
    )
}

/// As [`each_row_summing`], for the rows of two buffers of one shape.
pub fn each_row2_summing(
    a: &mut [f32],
    b: &mut [f32],
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let rows = part_rows(width);
    let size = (rows * width).max(1);
    let parts = a.par_chunks_mut(size).zip(b.par_chunks_mut(size)).enumerate();
    summing(
        parts,
        width,
        #[inline(always)]
        |(part, (a, b)), sums| {
            let pairs = a.chunks_mut(width.max(1)).zip(b.chunks_mut(width.max(1)));
            for (i, (a, b)) in pairs.enumerate() {
                f(part * rows + i, a, b, sums);
            }
        },
    )
}

/// Calls `f(part, sums)` for each part, with sums of its own, and adds these in the order of the parts: the total is the same
/// whichever thread was first.
fn summing<P: Send>(
    parts: impl IndexedParallelIterator<Item = P>,
    width: usize,
    f: impl Fn(P, &mut [f32]) + Sync,
) -> Vec<f32> {
    let parts: Vec<Vec<f32>> = parts
        .map(|part| {
            let mut sums = vec![0.0; width];
            vectorized(
                #[inline(always)]
                || f(part, &mut sums),
            );
            sums
        })
        .collect();
    let mut total = vec![0.0; width];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_seen_once_with_its_number() {
        for (rows, width) in [(0, 3), (1, 1), (7, 3), (1000, 100), (3, 70_000)] {
            let mut a = vec![0.0; rows * width];
            each_row(&mut a, width, |row, values| values.iter_mut().for_each(|v| *v += row as f32));
            let mut b = vec![1.0; rows * width];
            each_row2(&mut a, &mut b, width, |row, a, b| {
                assert_eq!(a[width - 1], row as f32);
                b.iter_mut().for_each(|v| *v += row as f32);
            });
            assert!((0..rows * width).all(|i| a[i] == (i / width) as f32 && b[i] == 1.0 + (i / width) as f32));
            let of_one = each_row_summing(&mut a, width, |row, values, sums| {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += *value;
                    *value = 2.0 * row as f32;
                }
            });
            let of_both = each_row2_summing(&mut a, &mut b, width, |row, a, b, sums| {
                assert_eq!(a[0], 2.0 * row as f32);
                sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += *a - *b);
            });
            let all = (0..rows).sum::<usize>() as f32;
            assert!(of_one.iter().all(|&sum| sum == all), "{of_one:?}");
            assert!(of_both.iter().all(|&sum| sum == all - rows as f32), "{of_both:?}");
        }
    }
}
