//! A run: everything it is made of, and how it goes from its checks to its report.

mod builder;
mod burn_loop;
mod whole;

pub use builder::{Finetune, Report};
