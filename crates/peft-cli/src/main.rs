//! `peft`: fine-tune a language model with an adapter, talk to it, merge it, look into it, serve it.
//!
//! ```sh
//! peft quickstart
//! peft train my.toml --set training.max_steps=100
//! peft generate --model MODEL --adapter runs/my/adapter --prompt "Once"
//! peft merge --model MODEL --adapter runs/my/adapter --output runs/my/merged
//! ```

mod commands;
mod embedded;
mod failure;
mod model_args;
mod output;
mod size;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use commands::Command;

/// Fine-tunes language models with adapters (LoRA and its relatives) whose files Hugging Face PEFT reads and writes.
#[derive(Debug, Parser)]
#[command(name = "peft", version, arg_required_else_help = true, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
Begin here; it takes some 20 seconds and needs no files:
  peft quickstart";

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Where stderr is no terminal, lines stay whole: paths and names can be searched for.
    let wrap = std::io::stderr().is_terminal();
    let handler = move |_: &dyn miette::Diagnostic| -> Box<dyn miette::ReportHandler> {
        Box::new(miette::MietteHandlerOpts::new().wrap_lines(wrap).break_words(false).build())
    };
    // It fails only when a handler is set already.
    let _ = miette::set_hook(Box::new(move |diagnostic| handler(diagnostic)));
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let code = ExitCode::from(failure.exit_code());
            let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(failure));
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The repository's, which is not in the package.
    fn readme() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap_or_default()
    }

    #[test]
    fn the_commands_of_the_documentation_are_accepted() {
        let documentation = [include_str!("main.rs"), include_str!("../README.md"), &readme()];
        let lines = documentation.iter().flat_map(|text| text.lines());
        let commands = lines.filter_map(|line| {
            let line = line.trim_start_matches("//! ");
            let command = line.strip_prefix("peft ").or_else(|| line.strip_prefix("cargo run --release -- "))?;
            Some(command.split(" #").next().unwrap_or_default().replace('"', ""))
        });
        let commands: Vec<String> = commands.collect();
        assert!(commands.len() >= 8, "{commands:?}");
        for command in commands {
            let parsed = Cli::try_parse_from(std::iter::once("peft").chain(command.split_whitespace()));
            assert!(parsed.is_ok(), "peft {command}: {:?}", parsed.err().map(|error| error.to_string()));
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        use clap::CommandFactory;
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut().filter(|c| c.get_name() != "help") {
            let help = command.render_long_help().to_string();
            let name = command.get_name();
            assert!(help.contains(&format!("\n  peft {name}")), "{name}:\n{help}");
        }
    }
}
