//! The commands, one file each.

mod bench;
#[cfg(feature = "serve")]
mod bench_serve;
mod choice;
mod combine;
mod convert;
mod devices;
mod estimate;
mod eval;
mod generate;
mod inspect;
mod merge;
mod quantize;
mod quickstart;
#[cfg(feature = "serve")]
mod serve;
mod train;

use clap::Subcommand;

use crate::failure::Result;

/// The commands of `peft`.
#[derive(Debug, Subcommand)]
pub enum Command {
    Quickstart(quickstart::Quickstart),
    Train(train::Train),
    Estimate(estimate::Estimate),
    Eval(eval::Eval),
    Generate(generate::Generate),
    Merge(merge::Merge),
    Quantize(quantize::Quantize),
    Convert(convert::Convert),
    Combine(combine::Combine),
    Inspect(inspect::Inspect),
    #[cfg(feature = "serve")]
    Serve(serve::Serve),
    Bench(bench::Bench),
    Devices(devices::Devices),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result {
        match self {
            Self::Quickstart(command) => command.run(),
            Self::Train(command) => command.run(),
            Self::Estimate(command) => command.run(),
            Self::Eval(command) => command.run(),
            Self::Generate(command) => command.run(),
            Self::Merge(command) => command.run(),
            Self::Quantize(command) => command.run(),
            Self::Convert(command) => command.run(),
            Self::Combine(command) => command.run(),
            Self::Inspect(command) => command.run(),
            #[cfg(feature = "serve")]
            Self::Serve(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Devices(command) => command.run(),
        }
    }
}
