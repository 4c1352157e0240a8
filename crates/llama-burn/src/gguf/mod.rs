//! GGUF files, llama.cpp's format: metadata, a tokenizer and weights, quantised or not, in one file.
//!
//! [`Gguf`] reads a file ([`value`] and [`header`]) and widens its tensors ([`dequantise`]); [`names`] and [`config`] say
//! what they are in Transformers' terms, and [`tokenizer`] does so for text. [`folder`] puts all of that together: a GGUF file
//! becomes a model directory whose weights stay where they are. [`export`] is the way back: [`mixture`] chooses each tensor's
//! type, [`quantise`] encodes it, with scales that [`fit`] finds; [`unknown`] is what llama.cpp does not compute.

mod config;
mod dequantise;
mod export;
mod fit;
mod folder;
mod header;
mod lora;
mod mixture;
mod names;
mod quantise;
mod reader;
mod tokenizer;
mod unknown;
mod value;
mod vocabulary;
mod write;

pub(crate) use config::places;
pub use export::GgufType;
pub(crate) use export::export;
pub use folder::unpack_gguf;
pub(crate) use folder::{directory, weights_of};
pub use lora::save_lora_gguf;
pub(crate) use names::Places;
pub(crate) use reader::Gguf;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
