//! Keys and values of tokens that were seen before.

use burn::tensor::{Int, Tensor};

/// Columns that room is made for at a time.
const BLOCK: usize = 128;

/// Keys and values of one layer, with room for more columns.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    /// `[batch, kv_heads, columns and room, head_dim]` each.
    held: Option<[Tensor<4>; 2]>,
    /// How many columns were added.
    columns: usize,
    /// The column that what is held begins with.
    begins: usize,
    /// How many of the first columns were let go.
    gone: usize,
}

impl LayerCache {
    /// Adds columns (`[batch, kv_heads, new, head_dim]` each) and returns all that there are now, from the column `first` on:
    /// those before are let go. What is held already is not copied, unless the room is used up.
    pub(crate) fn append(&mut self, k: Tensor<4>, v: Tensor<4>, first: usize) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, width] = k.dims();
        let (first, old) = (first.max(self.gone).min(self.columns), self.columns);
        // Where the columns that stay lie in what is held.
        let (kept, start) = (old - first, first - self.begins);
        let room = self.held.as_ref().map_or(0, |[k, _]| k.dims()[2]);
        // Room that is mostly let go is given back, once there is enough of it.
        let wasteful = start > kept + new + BLOCK;
        let held = match self.held.take() {
            Some(held) if start + kept + new <= room && !wasteful => held,
            held => {
                let needed = kept + new;
                // Half as much again: every column is copied a few times at most, however long the text. What lets columns
                // go needs no more than a block.
                let spare = if first > 0 { BLOCK } else { room + room / 2 };
                let room = needed.max(spare).max(if first > 0 { needed + BLOCK } else { 0 }).next_multiple_of(BLOCK);
                let empty = [&k, &v].map(|t| Tensor::zeros([batch, heads, room, width], (&t.device(), t.dtype())));
                self.begins = first;
                match held {
                    None => empty,
                    Some(held) => put(empty, 0, held.map(|t| t.narrow(2, start, kept))),
                }
            }
        };
        let start = first - self.begins;
        let held = put(held, start + kept, [k, v]);
        let [k, v] = held.clone().map(|t| t.narrow(2, start, kept + new));
        (self.held, self.columns, self.gone) = (Some(held), old + new, first);
        (k, v)
    }
}

/// Writes the columns of `new` into `held`, from the column `at` on; in place where nothing else holds that memory.
fn put(held: [Tensor<4>; 2], at: usize, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
    let [k, v] = held;
    let [new_k, new_v] = new;
    let write = |held: Tensor<4>, new: Tensor<4>| {
        let [batch, heads, columns, width] = new.dims();
        held.slice_assign([0..batch, 0..heads, at..at + columns, 0..width], new)
    };
    [write(k, new_k), write(v, new_v)]
}

/// The key-value cache of a model: a forward pass computes its own tokens only and sees the earlier ones here. A windowed
/// layer holds no more than its window.
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    /// The position of every column, a row for the whole batch or one each.
    positions: Vec<Vec<usize>>,
    /// The tokens, `[batch, columns]`, where they may be needed again.
    ids: Option<Tensor<2, Int>>,
    /// The first column that a windowed layer still needs.
    first: usize,
}

impl KvCache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers], positions: Vec::new(), ids: None, first: 0 }
    }

    /// Tokens held for each row.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.columns)
    }

    /// Whether nothing was cached yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the positions of new columns.
    pub(super) fn extend(&mut self, new: &[Vec<usize>], window: Option<usize>) {
        let old = self.positions.first().map_or(0, Vec::len);
        if self.positions.is_empty() {
            self.positions = new.to_vec();
        } else {
            let rows = self.positions.len().max(new.len());
            let row = |all: &[Vec<usize>], i: usize| all[if all.len() == 1 { 0 } else { i }].clone();
            let joined = (0..rows).map(|i| [row(&self.positions, i), row(new, i)].concat());
            self.positions = joined.collect();
        }
        if let Some(window) = window {
            // Of every row, the first column that its first new query sees.
            let first = |row: &Vec<usize>| {
                let at = row.get(old).copied().unwrap_or(0);
                row[..old].iter().position(|position| position + window > at).unwrap_or(old)
            };
            self.first = self.first.max(self.positions.iter().map(first).min().unwrap_or(0));
        }
    }

    /// The positions of all columns, a row for the whole batch or one each.
    pub(super) fn positions(&self) -> &[Vec<usize>] {
        &self.positions
    }

    /// The first column that a windowed layer still needs.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Keeps new tokens (`[batch, new]`), and returns all that there are.
    pub(super) fn keep_ids(&mut self, new: Tensor<2, Int>) -> Tensor<2, Int> {
        let all = match self.ids.take() {
            Some(old) => Tensor::cat(vec![old, new], 1),
            None => new,
        };
        self.ids = Some(all.clone());
        all
    }

    /// Forgets keys and values, to run all tokens again.
    pub(super) fn restart(&mut self) {
        self.layers.iter_mut().for_each(|layer| *layer = LayerCache::default());
        self.first = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn columns_come_back_as_they_were_added_and_room_grows_in_blocks() {
        let numbers = |seed: usize, columns: usize| {
            let values = (0..2 * 3 * columns * 4).map(|i| ((i + seed) % 17) as f32).collect::<Vec<_>>();
            Tensor::<4>::from_data(TensorData::new(values, [2, 3, columns, 4]), &Device::flex())
        };
        let mut cache = LayerCache::default();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut rooms = Vec::new();
        for (step, columns) in [5].into_iter().chain([1; 130]).chain([300]).enumerate() {
            let (k, v) = (numbers(step, columns), numbers(step + 5, columns));
            keys.push(k.clone());
            values.push(v.clone());
            let earlier = cache.clone();
            let (found_k, found_v) = cache.append(k, v, 0);
            assert_eq!(found_k.into_data(), Tensor::cat(keys.clone(), 2).into_data());
            assert_eq!(found_v.into_data(), Tensor::cat(values.clone(), 2).into_data());
            // A clone is a cache of its own.
            assert_eq!(earlier.columns + columns, cache.columns);
            rooms.push(cache.held.as_ref().unwrap()[0].dims()[2]);
        }
        rooms.dedup();
        assert_eq!(rooms, [128, 256, 512]);
    }

    #[test]
    fn columns_that_are_let_go_take_no_room() {
        let numbers = |from: usize, columns: usize| {
            let values = (from..from + columns).flat_map(|column| [column as f32; 2]).collect::<Vec<_>>();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, columns, 2]), &Device::flex())
        };
        let mut cache = LayerCache::default();
        let (mut columns, mut largest) = (0, 0);
        for (step, new) in [300].into_iter().chain([1; 700]).chain([5; 20]).enumerate() {
            let first = columns.max(40) - 40;
            let (k, _) = cache.append(numbers(columns, new), numbers(columns, new), first);
            columns += new;
            assert_eq!(k.into_data(), numbers(first, columns - first).into_data(), "step {step}");
            if step > 0 {
                largest = largest.max(cache.held.as_ref().unwrap()[0].dims()[2]);
            }
        }
        assert!(largest <= 256, "{largest}");
    }

    #[test]
    fn what_a_window_needs_is_what_the_row_that_is_behind_needs() {
        let mut cache = KvCache::new(1);
        cache.extend(&[(0..10).collect()], Some(4));
        assert_eq!(cache.first(), 0);
        // The second row's text ends after three tokens; seven columns of padding follow.
        cache.extend(&[vec![10], vec![3]], Some(4));
        assert_eq!(cache.first(), 0);
        for step in 1..8 {
            cache.extend(&[vec![10 + step], vec![3 + step]], Some(4));
        }
        // At position 10 the second row sees positions 7 to 10: columns 14 to 17, and padding before.
        assert_eq!(cache.first(), 7);
        assert_eq!(cache.positions()[1][14..], [7, 8, 9, 10]);
    }
}
