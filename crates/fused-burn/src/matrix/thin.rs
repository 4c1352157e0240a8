//! Products of a few rows, as of a token that is generated: the right factor is read once, as fast as memory gives it.

use super::mat::Values;
use super::product::Product;
use crate::packed::FewRows;
use crate::simd::{vectorized, widen};

/// Up to so many rows a product is thin.
const ROWS: usize = 8;

/// Whether `product` is one of few rows, with factors whose inner dimension lies value after value.
pub(super) fn is_thin(product: &Product<'_>) -> bool {
    let (a, b) = (product.a, product.b);
    a.rows <= ROWS && a.col_stride == 1 && b.row_stride == 1 && b.rows > 1
}

/// Writes the sum of thin `products`, all of one size, to `out`.
///
/// # Safety
/// The products' rows and columns must lie at `out`, where nothing else reads or writes meanwhile.
#[allow(unsafe_code)]
pub(super) unsafe fn write(out: *mut f32, row_stride: usize, products: &[Product<'_>]) {
    let Some(first) = products.first() else { return };
    // A few rows in bf16 are widened once.
    let lefts: Vec<_> = products.iter().map(|product| product.a.single()).collect();
    let few: Vec<_> = products.iter().zip(&lefts).map(|(product, left)| few_rows(product, left)).collect();
    vectorized(
        #[inline(always)]
        || {
            let mut decoded = Vec::new();
            for col in 0..first.b.cols {
                let mut sums = [0.0; ROWS];
                for (i, (product, left)) in products.iter().zip(&lefts).enumerate() {
                    let (a, b) = (product.a, product.b);
                    let at = col * b.col_stride;
                    if let (Values::Packed(view, start), Some(rows)) = (b.values, &few[i]) {
                        let mut dots = [0.0; ROWS];
                        view.dots(rows, start + at, &mut dots[..a.rows]);
                        sums.iter_mut().zip(dots).for_each(|(sum, dot)| *sum += product.alpha * dot);
                        continue;
                    }
                    if let Values::Packed(view, start) = b.values {
                        decoded.resize(a.cols, 0.0);
                        view.decode(start + at, &mut decoded);
                    }
                    for (row, total) in sums[..a.rows].iter_mut().enumerate() {
                        let left = &left[row * a.row_stride..][..a.cols];
                        let dot = match b.values {
                            Values::Single(right) => dot(left, &right[at..][..a.cols], as_it_is),
                            Values::Half(right) => dot(left, &right[at..][..a.cols], widen),
                            Values::Packed(..) => dot(left, &decoded, as_it_is),
                        };
                        *total += product.alpha * dot;
                    }
                }
                for (row, total) in sums[..first.a.rows].iter().enumerate() {
                    // SAFETY: the row and the column lie in the target.
                    unsafe {
                        let out = out.add(row * row_stride + col);
                        *out = if first.add { *out + total } else { *total };
                    }
                }
            }
        },
    );
}

/// The left rows of a product with codes that are multiplied as they are read, if there is a way to.
fn few_rows<'a>(product: &Product<'_>, left: &'a [f32]) -> Option<FewRows<'a>> {
    let (a, b) = (product.a, product.b);
    let Values::Packed(view, start) = b.values else { return None };
    let rows = (0..a.rows).map(|row| &left[row * a.row_stride..][..a.cols]).collect();
    // bf16 is multiplied as it is where both factors are. Codes are read from positions that all are multiples of what these
    // are.
    if a.is_half() == b.is_half() && start.is_multiple_of(128) { view.few_rows(rows, b.col_stride) } else { None }
}

#[inline(always)]
fn as_it_is(value: f32) -> f32 {
    value
}

/// The sum of products of a row and a column, in four vectors of lanes.
#[inline(always)]
fn dot<T: Copy>(a: &[f32], b: &[T], single: impl Fn(T) -> f32) -> f32 {
    const LANES: usize = 8;
    const VECTORS: usize = 4;
    let mut sums = [[0.0; LANES]; VECTORS];
    let (a_whole, a_rest) = a.as_chunks::<{ LANES * VECTORS }>();
    let (b_whole, b_rest) = b.as_chunks::<{ LANES * VECTORS }>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
        for ((lanes, a), b) in sums.iter_mut().zip(a).zip(b) {
            let products: [f32; LANES] = std::array::from_fn(|i| a[i] * single(b[i]));
            *lanes = std::array::from_fn(|i| lanes[i] + products[i]);
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[i / LANES][i % LANES] += a * single(*b);
    }
    let [w, x, y, z] = sums;
    (0..LANES).map(|i| (w[i] + x[i]) + (y[i] + z[i])).sum()
}
