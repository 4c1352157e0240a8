//! The scales of blocks, plain or quantised too.

use super::layout::NESTED_BLOCK;
use super::nested::MAP;

/// The scales of a matrix's blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockScales<'a> {
    /// One for each block; or one for 256 of them, and their offset.
    pub scales: &'a [f32],
    /// The codes of nested scales.
    pub nested: Option<&'a [u8]>,
}

impl BlockScales<'_> {
    /// The scale of a block.
    #[inline(always)]
    pub fn of(&self, block: usize) -> f32 {
        match (self.nested, self.scales) {
            (None, scales) => scales[block],
            (Some(codes), [outer @ .., offset]) => {
                MAP[usize::from(codes[block])] * outer[block / NESTED_BLOCK] + offset
            }
            (Some(_), []) => f32::NAN,
        }
    }
}
