//! AdaLoRA on a whole model in training: scores, a budget of triplets, masks, and the regulariser.
//!
//! One layer's part is in [`crate::methods`]. A training step takes the orthogonality term into its loss
//! ([`orthogonal_regularization`]), keeps the gradients ([`keep_gradients`]), and after the optimiser's step scores the
//! triplets and masks the least ([`update_and_allocate`]).

mod allocator;
mod budget;
mod layers;
mod orthogonality;
mod rank_pattern;
mod shrink;

pub use allocator::{
    Allocation, RankMask, keep_gradients, kept_triplets, live_triplets, update_and_agree, update_and_allocate,
};
pub use budget::{BudgetSchedule, last_mask, set_total_step};
pub use orthogonality::orthogonal_regularization;
pub(crate) use rank_pattern::cut_to_live;
pub use rank_pattern::{KeptRank, kept_ranks, rank_pattern};
pub use shrink::{held_triplets, shrink, shrink_to};
