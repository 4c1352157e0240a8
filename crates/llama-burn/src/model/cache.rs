//! Keys and values of tokens that were seen before.

use burn::tensor::Tensor;

/// Columns that room is made for at a time.
const BLOCK: usize = 128;

/// Keys and values of one layer, with room for more columns.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    /// `[batch, kv_heads, columns and room, head_dim]` each.
    held: Option<[Tensor<4>; 2]>,
    columns: usize,
}

impl LayerCache {
    /// Adds columns (`[batch, kv_heads, new, head_dim]` each) and returns all that there are now. What is held already is
    /// not copied, unless the room is used up.
    pub(crate) fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, width] = k.dims();
        let (old, columns) = (self.columns, self.columns + new);
        let room = self.held.as_ref().map_or(0, |[k, _]| k.dims()[2]);
        let held = match self.held.take() {
            Some(held) if columns <= room => held,
            held => {
                // Half as much again: every column is copied a few times at most, however long the text.
                let room = columns.max(room + room / 2).next_multiple_of(BLOCK);
                let empty = [&k, &v].map(|t| Tensor::zeros([batch, heads, room, width], (&t.device(), t.dtype())));
                match held {
                    None => empty,
                    Some(held) => put(empty, 0, held.map(|t| t.narrow(2, 0, old))),
                }
            }
        };
        let held = put(held, old, [k, v]);
        let [k, v] = held.clone().map(|t| t.narrow(2, 0, columns));
        (self.held, self.columns) = (Some(held), columns);
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

/// The key-value cache of a model: a forward pass computes its own tokens only and sees the earlier ones here.
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
}

impl KvCache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers] }
    }

    /// Tokens held for each row.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.columns)
    }

    /// Whether nothing was cached yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
            let (found_k, found_v) = cache.append(k, v);
            assert_eq!(found_k.into_data(), Tensor::cat(keys.clone(), 2).into_data());
            assert_eq!(found_v.into_data(), Tensor::cat(values.clone(), 2).into_data());
            // A clone is a cache of its own.
            assert_eq!(earlier.columns + columns, cache.columns);
            rooms.push(cache.held.as_ref().unwrap()[0].dims()[2]);
        }
        rooms.dedup();
        assert_eq!(rooms, [128, 256, 512]);
    }
}
