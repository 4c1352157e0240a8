//! A method: the behaviour of its configuration ([`MethodConfig`]), of its adapter on one layer
//! ([`MethodLayer`]), and how the one makes the other ([`PeftMethod`]).
//!
//! A method implements these three in its folder and is named once in the list in [`crate::methods`]; the rest of the
//! crate, and whoever uses it, asks no further which method it is.

mod config;
pub(crate) mod families;
mod layer;
mod method;
mod tensors;

pub use config::{Change, MethodConfig, ToObject};
pub use layer::{MethodLayer, Scale, SharedInput, Update};
pub use method::{Either, PeftMethod, Place, Preset};
pub(crate) use tensors::tensor_problems;
