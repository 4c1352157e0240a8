//! The commands, one file each.

mod bench;
mod eval;
mod generate;
mod inspect;
mod merge;
mod train;

use clap::Subcommand;

use crate::failure::Result;

/// What `peft` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Train(train::Train),
    Eval(eval::Eval),
    Generate(generate::Generate),
    Merge(merge::Merge),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result {
        match self {
            Self::Train(command) => command.run(),
            Self::Eval(command) => command.run(),
            Self::Generate(command) => command.run(),
            Self::Merge(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Bench(command) => command.run(),
        }
    }
}
