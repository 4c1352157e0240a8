//! The rows of an epoch: their order, and what is packed together.

use std::cmp::Reverse;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::config::StreamConfig;
use crate::data::order::shuffle;
use crate::data::packing;

/// The rows of an epoch in their order.
#[derive(Debug)]
pub(super) enum Epoch {
    /// One example each.
    Single(Vec<usize>),
    /// Several.
    Packed(Vec<Vec<usize>>),
}

impl Epoch {
    pub fn rows(&self) -> usize {
        match self {
            Self::Single(order) => order.len(),
            Self::Packed(rows) => rows.len(),
        }
    }

    /// The examples in a row.
    pub fn row(&self, row: usize) -> &[usize] {
        match self {
            Self::Single(order) => &order[row..row + 1],
            Self::Packed(rows) => &rows[row],
        }
    }
}

/// The rows of epoch `number` of `count` examples. There are equally many in each.
pub(super) fn plan(count: usize, lengths: &[usize], config: &StreamConfig, number: u64) -> Epoch {
    let mut order: Vec<usize> = (0..count).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    rng.set_stream(number);
    if config.shuffle {
        shuffle(&mut order, &mut rng);
    }
    if config.packing && config.shuffle {
        let mut rows = packing::best_fit(lengths, &order, config.max_length);
        shuffle(&mut rows, &mut rng);
        return Epoch::Packed(rows);
    }
    if config.packing {
        return Epoch::Packed(packing::in_order(lengths, &order, config.max_length));
    }
    if config.group_by_length {
        group_by_length(&mut order, lengths, config.batch_size * config.accumulation);
    }
    Epoch::Single(order)
}

/// Transformers' length groups: stretches of up to 50 steps, each sorted by falling length, the longest example of all
/// first, so that what does not fit into memory shows at once.
fn group_by_length(order: &mut [usize], lengths: &[usize], rows_per_step: usize) {
    let stretch = (order.len() / (rows_per_step * 4)).clamp(1, 50) * rows_per_step;
    for stretch in order.chunks_mut(stretch) {
        stretch.sort_by_key(|&example| Reverse(lengths[example]));
    }
    let starts = (0..order.len()).step_by(stretch);
    if let Some(longest) = starts.min_by_key(|&at| Reverse(lengths[order[at]])) {
        order.swap(0, longest);
    }
}
