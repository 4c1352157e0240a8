//! Our numbers against Hugging Face's, from the golden files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "parity/adalora.rs"]
mod adalora;
#[path = "parity/base.rs"]
mod base;
#[path = "parity/combine.rs"]
mod combine;
#[path = "parity/derive.rs"]
mod derive;
#[path = "parity/generation.rs"]
mod generation;
#[path = "parity/initial.rs"]
mod initial;
#[path = "parity/methods.rs"]
mod methods;
#[path = "parity/precision.rs"]
mod precision;
#[path = "parity/quantised.rs"]
mod quantised;
#[path = "parity/serving.rs"]
mod serving;
