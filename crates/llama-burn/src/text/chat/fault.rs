//! Errors of what templates ask for.

use minijinja::{Error, ErrorKind};

/// An error of kind "unknown", whose words say that the template uses what is not there.
pub(super) fn unsupported(what: String) -> Error {
    Error::new(ErrorKind::UnknownMethod, format!("the template uses {what}, which is not supported"))
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
