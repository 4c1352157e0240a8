//! The model's operations, each with a backward that keeps as little as it can (see [`peft_burn::ops`]).

mod attention;
mod cross_entropy;
mod masked_attention;
mod rms_norm;
mod rope;
mod swiglu;

pub use attention::{AttentionOps, AttentionShape, causal_attention};
pub use cross_entropy::{CrossEntropyOps, cross_entropy};
pub use masked_attention::{MaskedAttentionOps, masked_attention};
pub use rms_norm::{RmsNormOps, rms_norm};
pub use rope::{RopeOps, rope};
pub use swiglu::{SwigluOps, scaled_swiglu, swiglu};

use burn::tensor::DType;

/// What sums over many values are computed in: f32, as Transformers does for f16 and bf16, or f64 for f64.
fn precise(dtype: DType) -> DType {
    if dtype == DType::F64 { dtype } else { DType::F32 }
}

#[cfg(test)]
#[path = "../../peft-burn/src/ops/testing.rs"]
mod testing;
