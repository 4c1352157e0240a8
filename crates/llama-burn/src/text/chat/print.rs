//! Values as `{{ value }}` prints them.

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Error, Output, State, Value};

use super::escape::force_escape;
use super::python::{float, printed, repr};

/// The text that `{{ value }}` prints: `str(value)`.
pub(super) fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if *state.auto_escape() != AutoEscape::None && !value.is_safe() {
        return out.write_str(&printed(&force_escape(value))).map_err(Error::from);
    }
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            out.write_str(&repr(value)).map_err(Error::from)
        }
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone())?;
            out.write_str(&float(number)).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}
