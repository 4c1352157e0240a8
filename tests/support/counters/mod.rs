//! Counts of what a training step asks of a GPU: launches, bytes and reads. They hold on any device, whatever its speed.
//!
//! Figures of a layer are the difference of two depths of one model, over the difference of their layers.

mod figures;
mod launches;
mod method;
mod reads;
mod step;
mod traffic;

pub use figures::{Figures, header, row};
pub use launches::Launches;
pub use method::{Method, adapter};
pub use reads::Reads;
pub use step::{Case, count, small_config};
