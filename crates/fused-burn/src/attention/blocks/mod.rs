//! On slices: a block of queries of one row against a tile of keys at a time, as FlashAttention does (Dao 2023,
//! arXiv:2307.08691), so that scores never leave the processor's caches. Forward keeps the logarithm of each query's sum of
//! exponentials, from which backward works out the weights of any tile alone.

mod backward;
mod block;
mod forward;

pub(super) use backward::{Forward, backward};
pub(super) use forward::forward;
