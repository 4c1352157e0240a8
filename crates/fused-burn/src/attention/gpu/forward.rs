//! Forward: a cube for each tile of queries of a head.

use cubecl::prelude::*;

use super::tile::{EACH, Look, PLACES, SIDE, Sizes, TILE, first_seen, least, load, multiply, store, write};

/// Below every score.
const LOWEST: f32 = -1.0e30;

#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn attention_kernel<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    v: &Tensor<F>,
    starts: &Tensor<i32>,
    out: &mut Tensor<F>,
    logs: &mut Tensor<f32>,
    sizes: &Sizes,
    #[comptime] look: Look,
    #[define(F)] _dtype: ElemType,
) {
    let (batch, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    // The last tiles have the most to do.
    let first = ((sizes.seq - 1) / TILE - CUBE_POS_X as usize) * TILE;
    let (row, column) = (UNIT_POS_Y as usize, UNIT_POS_X as usize);
    let seq = sizes.seq;
    let width = sizes.heads * comptime!(look.head_dim);
    let kv_width = sizes.kv_heads * comptime!(look.head_dim);
    let q_base = batch * seq * width + head * comptime!(look.head_dim);
    let kv_base = batch * seq * kv_width + head / (sizes.heads / sizes.kv_heads) * comptime!(look.head_dim);

    let mut left = Shared::<[f32]>::new_slice(PLACES);
    let mut right = Shared::<[f32]>::new_slice(PLACES);
    let mut weights = Shared::<[f32]>::new_slice(PLACES);
    let mut parts = Shared::<[f32]>::new_slice(comptime!(TILE * SIDE));

    let mut sums = Array::<f32>::new(comptime!(look.sums()));
    let mut largest = Array::<f32>::new(EACH);
    let mut totals = Array::<f32>::new(EACH);
    #[unroll]
    for i in 0..comptime!(look.sums()) {
        sums[i] = 0.0f32;
    }
    #[unroll]
    for i in 0..comptime!(EACH) {
        largest[i] = f32::new(LOWEST);
        totals[i] = 0.0f32;
    }

    let end = least(first + TILE, seq);
    let mut key = first_seen(starts, batch, first, sizes, look) / TILE * TILE;
    while key < end {
        let mut scores = Array::<f32>::new(comptime!(EACH * EACH));
        #[unroll]
        for i in 0..comptime!(EACH * EACH) {
            scores[i] = 0.0f32;
        }
        #[unroll]
        for part in 0..comptime!(look.chunks) {
            sync_cube();
            load::<F>(&mut left, q, q_base, width, first, seq, part, look);
            load::<F>(&mut right, k, kv_base, kv_width, key, seq, part, look);
            sync_cube();
            multiply(&mut scores, 0usize, &left, &right, comptime!(look.chunk), EACH, comptime!([false, false]));
        }
        #[unroll]
        for i in 0..comptime!(EACH) {
            let query = first + row + comptime!(i * SIDE);
            let seen = first_seen(starts, batch, query, sizes, look);
            let mut top = f32::new(LOWEST);
            #[unroll]
            for j in 0..comptime!(EACH) {
                let at = key + column + comptime!(j * SIDE);
                let mut score = scores[comptime!(i * EACH + j)] * sizes.scale;
                if comptime!(look.capped) {
                    score = (score / sizes.cap).tanh() * sizes.cap;
                }
                let visible = at <= query && at >= seen && query < seq;
                score = select(visible, score, f32::new(LOWEST));
                scores[comptime!(i * EACH + j)] = score;
                top = top.max(score);
            }
            parts[(row + comptime!(i * SIDE)) * SIDE + column] = top;
        }
        sync_cube();
        #[unroll]
        for i in 0..comptime!(EACH) {
            let mut top = largest[i];
            #[unroll]
            for j in 0..comptime!(SIDE) {
                top = top.max(parts[(row + comptime!(i * SIDE)) * SIDE + j]);
            }
            let shrink = (largest[i] - top).exp();
            largest[i] = top;
            let mut total = totals[i] * shrink;
            #[unroll]
            for j in 0..comptime!(EACH) {
                let score = scores[comptime!(i * EACH + j)];
                let weight = select(score > f32::new(LOWEST), (score - top).exp(), f32::new(0.0));
                scores[comptime!(i * EACH + j)] = weight;
                total += weight;
            }
            totals[i] = total;
            #[unroll]
            for part in 0..comptime!(look.chunks) {
                #[unroll]
                for j in 0..comptime!(look.columns()) {
                    let at = comptime!((part * EACH + i) * look.columns() + j);
                    sums[at] *= shrink;
                }
            }
        }
        store(&mut weights, &scores);
        #[unroll]
        for part in 0..comptime!(look.chunks) {
            sync_cube();
            load::<F>(&mut right, v, kv_base, kv_width, key, seq, part, look);
            sync_cube();
            let base = comptime!(part * EACH * look.columns());
            multiply(&mut sums, base, &weights, &right, TILE, comptime!(look.columns()), comptime!([false, true]));
        }
        key += TILE;
    }

    sync_cube();
    #[unroll]
    for i in 0..comptime!(EACH) {
        parts[(row + comptime!(i * SIDE)) * SIDE + column] = totals[i];
    }
    sync_cube();
    #[unroll]
    for i in 0..comptime!(EACH) {
        let mut total = f32::new(0.0);
        #[unroll]
        for j in 0..comptime!(SIDE) {
            total += parts[(row + comptime!(i * SIDE)) * SIDE + j];
        }
        totals[i] = 1.0f32 / total;
        let query = first + row + comptime!(i * SIDE);
        if column == 0 && query < seq {
            logs[(batch * seq + query) * sizes.heads + head] = largest[i] + total.ln();
        }
    }
    write::<F>(out, &sums, &totals, q_base, width, first, seq, look);
}
