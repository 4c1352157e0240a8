//! Backward: the weights are made again from the logarithms that forward kept. One kernel has a cube for each tile of queries
//! and makes their gradient; the other one for each tile of keys, and makes theirs and the values'.

use cubecl::prelude::*;

use super::tile::{EACH, Look, PLACES, SIDE, Sizes, TILE, first_seen, least, load, multiply, store, write};

/// Turns products of queries and keys into weights, and products of the output's gradient and values into the gradients of
/// the products of queries and keys.
#[cube]
fn weigh(
    scores: &mut Array<f32>,
    grads: &mut Array<f32>,
    logs: &Array<f32>,
    dots: &Array<f32>,
    starts: &Tensor<i32>,
    batch: usize,
    first: usize,
    key: usize,
    sizes: &Sizes,
    #[comptime] look: Look,
) {
    let (row, column) = (UNIT_POS_Y as usize, UNIT_POS_X as usize);
    #[unroll]
    for i in 0..comptime!(EACH) {
        let query = first + row + comptime!(i * SIDE);
        let seen = first_seen(starts, batch, query, sizes, look);
        #[unroll]
        for j in 0..comptime!(EACH) {
            let place = comptime!(i * EACH + j);
            let at = key + column + comptime!(j * SIDE);
            let mut score = scores[place] * sizes.scale;
            let mut slope = sizes.scale;
            if comptime!(look.capped) {
                let bent = (score / sizes.cap).tanh();
                score = bent * sizes.cap;
                slope *= 1.0f32 - bent * bent;
            }
            let visible = at <= query && at >= seen && query < sizes.seq;
            let weight = select(visible, (score - logs[i]).exp(), f32::new(0.0));
            scores[place] = weight;
            grads[place] = weight * (grads[place] - dots[i]) * slope;
        }
    }
}

/// The gradient of queries, and of each query and head the product of the output and its gradient, `dots`, which the other
/// kernel reads.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn attention_query_kernel<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    v: &Tensor<F>,
    grad: &Tensor<F>,
    out: &Tensor<F>,
    logs: &Tensor<f32>,
    starts: &Tensor<i32>,
    dq: &mut Tensor<F>,
    dots: &mut Tensor<f32>,
    sizes: &Sizes,
    #[comptime] look: Look,
    #[define(F)] _dtype: ElemType,
) {
    let (batch, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let first = ((sizes.seq - 1) / TILE - CUBE_POS_X as usize) * TILE;
    let (row, column) = (UNIT_POS_Y as usize, UNIT_POS_X as usize);
    let seq = sizes.seq;
    let width = sizes.heads * comptime!(look.head_dim);
    let kv_width = sizes.kv_heads * comptime!(look.head_dim);
    let q_base = batch * seq * width + head * comptime!(look.head_dim);
    let kv_base = batch * seq * kv_width + head / (sizes.heads / sizes.kv_heads) * comptime!(look.head_dim);

    let mut left = Shared::<[f32]>::new_slice(PLACES);
    let mut right = Shared::<[f32]>::new_slice(PLACES);
    let mut tile = Shared::<[f32]>::new_slice(PLACES);
    let mut parts = Shared::<[f32]>::new_slice(comptime!(TILE * SIDE));

    let mut sums = Array::<f32>::new(comptime!(look.sums()));
    #[unroll]
    for i in 0..comptime!(look.sums()) {
        sums[i] = 0.0f32;
    }
    let mut own_logs = Array::<f32>::new(EACH);
    let mut own_dots = Array::<f32>::new(EACH);
    let mut ones = Array::<f32>::new(EACH);
    #[unroll]
    for i in 0..comptime!(EACH) {
        let query = first + row + comptime!(i * SIDE);
        let mut dot = f32::new(0.0);
        own_logs[i] = 0.0f32;
        ones[i] = 1.0f32;
        if query < seq {
            own_logs[i] = logs[(batch * seq + query) * sizes.heads + head];
            let mut number = column;
            while number < comptime!(look.head_dim) {
                let at = q_base + query * width + number;
                dot += f32::cast_from(grad[at]) * f32::cast_from(out[at]);
                number += SIDE;
            }
        }
        parts[(row + comptime!(i * SIDE)) * SIDE + column] = dot;
    }
    sync_cube();
    #[unroll]
    for i in 0..comptime!(EACH) {
        let mut dot = f32::new(0.0);
        #[unroll]
        for j in 0..comptime!(SIDE) {
            dot += parts[(row + comptime!(i * SIDE)) * SIDE + j];
        }
        own_dots[i] = dot;
        let query = first + row + comptime!(i * SIDE);
        if column == 0 && query < seq {
            dots[(batch * seq + query) * sizes.heads + head] = dot;
        }
    }

    let end = least(first + TILE, seq);
    let mut key = first_seen(starts, batch, first, sizes, look) / TILE * TILE;
    while key < end {
        let mut scores = Array::<f32>::new(comptime!(EACH * EACH));
        let mut grads = Array::<f32>::new(comptime!(EACH * EACH));
        #[unroll]
        for i in 0..comptime!(EACH * EACH) {
            scores[i] = 0.0f32;
            grads[i] = 0.0f32;
        }
        #[unroll]
        for part in 0..comptime!(look.chunks) {
            sync_cube();
            load::<F>(&mut left, q, q_base, width, first, seq, part, look);
            load::<F>(&mut right, k, kv_base, kv_width, key, seq, part, look);
            sync_cube();
            multiply(&mut scores, 0usize, &left, &right, comptime!(look.chunk), EACH, comptime!([false, false]));
            sync_cube();
            load::<F>(&mut left, grad, q_base, width, first, seq, part, look);
            load::<F>(&mut right, v, kv_base, kv_width, key, seq, part, look);
            sync_cube();
            multiply(&mut grads, 0usize, &left, &right, comptime!(look.chunk), EACH, comptime!([false, false]));
        }
        weigh(&mut scores, &mut grads, &own_logs, &own_dots, starts, batch, first, key, sizes, look);
        store(&mut tile, &grads);
        #[unroll]
        for part in 0..comptime!(look.chunks) {
            sync_cube();
            load::<F>(&mut right, k, kv_base, kv_width, key, seq, part, look);
            sync_cube();
            let base = comptime!(part * EACH * look.columns());
            multiply(&mut sums, base, &tile, &right, TILE, comptime!(look.columns()), comptime!([false, true]));
        }
        key += TILE;
    }
    write::<F>(dq, &sums, &ones, q_base, width, first, seq, look);
}

/// The gradients of keys and values.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn attention_key_kernel<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    v: &Tensor<F>,
    grad: &Tensor<F>,
    logs: &Tensor<f32>,
    dots: &Tensor<f32>,
    starts: &Tensor<i32>,
    dk: &mut Tensor<F>,
    dv: &mut Tensor<F>,
    sizes: &Sizes,
    #[comptime] look: Look,
    #[define(F)] _dtype: ElemType,
) {
    let (batch, kv_head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    // The first tiles are seen by the most queries.
    let key = CUBE_POS_X as usize * TILE;
    let row = UNIT_POS_Y as usize;
    let seq = sizes.seq;
    let group = sizes.heads / sizes.kv_heads;
    let width = sizes.heads * comptime!(look.head_dim);
    let kv_width = sizes.kv_heads * comptime!(look.head_dim);
    let kv_base = batch * seq * kv_width + kv_head * comptime!(look.head_dim);

    let mut left = Shared::<[f32]>::new_slice(PLACES);
    let mut right = Shared::<[f32]>::new_slice(PLACES);
    let mut tile = Shared::<[f32]>::new_slice(PLACES);

    let mut key_sums = Array::<f32>::new(comptime!(look.sums()));
    let mut value_sums = Array::<f32>::new(comptime!(look.sums()));
    #[unroll]
    for i in 0..comptime!(look.sums()) {
        key_sums[i] = 0.0f32;
        value_sums[i] = 0.0f32;
    }
    let mut ones = Array::<f32>::new(EACH);
    #[unroll]
    for i in 0..comptime!(EACH) {
        ones[i] = 1.0f32;
    }

    let last = least(key + comptime!(TILE - 1), seq - 1);
    for member in 0..group {
        let head = kv_head * group + member;
        let q_base = batch * seq * width + head * comptime!(look.head_dim);
        let mut first = key;
        // Texts and windows begin no earlier for later queries: from the first that sees nothing of the tile on, none does.
        while first < seq && first_seen(starts, batch, first, sizes, look) <= last {
            let mut own_logs = Array::<f32>::new(EACH);
            let mut own_dots = Array::<f32>::new(EACH);
            #[unroll]
            for i in 0..comptime!(EACH) {
                let query = first + row + comptime!(i * SIDE);
                own_logs[i] = 0.0f32;
                own_dots[i] = 0.0f32;
                if query < seq {
                    own_logs[i] = logs[(batch * seq + query) * sizes.heads + head];
                    own_dots[i] = dots[(batch * seq + query) * sizes.heads + head];
                }
            }
            let mut scores = Array::<f32>::new(comptime!(EACH * EACH));
            let mut grads = Array::<f32>::new(comptime!(EACH * EACH));
            #[unroll]
            for i in 0..comptime!(EACH * EACH) {
                scores[i] = 0.0f32;
                grads[i] = 0.0f32;
            }
            #[unroll]
            for part in 0..comptime!(look.chunks) {
                sync_cube();
                load::<F>(&mut left, q, q_base, width, first, seq, part, look);
                load::<F>(&mut right, k, kv_base, kv_width, key, seq, part, look);
                sync_cube();
                multiply(&mut scores, 0usize, &left, &right, comptime!(look.chunk), EACH, comptime!([false, false]));
                sync_cube();
                load::<F>(&mut left, grad, q_base, width, first, seq, part, look);
                load::<F>(&mut right, v, kv_base, kv_width, key, seq, part, look);
                sync_cube();
                multiply(&mut grads, 0usize, &left, &right, comptime!(look.chunk), EACH, comptime!([false, false]));
            }
            weigh(&mut scores, &mut grads, &own_logs, &own_dots, starts, batch, first, key, sizes, look);
            store(&mut tile, &scores);
            #[unroll]
            for part in 0..comptime!(look.chunks) {
                sync_cube();
                load::<F>(&mut right, grad, q_base, width, first, seq, part, look);
                sync_cube();
                let base = comptime!(part * EACH * look.columns());
                let columns = comptime!(look.columns());
                multiply(&mut value_sums, base, &tile, &right, TILE, columns, comptime!([true, true]));
            }
            sync_cube();
            store(&mut tile, &grads);
            #[unroll]
            for part in 0..comptime!(look.chunks) {
                sync_cube();
                load::<F>(&mut right, q, q_base, width, first, seq, part, look);
                sync_cube();
                let base = comptime!(part * EACH * look.columns());
                let columns = comptime!(look.columns());
                multiply(&mut key_sums, base, &tile, &right, TILE, columns, comptime!([true, true]));
            }
            first += TILE;
        }
    }
    write::<F>(dk, &key_sums, &ones, kv_base, kv_width, key, seq, look);
    write::<F>(dv, &value_sums, &ones, kv_base, kv_width, key, seq, look);
}
