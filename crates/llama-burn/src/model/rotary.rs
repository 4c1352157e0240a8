//! Rotary position embedding in Hugging Face's half-split layout.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use fused_burn::partial_rope;

use crate::config::{LayerRope, LlamaConfig, RopeConfig, Stretch};

/// Positions up to which tables are kept. A later one is worked out where it is asked for.
const KEPT: usize = 1 << 18;
/// Positions that a table is made for at least.
const LEAST: usize = 256;

/// The cosines and sines of a batch's positions.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    /// `[seq or batch·seq, turning / 2]`.
    cos: Tensor<2>,
    /// `[seq or batch·seq, turning / 2]`.
    sin: Tensor<2>,
    /// Width of a head.
    head_dim: usize,
}

impl Rotation {
    /// Turns the heads of `x` (`[batch·seq, heads·head_dim]`).
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        let like_x = |t: &Tensor<2>| if dtype == t.dtype() { t.clone() } else { t.clone().cast(dtype) };
        partial_rope(x, like_x(&self.cos), like_x(&self.sin), self.head_dim)
    }
}

/// The rotary embeddings of a model, and their tables: each is made once for a device and a dtype, and grows with the texts.
#[derive(Clone)]
pub(crate) struct Rotations {
    ropes: Vec<RopeConfig>,
    head_dim: usize,
    turning: usize,
    context: usize,
    tables: Arc<Mutex<Vec<Table>>>,
}

struct Table {
    rope: usize,
    stretch: Stretch,
    device: Device,
    dtype: DType,
    rows: usize,
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl fmt::Debug for Rotations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotations").field("ropes", &self.ropes).finish_non_exhaustive()
    }
}

impl Rotations {
    pub fn new(config: &LlamaConfig) -> Self {
        let ropes = std::iter::once(config.rope.clone()).chain(config.decoder.local_rope.clone()).collect();
        let (head_dim, turning) = (config.head_dim, config.decoder.rotary_dim);
        Self { ropes, head_dim, turning, context: config.max_position_embeddings, tables: Arc::default() }
    }

    /// Which of [`Self::of`] a layer's is.
    pub fn index(rope: LayerRope) -> Option<usize> {
        match rope {
            LayerRope::None => None,
            LayerRope::Main => Some(0),
            LayerRope::Local => Some(1),
        }
    }

    /// Whether texts of so many tokens have the same frequencies.
    pub fn agree(&self, lengths: [usize; 2]) -> bool {
        self.ropes.iter().all(|rope| {
            let [a, b] = lengths.map(|length| rope.stretch(self.context, length));
            a == b
        })
    }

    /// Whether frequencies change, at some length, for all tokens of a text.
    pub fn depends_on_length(&self) -> bool {
        self.ropes.iter().any(|rope| matches!(rope.scaling, crate::config::RopeScaling::LongRope { .. }))
    }

    /// Every rotary embedding, for rows of `positions`: one row for the whole batch or one each, all of the same length. A
    /// text is as long as its last position says.
    pub fn of(&self, positions: &[Vec<usize>], device: &Device, dtype: DType) -> Vec<Rotation> {
        let end = positions.iter().flatten().max().map_or(0, |last| last + 1);
        (0..self.ropes.len()).map(|rope| self.one(rope, positions, end, device, dtype)).collect()
    }

    fn one(&self, rope: usize, positions: &[Vec<usize>], end: usize, device: &Device, dtype: DType) -> Rotation {
        let stretch = self.ropes[rope].stretch(self.context, end);
        let head_dim = self.head_dim;
        if end > KEPT || matches!(stretch, Stretch::Exact(_)) {
            let rows: Vec<usize> = positions.iter().flatten().copied().collect();
            let [cos, sin] = self.compute(rope, stretch, &rows, device, dtype);
            return Rotation { cos, sin, head_dim };
        }
        let [cos, sin] = self.table(rope, stretch, end, device, dtype);
        let in_order = |row: &Vec<usize>| row.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let rows = match positions {
            [row] if in_order(row) => {
                let start = row.first().copied().unwrap_or(0);
                [cos, sin].map(|table| table.narrow(0, start, row.len()))
            }
            _ => {
                let rows: Vec<i32> = positions.iter().flatten().map(|&p| p as i32).collect();
                let len = rows.len();
                let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [len]), device);
                [cos.select(0, rows.clone()), sin.select(0, rows)]
            }
        };
        let [cos, sin] = rows;
        Rotation { cos, sin, head_dim }
    }

    /// A table of positions 0 to `end` at least.
    fn table(&self, rope: usize, stretch: Stretch, end: usize, device: &Device, dtype: DType) -> [Tensor<2>; 2] {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // Burn takes a device under autodiff for equal to the one outside of it; their tensors do not mix.
        let same_device = |other: &Device| other == device && other.is_autodiff() == device.is_autodiff();
        let same = |t: &Table| t.rope == rope && t.stretch == stretch && t.dtype == dtype && same_device(&t.device);
        if let Some(found) = tables.iter().find(|table| same(table) && table.rows >= end) {
            return [found.cos.clone(), found.sin.clone()];
        }
        tables.retain(|table| !same(table));
        let rows = end.next_power_of_two().max(LEAST);
        let [cos, sin] = self.compute(rope, stretch, &(0..rows).collect::<Vec<_>>(), device, dtype);
        let device = device.clone();
        tables.push(Table { rope, stretch, device, dtype, rows, cos: cos.clone(), sin: sin.clone() });
        [cos, sin]
    }

    fn compute(&self, rope: usize, stretch: Stretch, rows: &[usize], device: &Device, dtype: DType) -> [Tensor<2>; 2] {
        let rope = &self.ropes[rope];
        let inv_freq = rope.stretched(self.turning, self.context, stretch);
        let factor = rope.attention_factor(self.context) as f32;
        // In f32, as transformers: the angle of a late position is rounded the same way.
        let angles: Vec<f32> = rows.iter().flat_map(|&p| inv_freq.iter().map(move |&f| p as f32 * f as f32)).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&a| f(a) * factor).collect();
            Tensor::from_data(TensorData::new(values, [rows.len(), inv_freq.len()]), (device, dtype))
        };
        [table(f32::cos), table(f32::sin)]
    }
}
