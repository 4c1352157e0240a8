//! Jinja's filters `int` and `float`, which read numbers as Python does.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

use super::python::is_space;

/// Filter `int`: a number of a text in some base, or else that of a decimal text without its fraction.
pub(super) fn int(value: &Value, default: Option<Value>, base: Option<u32>, options: Kwargs) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(options.get("base")?).unwrap_or(10);
    options.assert_all_used()?;
    let whole = match value.as_str() {
        Some(text) => integer(text, base),
        None if value.is_integer() => return Ok(value.clone()),
        None => None,
    };
    let number = || real(value).filter(|number| number.is_finite()).map(|number| Value::from(number as i128));
    Ok(whole.map(Value::from).or_else(number).unwrap_or(default))
}

/// Filter `float`.
pub(super) fn float(value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or_else(|| Value::from(0.0));
    options.assert_all_used()?;
    Ok(real(value).map_or(default, Value::from))
}

/// `int(text, base)`.
fn integer(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = digits.to_ascii_lowercase();
    let marked = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(mark, of)| lower.starts_with(mark) && (base == *of || base == 0));
    let (digits, base) = match marked {
        Some((_, base)) => (digits[2..].strip_prefix('_').unwrap_or(&digits[2..]), base),
        None if base == 0 => (digits, 10),
        None => (digits, base),
    };
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&without_underscores(digits)?, base).ok()?;
    Some(if text.starts_with('-') { -number } else { number })
}

/// `float(value)`.
fn real(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => without_underscores(value.as_str()?.trim_matches(is_space))?.parse().ok(),
        _ => None,
    }
}

/// A number without the `_` that Python allows between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let single = text.split('_').all(|part| !part.is_empty());
    (single || !text.contains('_')).then(|| text.replace('_', ""))
}
