//! Random orders and choices of rows, the same for a seed in every release.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The share `share` of `count` rows that is set apart for evaluation, and the rest: chosen at random by `seed`, each in the
/// order of the rows, at least one of them in both.
pub(super) fn split(count: usize, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, &mut ChaCha8Rng::seed_from_u64(seed));
    let apart = ((count as f64 * share).ceil() as usize).clamp(1, count.saturating_sub(1).max(1));
    let mut rest = order.split_off(apart.min(count));
    order.sort_unstable();
    rest.sort_unstable();
    (order, rest)
}

/// How often each of `count` rows comes in an epoch, where each is to come `weight` times: the whole part of it, and once more
/// for as many rows, chosen at random by `seed`, as the rest makes.
pub(super) fn weighted(count: usize, weight: f64, seed: u64) -> Vec<usize> {
    let once_more = (count as f64 * weight.fract()).round() as usize;
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, &mut ChaCha8Rng::seed_from_u64(seed));
    let mut indices: Vec<usize> = (0..weight.trunc() as usize).flat_map(|_| 0..count).collect();
    let mut extra = order[..once_more.min(count)].to_vec();
    extra.sort_unstable();
    indices.append(&mut extra);
    indices
}

/// Fisher and Yates' shuffle, spelled out: a run resumed under a later `rand` must see the same rows.
pub(super) fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        let below = last as u128 + 1;
        items.swap(last, ((u128::from(rng.next_u64()) * below) >> 64) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_set_apart_and_weights_repeat_rows() {
        let (apart, rest) = split(10, 0.25, 1);
        assert_eq!((apart.len(), rest.len()), (3, 7));
        assert_eq!(split(10, 0.25, 1), (apart.clone(), rest.clone()));
        let mut all = [apart.clone(), rest].concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_ne!(split(10, 0.25, 2).0, apart);
        assert_eq!((split(2, 0.9, 1).0.len(), split(1, 0.5, 1).1.len()), (1, 0));
        assert_eq!(weighted(3, 2.0, 1), [0, 1, 2, 0, 1, 2]);
        assert_eq!((weighted(4, 0.5, 1).len(), weighted(4, 1.25, 1).len()), (2, 5));
    }
}
