//! A Jinja environment set up as transformers sets up its own, with Python's ways of printing.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// `trim_blocks` and `lstrip_blocks`, Python's methods on strings, lists and dicts, `raise_exception`,
/// `strftime_now` and a `tojson` that is `json.dumps`.
pub(super) fn jinja() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(print_like_python);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&jiff::Zoned::now(), &format));
    Ok(environment)
}

fn print_like_python(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

fn strftime(now: &jiff::Zoned, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}")))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson(ensure_ascii=true) is not supported"));
    }
    options.assert_all_used()?;
    let json = match indent {
        Some(width) => to_json(&value, PrettyFormatter::with_indent(" ".repeat(width).as_bytes())),
        None => to_json(&value, Spaced),
    };
    json.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn to_json(value: &Value, formatter: impl Formatter) -> Result<String, serde_json::Error> {
    let mut json = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut json, formatter))?;
    Ok(String::from_utf8_lossy(&json).into_owned())
}

/// Python's separators, `", "` and `": "`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which only mark text for transformers, by a block that
/// renders its contents and treats white space alike.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length];
        let name = tag.trim_start_matches("{%").trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        result.push_str(&rest[..start]);
        match name {
            "generation" => result.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => result.push_str(&tag.replace("endgeneration", "endif")),
            _ => result.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    result + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn dates_are_written_as_by_python() {
        let now = jiff::civil::date(2024, 7, 6).at(9, 5, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap();
        assert_eq!(strftime(&now, "%d %b %Y, %A %B %H:%M").unwrap(), "06 Jul 2024, Saturday July 09:05");
        let error = strftime(&now, "%!").unwrap_err().to_string();
        assert!(error.contains("strftime_now(\"%!\")"), "{error}");
    }

    #[test]
    fn generation_tags_render_their_contents() {
        let source = "{%- generation -%} a {% endgeneration %}{% set generation = 1 %}{{ generation }}{% broken";
        let expected = "{%- if true -%} a {% endif %}{% set generation = 1 %}{{ generation }}{% broken";
        assert_eq!(without_generation_tags(source), expected);
    }

    #[test]
    fn tojson_refuses_what_it_would_do_otherwise_than_python() {
        let environment = jinja().unwrap();
        let error = environment.render_str("{{ 'é' | tojson(ensure_ascii=true) }}", ()).unwrap_err().to_string();
        assert!(error.contains("ensure_ascii=true"), "{error}");
        assert!(environment.render_str("{{ 'é' | tojson(sort_keys=true) }}", ()).is_err());
    }
}
