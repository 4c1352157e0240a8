//! Errors, worded so that the reader knows what to change.

mod not_combined;
mod unsupported;

use std::fmt::{Display, Formatter};
use std::io;
use std::path::PathBuf;

pub use not_combined::NotCombined;
pub use unsupported::Unsupported;

/// The result of an operation of this crate.
pub type Result<T, E = PeftError> = std::result::Result<T, E>;

/// Every error of this crate. A message names the file, key, module or tensor at fault, all of them if there are
/// several, and ends with the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeftError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// A file is not JSON, or not the JSON that belongs there.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what the parser found.
        source: serde_json::Error,
    },

    /// A file is not a safetensors file, or is cut short.
    #[error("{} is not a readable safetensors file: {message}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
    },

    /// A file is not one that `torch.save` writes, or is cut short.
    #[error("{} is not a readable PyTorch file: {message}", path.display())]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
    },

    /// A file is none of tensors at all.
    #[error("{} is {what}", path.display())]
    NotTensors {
        /// The file.
        path: PathBuf,
        /// The kind of file it is, and the way out.
        what: String,
    },

    /// An adapter that another program wrote.
    #[error("{} is of {program}, not of PEFT; {way_out}", path.display())]
    AnotherProgram {
        /// The adapter's configuration.
        path: PathBuf,
        /// Who wrote it.
        program: &'static str,
        /// The way out.
        way_out: &'static str,
    },

    /// A configuration is wrong; every problem is listed.
    #[error("{origin}: {}", Problems(problems))]
    Config {
        /// The file, or the kind of configuration, that holds the problems.
        origin: String,
        /// One entry a problem, each with its key and what to do.
        problems: Vec<String>,
    },

    /// The tensors of a file do not fit the model and the configuration; every offender is listed.
    #[error(
        "{} does not fit this model and configuration:{}{}{}{}\n\
         load it on the base model it was trained for, or correct its adapter_config.json",
        path.display(),
        Group("missing", missing),
        Group("unexpected", unexpected),
        Group("of another shape", misshapen),
        Group("with NaN or infinite values", non_finite)
    )]
    Tensors {
        /// The file.
        path: PathBuf,
        /// Tensors that the configuration asks for and the file lacks.
        missing: Vec<String>,
        /// Tensors in the file that have no place in the model.
        unexpected: Vec<String>,
        /// Tensors of another shape, each with found and expected.
        misshapen: Vec<String>,
        /// Tensors that hold NaN or infinity.
        non_finite: Vec<String>,
    },

    /// The configuration selects no module of the model at all.
    #[error("target_modules {targets} selects no module of this model{}{}", Notes(notes), Available(available))]
    NoMatchingModule {
        /// `target_modules` as configured.
        targets: String,
        /// Other settings that narrowed the selection, for example `layers_to_transform`.
        notes: Vec<String>,
        /// Names that would match.
        available: Vec<String>,
    },

    /// Some names in the configuration match nothing in the model; every one is listed.
    #[error("these match nothing in this model:{}{}", Lines(unmatched), Available(available))]
    UnmatchedTargets {
        /// One entry a name, with its key.
        unmatched: Vec<String>,
        /// Names that would match.
        available: Vec<String>,
    },

    /// An adapter of that name is attached already.
    #[error("an adapter named `{0}` is already attached; delete it first or choose another name")]
    AdapterExists(String),

    /// No adapter of that name is attached.
    #[error("no adapter is named `{name}`; attached: {}", Names(available))]
    UnknownAdapter {
        /// The name asked for.
        name: String,
        /// The names that exist.
        available: Vec<String>,
    },

    /// Asked for something that this crate does not do.
    #[error("not supported: {0}")]
    Unsupported(#[from] Unsupported),

    /// A merge would put NaN or infinity into the base weights; nothing was changed.
    #[error(
        "merging adapter `{adapter}` would make these weights NaN or infinite, so nothing was merged:{}\n\
         the adapter is broken: go back to an earlier checkpoint",
        Lines(modules)
    )]
    NonFiniteMerge {
        /// The adapter.
        adapter: String,
        /// The modules whose merged weight is not finite.
        modules: Vec<String>,
    },

    /// The operation needs the adapters apart from the base weights.
    #[error("cannot {operation} while merged ({}); unmerge first", Names(adapters))]
    Merged {
        /// The operation, as a verb: "delete adapter `a`".
        operation: String,
        /// The merged adapters.
        adapters: Vec<String>,
    },
}

impl PeftError {
    /// For `map_err`: an [`io::Error`] together with the path it is about.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// A single problem on the same line, several on a line each.
struct Problems<'a>(&'a [String]);

impl Display for Problems<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [only] => f.write_str(only),
            all => write!(f, "{} problems:{}", all.len(), Lines(all)),
        }
    }
}

/// Each entry on an indented line of its own.
struct Lines<'a>(&'a [String]);

impl Display for Lines<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A heading with its entries, or nothing if there are none.
struct Group<'a>(&'a str, &'a [String]);

impl Display for Group<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.1.is_empty() {
            return Ok(());
        }
        write!(f, "\n{} ({}):{}", self.0, self.1.len(), Lines(self.1))
    }
}

/// Clauses appended with semicolons.
struct Notes<'a>(&'a [String]);

impl Display for Notes<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// The names to choose from, if any.
struct Available<'a>(&'a [String]);

impl Display for Available<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "\nthis model has: {}", Names(self.0))
    }
}

/// Names in one line.
struct Names<'a>(&'a [String]);

impl Display for Names<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { f.write_str(&self.0.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_lists_every_offender_under_its_heading_and_leaves_out_empty_ones() {
        let error = PeftError::Tensors {
            path: "a/adapter_model.safetensors".into(),
            missing: vec!["x.lora_A.weight".into(), "y.lora_A.weight".into()],
            unexpected: vec![],
            misshapen: vec!["z.lora_B.weight is [64, 4], expected [64, 8]".into()],
            non_finite: vec![],
        };
        assert_eq!(
            error.to_string(),
            "a/adapter_model.safetensors does not fit this model and configuration:\n\
             missing (2):\n  x.lora_A.weight\n  y.lora_A.weight\n\
             of another shape (1):\n  z.lora_B.weight is [64, 4], expected [64, 8]\n\
             load it on the base model it was trained for, or correct its adapter_config.json"
        );
    }

    #[test]
    fn one_problem_stays_on_the_line_of_its_origin() {
        let config = |problems: &[&str]| PeftError::Config {
            origin: "adapter".into(),
            problems: problems.iter().map(|&p| p.into()).collect(),
        };
        assert_eq!(config(&["r = 0: use 1 or more"]).to_string(), "adapter: r = 0: use 1 or more");
        assert_eq!(config(&["a", "b"]).to_string(), "adapter: 2 problems:\n  a\n  b");
    }

    #[test]
    fn unknown_adapter_names_the_ones_that_exist() {
        let error = PeftError::UnknownAdapter { name: "c".into(), available: vec!["a".into(), "b".into()] };
        assert_eq!(error.to_string(), "no adapter is named `c`; attached: a, b");
    }
}
