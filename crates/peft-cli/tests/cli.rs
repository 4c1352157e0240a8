//! `peft` as its users meet it: every command, every kind of bad input, and runs that are killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "cli/support.rs"]
mod support;

#[path = "cli/adapters.rs"]
mod adapters;

#[path = "cli/cases.rs"]
mod cases;

#[path = "cli/checkpoints.rs"]
mod checkpoints;

#[path = "cli/commands.rs"]
mod commands;

#[path = "cli/convert.rs"]
mod convert;

#[path = "cli/extract.rs"]
mod extract;

#[path = "cli/generation.rs"]
mod generation;

#[path = "cli/other_files.rs"]
mod other_files;

#[path = "cli/plain_lora.rs"]
mod plain_lora;

#[path = "cli/help_lines.rs"]
mod help_lines;

#[path = "cli/help_of_arguments.rs"]
mod help_of_arguments;

#[path = "cli/newcomer.rs"]
mod newcomer;

#[path = "cli/quantized.rs"]
mod quantized;

#[path = "cli/rows.rs"]
mod rows;

#[path = "cli/variants.rs"]
mod variants;

#[path = "cli/ways_out.rs"]
mod ways_out;

#[path = "cli/bad_input.rs"]
mod bad_input;

#[path = "cli/data.rs"]
mod data;

#[path = "cli/interrupted.rs"]
mod interrupted;

#[cfg(unix)]
#[path = "cli/terminal.rs"]
mod terminal;

#[cfg(all(unix, feature = "serve"))]
#[path = "cli/serve.rs"]
mod serve;

#[cfg(feature = "webgpu")]
#[path = "cli/webgpu.rs"]
mod webgpu;
