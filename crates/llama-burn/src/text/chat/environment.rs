//! A Jinja environment set up as transformers sets up its own, with Python's ways of printing.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::percent::{self, PERCENT};
use super::print::print;
use super::python::{Dump, printed};
use super::render::{GENERATION, NEXT};
use super::{escape, globals, letters, methods, numbers, operator, text};

/// Marks the errors that a template raises itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
pub(super) struct Raised;

/// `trim_blocks` and `lstrip_blocks`, Python's methods on strings, lists and dicts, its tests (`none` is not iterable, a string is
/// a sequence, a truth value a number), `raise_exception`, `strftime_now` and a `tojson` that is `json.dumps`.
pub(super) fn jinja() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(print);
    environment.add_filter("tojson", tojson);
    for name in ["e", "escape"] {
        environment.add_filter(name, escape::escape);
    }
    environment.add_filter("forceescape", escape::force_escape);
    environment.add_filter("urlencode", escape::urlencode);
    environment.add_filter("title", text::title_filter);
    environment.add_filter("capitalize", |value: &Value| letters::capitalized(&printed(value)));
    environment.add_filter("center", text::center);
    environment.add_filter("indent", text::indent);
    environment.add_filter("truncate", text::truncate);
    environment.add_filter("wordcount", text::wordcount);
    environment.add_filter("wordwrap", text::wordwrap);
    environment
        .add_filter("string", |value: &Value| if value.is_safe() { value.clone() } else { printed(value).into() });
    environment.add_filter("pprint", text::pprint);
    environment.add_filter("int", numbers::int);
    environment.add_filter("float", numbers::float);
    environment.add_filter("format", percent::format_filter);
    environment.add_filter(PERCENT, percent::percent);
    environment.add_function("cycler", globals::cycler);
    environment.add_function("joiner", globals::joiner);
    environment.add_function("namespace", globals::namespace);
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number) && value.try_iter().is_ok()
    });
    environment.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map
        )
    });
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
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

/// A template's source as minijinja takes it, and whether it marks what is generated.
///
/// Lines end in `\n`, as Jinja makes them. `{% generation %}` becomes a call block, which treats white space and variables alike.
/// `loop.nextitem` becomes a call that leaves the loop where it is ([`NEXT`]), and `'...' % value` a filter.
pub(super) fn adapted(source: &str) -> (String, bool) {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut result = String::with_capacity(source.len());
    let (mut rest, mut found, mut inside) = (source.as_str(), false, false);
    while let Some(start) = ["{%", "{#", "{{"].iter().filter_map(|open| rest.find(open)).min() {
        let close = match &rest[start..start + 2] {
            "{%" => "%}",
            "{#" => "#}",
            _ => "}}",
        };
        let length = match close {
            "#}" => rest[start..].find(close),
            _ => operator::tag_length(&rest[start..], close),
        };
        let Some(length) = length else { break };
        let tag = &rest[start..start + length];
        let name = tag.trim_start_matches("{%").trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        result.push_str(&rest[..start]);
        match (close, name) {
            ("%}", "generation") => {
                (found, inside) = (true, true);
                result.push_str(&tag.replace("generation", &format!("call {GENERATION}()")));
            }
            ("%}", "endgeneration") => {
                inside = false;
                result.push_str(&tag.replace("endgeneration", "endcall"));
            }
            ("#}", _) => result.push_str(tag),
            (_, name) => {
                let tag = operator::formatting(&tag.replace("loop.nextitem", &format!("{NEXT}(loop)")));
                let set = Some(tag.as_str()).filter(|_| inside && name.starts_with("set "));
                result.push_str(&set.and_then(reading_namespace).unwrap_or(tag));
            }
        }
        rest = &rest[start + length..];
    }
    (result + rest, found)
}

/// `{% set space.name = value` so that it reads `space` too: a call block sees what it reads, and not what it only sets.
fn reading_namespace(tag: &str) -> Option<String> {
    let (target, value) = tag.split_once('=')?;
    let space = target.split_whitespace().last()?.split_once('.')?.0;
    let end = value.trim_end_matches(['-', '+', ' ', '\n', '\t']).len();
    Some(format!("{target}= [({}), {space}][0]{}", value[..end].trim(), &value[end..]))
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
        assert_eq!(adapted(source), (expected.to_string(), true));
        assert!(!adapted("{# {% generation %} #}{% if x %}").1);
    }

    #[test]
    fn a_generation_block_may_set_what_lies_outside_of_it() {
        let source =
            "{% set ns = namespace(a='x') %}{% generation %}{%- set ns.a = none -%}{% endgeneration %}{{ ns.a }}";
        let (source, _) = adapted(source);
        assert!(source.contains("{%- set ns.a = [(none), ns][0] -%}"), "{source}");
        assert_eq!(adapted("a\r\nb\rc").0, "a\nb\nc");
        assert_eq!(
            adapted("{{ loop.nextitem.role }} loop.nextitem").0,
            format!("{{{{ {NEXT}(loop).role }}}} loop.nextitem")
        );
    }

    #[test]
    fn values_are_tested_as_in_python() {
        for (test, yes, no) in [
            ("iterable", "[[], 'a', {}, missing]", "[none, 5, true]"),
            ("sequence", "[[], 'a', {}, missing]", "[none, 5, true]"),
            ("number", "[5, 0.5, true]", "[none, 'a', []]"),
        ] {
            for (values, expected) in [(yes, true), (no, false)] {
                let source = format!("{{% for v in {values} %}}{{{{ v is {test} }}}} {{% endfor %}}");
                let said = jinja().unwrap().render_str(&source, ()).unwrap();
                assert!(
                    said.split_whitespace().all(|word| word == if expected { "True" } else { "False" }),
                    "{test}: {said}"
                );
            }
        }
    }

    #[test]
    fn tojson_refuses_options_that_it_does_not_know() {
        assert!(jinja().unwrap().render_str("{{ 'é' | tojson(cls=1) }}", ()).is_err());
    }
}
