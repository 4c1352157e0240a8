use burn::tensor::DType;
use half::bf16;

use super::target::with_gemm;
use super::*;
use crate::packed::{Format, PackedLayout, PackedView};
use crate::testing::normal;

/// Draws so many random values at a time.
fn draws(seed: u64) -> impl FnMut(usize) -> Vec<f32> {
    let mut values = normal(seed);
    move |n| values.by_ref().take(n).collect()
}

fn naive(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    let (left, right) = (a.single(), b.single());
    let at = |v: &[f32], m: Mat<'_>, i: usize, j: usize| f64::from(v[i * m.row_stride + j * m.col_stride]);
    let cell = |i: usize, j: usize| (0..a.cols).map(|k| at(&left, a, i, k) * at(&right, b, k, j)).sum::<f64>() as f32;
    (0..a.rows).flat_map(|i| (0..b.cols).map(move |j| (i, j))).map(|(i, j)| cell(i, j)).collect()
}

/// The product by each kind of tiles that this processor has, and by what others take.
fn every_way(a: Mat<'_>, b: Mat<'_>) -> Vec<Vec<f32>> {
    let (rows, cols, products) = (a.rows, b.cols, [Product::of(a, b)]);
    let mut found = vec![vec![f32::NAN; rows * cols]];
    #[allow(unsafe_code)]
    // SAFETY: there is room for the product, and the tiles are this processor's.
    unsafe {
        with_gemm(found[0].as_mut_ptr(), cols, &products[0]);
        #[cfg(target_arch = "x86_64")]
        for tiles in tiles::Tiles::all() {
            let mut out = vec![f32::NAN; rows * cols];
            tiles.write(out.as_mut_ptr(), cols, &products);
            found.push(out);
        }
    }
    found
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= 1e-4 * (1.0 + e.abs()), "{f} instead of {e}");
    }
}

/// Tiles, panels and blocks that are whole, and that are not; few rows; more than one task.
const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (3, 5, 7),
    (6, 256, 16),
    (7, 257, 17),
    (33, 17, 50),
    (130, 70, 129),
    (65, 300, 16),
    (2, 64, 700),
    (8, 33, 40),
    (9, 33, 40),
    (18, 40, 100),
    (19, 330, 300),
    (700, 64, 2),
    (300, 600, 200),
];

#[test]
fn any_shape_and_orientation() {
    for (m, k, n) in SHAPES {
        let mut draw = draws(1);
        let (a, b) = (draw(m * k), draw(k * n));
        for (a, b) in [
            (Mat::new(&a, m, k), Mat::new(&b, k, n)),
            (Mat::new(&a, m, k), Mat::new(&b, n, k).t()),
            (Mat::new(&a, k, m).t(), Mat::new(&b, k, n)),
            (Mat::new(&a, k, m).t(), Mat::new(&b, n, k).t()),
        ] {
            let expected = naive(a, b);
            close(&product(a, b), &expected);
            every_way(a, b).iter().for_each(|found| close(found, &expected));
        }
    }
}

#[test]
fn factors_in_bf16_are_those_of_the_same_values() {
    for (m, k, n) in SHAPES {
        let mut draw = draws(3);
        let [left, right] = [m * k, k * n].map(|len| draw(len).into_iter().map(bf16::from_f32).collect::<Vec<_>>());
        let [wide_left, wide_right] = [&left, &right].map(|v| v.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        let lefts = [
            (Mat::half(&left, m, k), Mat::new(&wide_left, m, k)),
            (Mat::half(&left, k, m).t(), Mat::new(&wide_left, k, m).t()),
        ];
        let rights = [
            (Mat::half(&right, k, n), Mat::new(&wide_right, k, n)),
            (Mat::half(&right, n, k).t(), Mat::new(&wide_right, n, k).t()),
        ];
        for ((a, wide_a), (b, wide_b)) in lefts.into_iter().flat_map(|left| rights.map(|right| (left, right))) {
            let expected = naive(wide_a, wide_b);
            for (a, b) in [(a, b), (a, wide_b), (wide_a, b)] {
                close(&product(a, b), &expected);
                every_way(a, b).iter().for_each(|found| close(found, &expected));
            }
        }
    }
}

#[test]
fn rows_far_apart_and_odd_ones_of_bf16_are_read_too() {
    let mut draw = draws(5);
    let values = draw(40 * 2048);
    let half: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
    let b = draw(2048 * 70);
    let half_b: Vec<bf16> = b.iter().map(|v| bf16::from_f32(*v)).collect();
    // Whole rows that lie 8 KiB apart; parts of rows that begin at an odd place and have an odd length.
    for (from, to) in [(0, 2048), (1, 420), (3, 36)] {
        let a = Mat::new(&values, 40, 2048).cols(from, to);
        let b = Mat::new(&b, 2048, 70).rows(from, to);
        every_way(a, b).iter().for_each(|found| close(found, &naive(a, b)));
        let a = Mat::half(&half, 40, 2048).cols(from, to);
        for b in [Mat::half(&half_b, 2048, 70).rows(from, to), Mat::half(&half_b, 70, 2048).cols(from, to).t()] {
            every_way(a, b).iter().for_each(|found| close(found, &naive(a, b)));
        }
    }
}

#[test]
fn a_sum_is_one_pass_or_several_and_a_plain_product_begins_anew() {
    for (m, k, n) in SHAPES {
        let mut draw = draws(4);
        let [a, c] = [k, 16].map(|k| draw(m * k));
        let [b, d] = [k, 16].map(|k| draw(k * n));
        let (a, b, c, d) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t(), Mat::new(&c, m, 16), Mat::new(&d, 16, n));
        let (first, second) = (Product::of(a, b), Product::of(c, d).times(-0.5));
        let both: Vec<f32> = naive(a, b).iter().zip(naive(c, d)).map(|(x, y)| x - 0.5 * y).collect();
        close(&sum_of_products(&[first, second.added()]), &both);
        let scale = draw(n);
        let scaled: Vec<f32> = both.iter().enumerate().map(|(i, x)| x * scale[i % n]).collect();
        close(&scaled_sum_of_products(&[first, second.added()], &scale), &scaled);
        let mut out = vec![1.0; m * n];
        compute(MatMut::new(&mut out, m, n), &[first, second, first.added()]);
        close(&out, &both);
        compute_parallel(MatMut::new(&mut out, m, n), &[first.times(-1.0).added(), second.times(0.5).added()]);
        assert!(out.iter().all(|v| v.abs() < 1e-2), "what was added is taken away again");
    }
}

#[test]
fn parts_of_buffers_and_sums() {
    let mut draw = draws(2);
    let (a, b, c) = (draw(128 * 100), draw(128 * 100), draw(100 * 200));
    let part = Mat::strided(&c[50..], 100, 128, 200);
    let (a, b) = (Mat::new(&a, 128, 100), Mat::new(&b, 128, 100));
    let mut out = vec![7.0; 128 * 150];
    let both = [Product::of(a, part), Product::of(b, part).times(0.5).added()];
    compute_parallel(MatMut::strided(&mut out[10..], 128, 128, 150), &both);
    let (x, y) = (naive(a, part), naive(b, part));
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + 0.5 * y).collect();
    let found: Vec<f32> = (0..128).flat_map(|r| out[10 + r * 150..][..128].to_vec()).collect();
    close(&found, &expected);
    assert!(out[..10].iter().all(|&v| v == 7.0) && out[10 + 128..160].iter().all(|&v| v == 7.0));
}

#[test]
fn empty_sizes() {
    assert!(product(Mat::new(&[], 0, 3), Mat::new(&[0.0; 6], 3, 2)).is_empty());
    let (a, b) = (Mat::new(&[], 2, 0), Mat::new(&[], 0, 2));
    assert_eq!(product(a, b), [0.0; 4]);
    every_way(a, b).iter().for_each(|found| assert_eq!(found, &[0.0; 4]));
}

/// A packed matrix of any codes.
struct Packed {
    codes: Vec<u8>,
    scales: Vec<f32>,
    layout: PackedLayout,
}

impl Packed {
    fn new(format: Format, nested: bool, [rows, cols]: [usize; 2], dtype: DType) -> Self {
        let layout = match format {
            Format::Nf4 | Format::Fp4 => PackedLayout { format, block: 64, nested, rows, cols, dtype },
            _ => PackedLayout::of(format, [rows, cols], dtype),
        };
        // No f16 in llama.cpp's blocks is large or no number: bytes at odd places are small.
        let code = |i: usize| (i * 37 + i / 7) as u8 & if format.block().is_some() { 0x2f } else { 0xff };
        let codes = (0..layout.num_bytes()).map(code).collect();
        let scales = (0..layout.num_scales()).map(|i| 0.5 + (i % 5) as f32 * 0.1).collect();
        Self { codes, scales, layout }
    }

    fn mat(&self) -> Mat<'_> {
        Mat::packed(PackedView { codes: &self.codes, scales: &self.scales, layout: self.layout })
    }

    fn values(&self) -> Vec<f32> {
        self.mat().single().into_owned()
    }

    /// Matrices of every format that rows of `cols` have room for.
    fn all([rows, cols]: [usize; 2], dtype: DType) -> impl Iterator<Item = Self> {
        let fits = move |format: &Format| format.block().is_none_or(|(values, _)| cols.is_multiple_of(values));
        let nestings = |format| match format {
            Format::Nf4 | Format::Fp4 => vec![false, true],
            _ => vec![false],
        };
        let each = move |format| nestings(format).into_iter().map(move |nested| (format, nested));
        let all = Format::ALL.into_iter().filter(fits).flat_map(each);
        all.map(move |(format, nested)| Self::new(format, nested, [rows, cols], dtype))
    }
}

/// Within `part` of the largest value.
fn near(found: &[f32], expected: &[f32], part: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= part * largest, "{f} instead of {e}, of at most {largest}");
    }
}

#[test]
fn packed_factors_are_those_of_the_decoded_values() {
    for (m, k, n) in [
        (1, 5, 7),
        (1, 256, 70),
        (3, 320, 33),
        (2, 256, 40),
        (7, 128, 30),
        (8, 64, 100),
        (9, 256, 40),
        (70, 512, 300),
        (33, 77, 129),
    ] {
        for dtype in [DType::F32, DType::BF16] {
            let mut draw = draws(6);
            // Exact in bf16.
            let a: Vec<f32> = draw(m * k).into_iter().map(|v| bf16::from_f32(v).to_f32()).collect();
            let half: Vec<bf16> = a.iter().map(|v| bf16::from_f32(*v)).collect();
            let left = if dtype == DType::BF16 { Mat::half(&half, m, k) } else { Mat::new(&a, m, k) };
            for (shape, transposed) in [([n, k], true), ([k, n], false)] {
                for packed in Packed::all(shape, dtype) {
                    let values = packed.values();
                    let (b, dense) = (packed.mat(), Mat::new(&values, shape[0], shape[1]));
                    let (b, dense) = if transposed { (b.t(), dense.t()) } else { (b, dense) };
                    let expected = naive(Mat::new(&a, m, k), dense);
                    near(&product(left, b), &expected, 1e-5);
                    near(&product(Mat::new(&a, m, k), b), &expected, 1e-5);
                    every_way(left, b).iter().for_each(|found| near(found, &expected, 1e-5));
                    // As the left factor.
                    let turned = naive(dense.t(), Mat::new(&a, m, k).t());
                    every_way(b.t(), left.t()).iter().for_each(|found| near(found, &turned, 1e-5));
                }
            }
        }
    }
}

#[test]
fn parts_of_packed_factors_in_sums_with_others() {
    let (m, k, n) = (20, 512, 200);
    let mut draw = draws(7);
    let (a, c, d) = (draw(m * k), draw(m * 8), draw(8 * n));
    for dtype in [DType::F32, DType::BF16] {
        for packed in Packed::all([n, k], dtype) {
            let values = packed.values();
            for rows in [1, 5, m] {
                for ([top, bottom], [left, right]) in [([0, n], [0, k]), ([3, 150], [32, 300]), ([64, 65], [7, 480])] {
                    let b = packed.mat().rows(top, bottom).cols(left, right).t();
                    let dense = Mat::new(&values, n, k).rows(top, bottom).cols(left, right).t();
                    let a = Mat::new(&a, m, k).rows(0, rows).cols(left, right);
                    let (c, d) = (Mat::new(&c, m, 8).rows(0, rows), Mat::new(&d, 8, n).cols(top, bottom));
                    let products = [Product::of(a, b).times(0.5), Product::of(c, d).times(-2.0).added()];
                    let expected: Vec<f32> =
                        naive(a, dense).iter().zip(naive(c, d)).map(|(x, y)| 0.5 * x - 2.0 * y).collect();
                    near(&sum_of_products(&products), &expected, 1e-5);
                }
            }
        }
    }
}
