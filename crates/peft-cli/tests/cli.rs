//! `peft` as its users meet it: every command, every kind of bad input, and runs that are killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "cli/support.rs"]
mod support;

#[path = "cli/adapters.rs"]
mod adapters;

#[path = "cli/commands.rs"]
mod commands;

#[path = "cli/convert.rs"]
mod convert;

#[path = "cli/bad_input.rs"]
mod bad_input;

#[path = "cli/interrupted.rs"]
mod interrupted;

#[cfg(all(unix, feature = "serve"))]
#[path = "cli/serve.rs"]
mod serve;

#[cfg(feature = "webgpu")]
#[path = "cli/webgpu.rs"]
mod webgpu;
