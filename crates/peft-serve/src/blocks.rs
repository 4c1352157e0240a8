//! The memory for keys and values, in blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fused_burn::{Block, BlockShape};

/// Blocks that may be taken and are given back. Those that were given back are used again.
#[derive(Debug)]
pub(crate) struct BlockPool {
    shape: BlockShape,
    limit: usize,
    free: Vec<Block>,
    /// How many are taken, for others to see.
    taken: Arc<AtomicUsize>,
}

impl BlockPool {
    /// A pool of as many blocks as `bytes` hold, at least one.
    pub fn new(shape: BlockShape, bytes: usize) -> Self {
        let limit = (bytes / (4 * shape.block_len()).max(1)).max(1);
        Self { shape, limit, free: Vec::new(), taken: Arc::default() }
    }

    /// How many blocks there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many blocks are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many blocks are taken, as others see it.
    pub fn shared_count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.taken)
    }

    /// Makes `blocks` hold `tokens` tokens; `false`, and nothing changes, if there are too few left.
    pub fn grow(&mut self, blocks: &mut Vec<Block>, tokens: usize) -> bool {
        let more = self.shape.blocks_for(tokens).saturating_sub(blocks.len());
        if self.taken() + more > self.limit {
            return false;
        }
        self.taken.fetch_add(more, Ordering::Relaxed);
        blocks.extend((0..more).map(|_| self.free.pop().unwrap_or_else(|| self.shape.new_block())));
        true
    }

    /// Takes blocks back.
    pub fn give_back(&mut self, blocks: &mut Vec<Block>) {
        self.taken.fetch_sub(blocks.len(), Ordering::Relaxed);
        self.free.append(blocks);
    }

    /// Forgets blocks that were lost in a pass that failed.
    pub fn forget(&mut self, lost: usize) {
        self.taken.fetch_sub(lost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_all_come_back() {
        let shape = BlockShape { layers: 1, heads: 1, kv_heads: 1, head_dim: 2, tokens: 4 };
        let mut pool = BlockPool::new(shape, 3 * 4 * 16);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert!(pool.grow(&mut a, 5) && a.len() == 2);
        assert!(pool.grow(&mut a, 8) && a.len() == 2);
        assert!(!pool.grow(&mut b, 5) && b.is_empty());
        assert!(pool.grow(&mut b, 4) && pool.taken() == 3);
        pool.give_back(&mut a);
        pool.give_back(&mut b);
        assert_eq!((pool.taken(), pool.limit()), (0, 3));
    }
}
