//! Tiles of queries and keys in shared memory, and their products. A unit has every [`SIDE`]th row and column of a tile.

use cubecl::prelude::*;

/// Queries and keys of a tile.
pub(super) const TILE: usize = 32;
/// Units along each side of a tile.
pub(super) const SIDE: usize = 8;
/// Rows, and columns, that a unit has of a tile.
pub(super) const EACH: usize = TILE / SIDE;
/// From one row of a tile to the next: odd, so that a column lies in as many banks.
const STRIDE: usize = TILE + 1;
/// Numbers of a tile.
pub(super) const PLACES: usize = TILE * STRIDE;
/// Bytes that a cube shares.
pub(super) const SHARED: usize = (3 * PLACES + TILE * SIDE) * size_of::<f32>();

/// Sizes of an attention.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub seq: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub window: usize,
    pub scale: f32,
    pub cap: f32,
}

/// The sizes and switches that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Look {
    pub head_dim: usize,
    /// Numbers of a head that a tile holds at a time.
    pub chunk: usize,
    pub chunks: usize,
    pub packed: bool,
    pub windowed: bool,
    pub capped: bool,
}

impl Look {
    /// Columns of a chunk that a unit has.
    pub(super) fn columns(&self) -> usize {
        self.chunk / SIDE
    }

    /// Numbers of a unit's rows of a tile, of a whole head.
    pub(super) fn sums(&self) -> usize {
        EACH * self.columns() * self.chunks
    }
}

/// The smaller one.
#[cube]
pub(super) fn least(a: usize, b: usize) -> usize {
    select(a < b, a, b)
}

/// The first column that the query at `column` of row `row` sees.
#[allow(clippy::collapsible_if, reason = "the outer condition is known when the kernel is made")]
#[cube]
pub(super) fn first_seen(
    starts: &Tensor<i32>,
    row: usize,
    column: usize,
    sizes: &Sizes,
    #[comptime] look: Look,
) -> usize {
    let mut first = 0usize.runtime();
    if comptime!(look.packed) {
        let at = select(column < sizes.seq, column, sizes.seq - 1);
        first = usize::cast_from(starts[row * sizes.seq + at]);
    }
    if comptime!(look.windowed) {
        if column + 1 > sizes.window {
            first = select(first > column + 1 - sizes.window, first, column + 1 - sizes.window);
        }
    }
    first
}

/// Numbers `part·chunk..` of a head, of the positions from `first` on: `x[base + position·width + number]`. Zero where there
/// is none.
#[cube]
pub(super) fn load<F: Float>(
    tile: &mut Shared<[f32]>,
    x: &Tensor<F>,
    base: usize,
    width: usize,
    first: usize,
    seq: usize,
    #[comptime] part: usize,
    #[comptime] look: Look,
) {
    let chunk = comptime!(look.chunk);
    let unit = UNIT_POS as usize;
    for round in 0..comptime!(TILE * look.chunk / (SIDE * SIDE)) {
        let at = round * comptime!(SIDE * SIDE) + unit;
        let (place, number) = (at / chunk, at % chunk);
        let mut value = f32::new(0.0);
        if first + place < seq && comptime!(part * look.chunk) + number < comptime!(look.head_dim) {
            value = f32::cast_from(x[base + (first + place) * width + comptime!(part * look.chunk) + number]);
        }
        tile[place * STRIDE + number] = value;
    }
}

/// Adds to `sums`, from place `base` on, the product of two tiles over `depth` numbers: the unit's rows by its `columns`
/// columns. The left one is `[row, number]` or, turned, `[number, row]`; the right one `[column, number]`, or turned.
#[cube]
pub(super) fn multiply(
    sums: &mut Array<f32>,
    #[comptime] base: usize,
    left: &Shared<[f32]>,
    right: &Shared<[f32]>,
    #[comptime] depth: usize,
    #[comptime] columns: usize,
    #[comptime] turned: [bool; 2],
) {
    let (row, column) = (UNIT_POS_Y as usize, UNIT_POS_X as usize);
    for number in 0..depth {
        let mut rights = Array::<f32>::new(columns);
        #[unroll]
        for j in 0..columns {
            let at = column + comptime!(j * SIDE);
            if comptime!(turned[1]) {
                rights[j] = right[number * STRIDE + at];
            } else {
                rights[j] = right[at * STRIDE + number];
            }
        }
        #[unroll]
        for i in 0..comptime!(EACH) {
            let at = row + comptime!(i * SIDE);
            let value = if comptime!(turned[0]) { left[number * STRIDE + at] } else { left[at * STRIDE + number] };
            #[unroll]
            for j in 0..columns {
                sums[comptime!(base + i * columns + j)] += value * rights[j];
            }
        }
    }
}

/// The numbers of a unit as part of a tile `[row, column]`.
#[cube]
pub(super) fn store(tile: &mut Shared<[f32]>, values: &Array<f32>) {
    let (row, column) = (UNIT_POS_Y as usize, UNIT_POS_X as usize);
    #[unroll]
    for i in 0..comptime!(EACH) {
        #[unroll]
        for j in 0..comptime!(EACH) {
            tile[(row + comptime!(i * SIDE)) * STRIDE + column + comptime!(j * SIDE)] = values[comptime!(i * EACH + j)];
        }
    }
}

/// Writes a unit's numbers of whole heads, row i times `factors[i]`, as [`load`] reads them.
#[cube]
pub(super) fn write<F: Float>(
    out: &mut Tensor<F>,
    sums: &Array<f32>,
    factors: &Array<f32>,
    base: usize,
    width: usize,
    first: usize,
    seq: usize,
    #[comptime] look: Look,
) {
    let (row, column) = (UNIT_POS_Y as usize, UNIT_POS_X as usize);
    #[unroll]
    for i in 0..comptime!(EACH) {
        let position = first + row + comptime!(i * SIDE);
        #[unroll]
        for part in 0..comptime!(look.chunks) {
            #[unroll]
            for j in 0..comptime!(look.columns()) {
                let number = column + comptime!(part * look.chunk + j * SIDE);
                if position < seq && number < comptime!(look.head_dim) {
                    let value = sums[comptime!((part * EACH + i) * look.columns() + j)] * factors[i];
                    out[base + position * width + number] = F::cast_from(value);
                }
            }
        }
    }
}
