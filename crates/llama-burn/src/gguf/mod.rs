//! GGUF files, llama.cpp's format: metadata, a tokenizer and weights, quantised or not, in one file.
//!
//! [`Gguf`] reads a file ([`value`] and [`header`]) and widens its tensors ([`dequantise`]); [`names`] and [`config`] say
//! what they are in Transformers' terms, and [`tokenizer`] does so for text. [`folder`] puts all of that together: a GGUF file
//! becomes a model directory whose weights stay where they are.

mod config;
mod dequantise;
mod folder;
mod header;
mod names;
mod reader;
mod tokenizer;
mod value;

pub(crate) use config::places;
pub(crate) use folder::{directory, weights_of};
pub(crate) use names::Places;
pub(crate) use reader::Gguf;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
