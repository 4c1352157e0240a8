//! The adapter methods on one layer, a folder each, and the list of them.
//!
//! The behaviour of a method is in [`MethodConfig`], [`MethodLayer`] and [`PeftMethod`]. A new one is a folder,
//! its `mod` here and a line of the list: `docs/adding-a-method.md` walks through one.

pub(crate) mod adalora;
mod builder;
mod dora;
mod dropout;
mod ia3;
mod list;
mod loha;
mod lora;
mod traits;
mod vera;

use std::ops::{Deref, DerefMut};

use burn::module::Module;
use burn::tensor::Tensor;

pub use adalora::Importance;
pub use dora::{EmbeddingLora, Magnitude};
pub use lora::LoraSpec;
pub(crate) use traits::tensor_problems;
pub use traits::{
    Change, Either, MethodConfig, MethodLayer, PeftMethod, Place, Preset, Scale, SharedInput, ToObject, Update,
};
pub use vera::{PairKey, VeraProjection, vera_projection};

use crate::config::reader::Section;
use crate::error::Result;

list::methods! {
    /// Low-rank update.
    lora: Lora(LoraConfig);
    /// Low-rank update of the direction, and learned row norms.
    dora: Dora;
    /// Low-rank update in triplets, pruned in training.
    adalora: AdaLora(AdaLoraConfig);
    /// Learned vectors around a random pair that the whole model shares.
    vera: Vera(VeraConfig);
    /// A learned scale of the input or the output.
    ia3: Ia3(Ia3Config);
    /// An update that is the elementwise product of two of low rank.
    loha: LoHa(LoHaConfig);
}
