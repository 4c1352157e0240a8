//! The failure of a command: one cause, one way out.

use std::error::Error;
use std::io;

use llama_burn::LlamaError;
use peft_burn::PeftError;
use peft_learner::bench::BenchError;
use peft_learner::device::DeviceError;
use peft_learner::{LearnerError, ResumeError};

/// The error of a command, as it is shown.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{cause}")]
pub struct Failure {
    cause: String,
    #[help]
    way_out: Option<String>,
    closed_pipe: bool,
    exit_code: u8,
}

/// The result of a command.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure and what to do about it.
    pub fn new(cause: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { cause: cause.into(), way_out: Some(way_out.into()), closed_pipe: false, exit_code: 1 }
    }

    /// The output that could not be written.
    pub fn stdout(error: io::Error) -> Self {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        let way_out = io_way_out(&error).map(str::to_owned);
        Self { cause: format!("cannot write the output: {error}"), way_out, closed_pipe, exit_code: 1 }
    }

    /// The exit code: 1, or as a shell tells of a signal.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Whether only the reader of the output went away, as `head` does.
    pub fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }
}

impl From<LearnerError> for Failure {
    fn from(error: LearnerError) -> Self {
        let failure = from_library(&error, learner_way_out(&error));
        match error {
            LearnerError::Interrupted { signal: Some(signal), .. } => {
                Self { exit_code: u8::try_from(128 + signal).unwrap_or(1), ..failure }
            }
            _ => failure,
        }
    }
}

impl From<LlamaError> for Failure {
    fn from(error: LlamaError) -> Self {
        from_library(&error, llama_way_out(&error))
    }
}

impl From<PeftError> for Failure {
    fn from(error: PeftError) -> Self {
        from_library(&error, peft_way_out(&error))
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Model(error) => error.into(),
            BenchError::Adapter(error) => error.into(),
            _ => from_library(&error, None),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let way_out = match error {
            DeviceError::Absent { .. } => format!("{}; `peft devices` lists what is present", error.way_out()),
            _ => error.way_out(),
        };
        Self::new(error.cause(), way_out)
    }
}

fn from_library(error: &dyn Error, way_out: Option<&str>) -> Failure {
    Failure { cause: error.to_string(), way_out: way_out.map(str::to_owned), closed_pipe: false, exit_code: 1 }
}

/// The way out of errors whose text does not name one itself.
fn learner_way_out(error: &LearnerError) -> Option<&'static str> {
    Some(match error {
        LearnerError::Io { source, .. } => return io_way_out(source),
        LearnerError::Llama(error) => return llama_way_out(error),
        LearnerError::Peft(error) => return peft_way_out(error),
        LearnerError::ConfigSyntax { .. } => "strings stand in quotes: path = \"base\"",
        LearnerError::Config { .. } => {
            "correct these in the file or in --set; `peft train --help` shows a complete file"
        }
        LearnerError::Data { problems, .. } if problems.are_of_template() => {
            "put a template that works into chat_template.jinja beside the model's tokenizer; these rows are not at fault"
        }
        LearnerError::Data { .. } => "correct or remove these rows",
        LearnerError::Checkpoint { .. } => {
            "remove this checkpoint's folder: --resume then goes on from the one before it"
        }
        LearnerError::DiskFull { last: Some(_), .. } => {
            "make room on that disk, then go on with the same command and --resume"
        }
        LearnerError::DiskFull { last: None, .. } => {
            "make room on that disk, or write elsewhere; then begin again with --overwrite"
        }
        LearnerError::Resume(ResumeError::PhasesMoved { .. } | ResumeError::ContentsChanged { .. }) => {
            "set it back, or begin a new run in another output folder"
        }
        LearnerError::OutputExists { .. } => "go on with the run by --resume, or replace it by --overwrite",
        LearnerError::ConfigChanged { .. } => {
            "set these back, use another output folder, or replace the run by --overwrite"
        }
        LearnerError::Interrupted { checkpoint: Some(_), .. } => "go on with the same command and --resume",
        _ => return None,
    })
}

fn llama_way_out(error: &LlamaError) -> Option<&'static str> {
    Some(match error {
        LlamaError::Io { source, .. } => return io_way_out(source),
        LlamaError::Peft(error) => return peft_way_out(error),
        LlamaError::UnsupportedArchitecture { .. } => "give a model of one of these families",
        LlamaError::Gguf { .. } => "give another file, or the model's Hugging Face directory",
        LlamaError::Json { .. } | LlamaError::Config { .. } => {
            "fetch the model again or correct the file; for what is not supported, give another model"
        }
        LlamaError::Tensors { .. } => "take config.json and the weights from the same model",
        LlamaError::Tokenizer { .. } => "fetch the tokenizer's files again",
        _ => return None,
    })
}

fn peft_way_out(error: &PeftError) -> Option<&'static str> {
    Some(match error {
        PeftError::Io { source, .. } => return io_way_out(source),
        PeftError::AnotherProgram { .. } => "peft convert --to peft ADAPTER --output DIR does that",
        PeftError::Json { .. } => "write it again with PEFT, or correct the file",
        PeftError::Config { .. } => "correct these keys; they are those of PEFT's adapter_config.json",
        PeftError::UnmatchedTargets { .. } | PeftError::NoMatchingModule { .. } => {
            "choose target_modules among the available names, or \"all-linear\""
        }
        _ => return None,
    })
}

fn io_way_out(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::NotFound => "check the path: it is relative to the folder in which peft runs",
        io::ErrorKind::PermissionDenied => "change the permissions, or use another folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on the disk, or write elsewhere; what was complete before is still there"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_however_deep_it_lies() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let failure = Failure::from(LearnerError::Llama(LlamaError::Peft(PeftError::io("a/b")(full()))));
        assert!(failure.way_out.is_some_and(|help| help.contains("make room")), "{}", failure.cause);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        assert!(Failure::stdout(io::ErrorKind::BrokenPipe.into()).is_closed_pipe());
        assert!(!Failure::stdout(io::ErrorKind::StorageFull.into()).is_closed_pipe());
    }
}
