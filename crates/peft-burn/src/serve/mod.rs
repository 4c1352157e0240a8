//! Serving: many adapters on one model that knows of none of them.
//!
//! The model stays as it is. What an adapter does is worked out once, into an [`AdapterPack`] that never changes, and a forward
//! pass is told by a [`Plan`] which of its rows belong to which pack. [`PeftLinear::serve_together`](crate::PeftLinear::serve_together)
//! makes each product with a base weight once for all rows, and then what each adapter does to its own.

mod embedding;
mod host;
mod linear;
mod pack;
mod pairs;
mod plan;

#[cfg(test)]
mod tests;

pub(crate) use host::host;
pub use pack::{AdapterPack, Served};
pub use pairs::Pairs;
pub use plan::{Plan, PlanGroup};
