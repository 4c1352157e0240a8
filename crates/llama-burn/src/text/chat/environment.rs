//! A Jinja environment set up as transformers sets up its own, with Python's ways of printing.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::python::{Dump, print};
use super::render::GENERATION;

/// `trim_blocks` and `lstrip_blocks`, Python's methods on strings, lists and dicts, `raise_exception`,
/// `strftime_now` and a `tojson` that is `json.dumps`.
pub(super) fn jinja() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(print);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&jiff::Zoned::now(), &format));
    Ok(environment)
}

fn strftime(now: &jiff::Zoned, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}")))
}

/// `json.dumps` with the options that transformers allows.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let dump = Dump {
        indent: options.get::<Option<usize>>("indent")?,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: match options.get::<Option<Vec<String>>>("separators")?.as_deref() {
            Some([item, key]) => Some((item.clone(), key.clone())),
            None => None,
            Some(other) => {
                let message = format!("tojson: separators must be two strings, but are {other:?}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        },
    };
    options.assert_all_used()?;
    let json = serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(dump.write(&json))
}

/// Turns `{% generation %}` and `{% endgeneration %}` into a call block, which treats white space and variables alike, and
/// says whether there are any.
pub(super) fn with_generation_calls(source: &str) -> (String, bool) {
    let mut result = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(start) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let comment = rest[start..].starts_with("{#");
        let Some(length) = rest[start..].find(if comment { "#}" } else { "%}" }) else { break };
        let tag = &rest[start..start + length];
        let name = tag.trim_start_matches("{%").trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        result.push_str(&rest[..start]);
        match name {
            "generation" if !comment => {
                found = true;
                result.push_str(&tag.replace("generation", &format!("call {GENERATION}()")));
            }
            "endgeneration" if !comment => result.push_str(&tag.replace("endgeneration", "endcall")),
            _ => result.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    (result + rest, found)
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
    fn generation_tags_become_calls() {
        let source = "{# {% generation %} #}{%- generation -%} a {% endgeneration %}{% set generation = 1 %}{{ generation }}{% broken";
        let expected = "{# {% generation %} #}{%- call __generation() -%} a {% endcall %}{% set generation = 1 %}{{ generation }}{% broken";
        assert_eq!(with_generation_calls(source), (expected.to_string(), true));
        assert!(!with_generation_calls("{# {% generation %} #}{% if x %}").1);
    }

    #[test]
    fn tojson_refuses_options_that_it_does_not_know() {
        assert!(jinja().unwrap().render_str("{{ 'é' | tojson(cls=1) }}", ()).is_err());
    }
}
