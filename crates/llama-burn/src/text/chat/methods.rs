//! Python's methods of strings, lists and dicts.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::fault::{invalid, unsupported};
use super::letters::{capitalized, lines, padded, title};
use super::python::{is_printable, is_space};

/// Names of Python's methods that change a value: Transformers' sandbox refuses them too.
const CHANGING: &[&str] = &[
    "append",
    "extend",
    "insert",
    "pop",
    "remove",
    "clear",
    "update",
    "setdefault",
    "popitem",
    "reverse",
    "sort",
    "add",
];

/// Calls a method that minijinja's values do not have themselves.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let called = match value.as_str() {
        Some(text) => of_string(text, method, args)?,
        None if value.kind() == ValueKind::Seq && method == "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == wanted);
            Some(Value::from(at.ok_or_else(|| invalid(format!("{wanted} is not in the list")))?))
        }
        None => None,
    };
    match called {
        Some(result) => Ok(result),
        None => {
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args).map_err(
                |error| match error.kind() {
                    ErrorKind::UnknownMethod if value.as_str().is_none() && CHANGING.contains(&method) => {
                        invalid(format!(
                            "`.{method}()` changes a value, which templates may not do (Transformers refuses it too)"
                        ))
                    }
                    ErrorKind::UnknownMethod => unsupported(format!("`.{method}()` of {}", named(value))),
                    _ => error,
                },
            )
        }
    }
}

/// Python's name for the type of a value.
fn named(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::String => "a string",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a dict",
        ValueKind::Number => "a number",
        ValueKind::None => "None",
        ValueKind::Undefined => "an undefined value",
        _ => "this value",
    }
}

/// `None` for a method that is not here.
fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let no_arguments = || from_args::<()>(args);
    let strings = |parts: [&str; 3]| Value::from(Tuple::from(parts.map(Value::from).to_vec()));
    let result = match method {
        "title" => no_arguments().map(|()| title(text).into())?,
        "capitalize" => no_arguments().map(|()| capitalized(text).into())?,
        "swapcase" => {
            no_arguments()?;
            text.chars().flat_map(swapped).collect::<String>().into()
        }
        "casefold" => no_arguments().map(|()| text.to_lowercase().replace('ß', "ss").into())?,
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            let out = |c: char| characters.map_or_else(|| is_space(c), |all| all.contains(c));
            match method {
                "strip" => text.trim_matches(out),
                "lstrip" => text.trim_start_matches(out),
                _ => text.trim_end_matches(out),
            }
            .into()
        }
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "splitlines" => {
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(options.get("keepends")?).unwrap_or(false);
            options.assert_all_used()?;
            lines(text, keep).into_iter().map(Value::from).collect()
        }
        "partition" => {
            let (by,): (&str,) = from_args(args)?;
            strings(text.split_once(by).map_or([text, "", ""], |(before, after)| [before, by, after]))
        }
        "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            strings(text.rsplit_once(by).map_or(["", "", text], |(before, after)| [before, by, after]))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            let missing = missing(text, width)?;
            // Python's `center` puts the odd one to the left where the width is odd.
            let left = match method {
                "ljust" => 0,
                "rjust" => missing,
                _ => missing / 2 + (missing & width.unsigned_abs() as usize & 1),
            };
            padded(text, fill.unwrap_or(' '), left, missing - left).into()
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            format!("{sign}{}{digits}", "0".repeat(missing(text, width)?)).into()
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if method == "index" { text.find(what) } else { text.rfind(what) };
            let at = found.ok_or_else(|| invalid(format!("{what:?} is not in {text:?}")))?;
            text[..at].chars().count().into()
        }
        "isdecimal" => no_arguments().map(|()| all(text, is_decimal).into())?,
        "isdigit" => {
            no_arguments().map(|()| all(text, |c| is_decimal(c) || "²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(c)).into())?
        }
        "isspace" => no_arguments().map(|()| all(text, is_space).into())?,
        "isprintable" => no_arguments().map(|()| text.chars().all(is_printable).into())?,
        "isidentifier" => {
            no_arguments()?;
            let word = all(text, |c| c.is_alphanumeric() || c == '_');
            (word && !text.starts_with(char::is_numeric)).into()
        }
        "istitle" => no_arguments().map(|()| (text.chars().any(char::is_alphabetic) && title(text) == text).into())?,
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(args)?;
            expanded(text, size.unwrap_or(8)).into()
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn all(text: &str, test: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(test)
}

/// The zeros of Unicode's decimal digits up to U+FFFF: the other nine follow each of them.
#[rustfmt::skip]
const ZEROS: &[u32] = &[
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090,
    0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0,
    0xff10,
];

fn is_decimal(c: char) -> bool {
    ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&u32::from(c)))
}

fn swapped(c: char) -> Vec<char> {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// How many characters `text` lacks to `width`.
fn missing(text: &str, width: i64) -> Result<usize, Error> {
    let width = usize::try_from(width).unwrap_or(0);
    if width > 1 << 20 {
        return Err(invalid(format!("a text of {width} characters is too wide")));
    }
    Ok(width.saturating_sub(text.chars().count()))
}

/// `str.split` and `str.rsplit`.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (by, most, options): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let by = by.or(options.get("sep")?);
    let most = most.or(options.get("maxsplit")?).and_then(|most| usize::try_from(most).ok());
    options.assert_all_used()?;
    if by == Some("") {
        return Err(invalid("split: the separator is empty".to_owned()));
    }
    let most = most.unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = text;
    loop {
        if by.is_none() {
            rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
            if rest.is_empty() {
                break;
            }
        }
        let halves = match (by, from_right) {
            _ if parts.len() == most => None,
            (Some(by), false) => rest.split_once(by),
            (Some(by), true) => rest.rsplit_once(by).map(|(before, after)| (after, before)),
            (None, false) => rest.split_once(is_space),
            (None, true) => rest.rsplit_once(is_space).map(|(before, after)| (after, before)),
        };
        match halves {
            Some((part, after)) => {
                parts.push(part);
                rest = after;
            }
            None => {
                let last = match (by, from_right) {
                    (None, true) => rest.trim_start_matches(|c| is_space(c) && parts.len() < most),
                    _ => rest,
                };
                parts.push(last);
                break;
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    // Text that is left over is trimmed at its other end by `split()` alone when all is split.
    Ok(parts.into_iter().filter(|part| by.is_some() || !part.is_empty()).map(Value::from).collect())
}

fn expanded(text: &str, size: usize) -> String {
    let (mut result, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let width = size.min(1 << 10) - column % size.min(1 << 10);
                result.extend(std::iter::repeat_n(' ', width));
                column += width;
            }
            _ => {
                result.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    result
}
