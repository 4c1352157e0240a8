//! Our numbers against Hugging Face's, from the golden files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "parity/base.rs"]
mod base;
#[path = "parity/generation.rs"]
mod generation;
#[path = "parity/methods.rs"]
mod methods;
