//! The model's operations, each with a backward that keeps as little as it can (see [`peft_burn::ops`]).

mod attention;
mod cross_entropy;
mod rms_norm;
mod rope;
mod swiglu;

pub use attention::{AttentionOps, AttentionShape, causal_attention};
pub use cross_entropy::{CrossEntropyOps, cross_entropy};
pub use rms_norm::{RmsNormOps, rms_norm};
pub use rope::{RopeOps, rope};
pub use swiglu::{SwigluOps, swiglu};

#[cfg(test)]
#[path = "../../peft-burn/src/ops/testing.rs"]
mod testing;
