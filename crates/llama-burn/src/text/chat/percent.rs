//! Python's `'%s' % value`.

use std::collections::BTreeMap;

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Error, Value};

use super::fault::invalid;
use super::letters::padded;
use super::python::{printed, repr};

/// The name of the filter that `'...' % value` becomes.
pub(super) const PERCENT: &str = "__percent";

/// Widths and precisions end here.
const WIDEST: usize = (1 << 16) - 1;

/// Filter `format`: the values follow, in order or by name.
pub(super) fn format_filter(value: &Value, values: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let by_name = named.args().map(|key| Ok((key.to_owned(), named.get::<Value>(key)?)));
    let by_name: BTreeMap<String, Value> = by_name.collect::<Result<_, Error>>()?;
    if by_name.is_empty() {
        return write(&printed(value), &values, None);
    }
    write(&printed(value), &[], Some(&Value::from(by_name)))
}

/// `format % value`: a tuple holds several values, a dict those by name.
pub(super) fn percent(value: &Value, given: Value) -> Result<String, Error> {
    let several: Option<Vec<Value>> = match given.downcast_object_ref::<Tuple>() {
        Some(_) => Some(given.try_iter()?.collect()),
        None => None,
    };
    let map = (given.kind() == ValueKind::Map).then_some(&given);
    write(&printed(value), several.as_deref().unwrap_or(std::slice::from_ref(&given)), map)
}

/// One `%...` of a format.
#[derive(Default)]
struct Directive {
    name: Option<String>,
    flags: String,
    width: Option<usize>,
    precision: Option<usize>,
}

fn write(format: &str, values: &[Value], map: Option<&Value>) -> Result<String, Error> {
    let (mut text, mut rest, mut used, mut by_name) = (String::new(), format, 0, false);
    let mut next = |what: &str| {
        used += 1;
        values
            .get(used - 1)
            .cloned()
            .ok_or_else(|| invalid(format!("not enough values for {what} in the format {format:?}")))
    };
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let (directive, kind, behind) = parse(after, format, &mut next)?;
        rest = behind;
        if kind == '%' {
            text.push('%');
            continue;
        }
        let value = match &directive.name {
            Some(name) => {
                by_name = true;
                let map = map.ok_or_else(|| invalid(format!("the format {format:?} needs values by name")))?;
                let value = map.get_attr(name)?;
                if value.is_undefined() {
                    return Err(invalid(format!("the format {format:?} has no value named {name:?}")));
                }
                value
            }
            None => next(&format!("%{kind}"))?,
        };
        text.push_str(&directive.fill(&body(&directive, kind, &value, format)?, kind));
    }
    text.push_str(rest);
    if used < values.len() && !by_name && map.is_none() {
        return Err(invalid(format!("more values than the format {format:?} has places for")));
    }
    Ok(text)
}

/// The conversion behind a `%`, and the text behind that.
fn parse<'a>(
    text: &'a str,
    format: &str,
    next: &mut impl FnMut(&str) -> Result<Value, Error>,
) -> Result<(Directive, char, &'a str), Error> {
    let mut directive = Directive::default();
    let mut rest = text;
    if let Some((name, behind)) = rest.strip_prefix('(').and_then(|inside| inside.split_once(')')) {
        (directive.name, rest) = (Some(name.to_owned()), behind);
    }
    let flags = rest.len() - rest.trim_start_matches(['#', '0', '-', ' ', '+']).len();
    (directive.flags, rest) = (rest[..flags].to_owned(), &rest[flags..]);
    let mut number = |rest: &mut &'a str| -> Result<Option<usize>, Error> {
        if let Some(behind) = rest.strip_prefix('*') {
            *rest = behind;
            return Ok(Some(usize::try_from(next("*")?)?.min(WIDEST)));
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, behind) = rest.split_at(digits);
        *rest = behind;
        Ok(number.parse().ok().map(|number: usize| number.min(WIDEST)))
    };
    directive.width = number(&mut rest)?;
    if let Some(behind) = rest.strip_prefix('.') {
        rest = behind;
        directive.precision = Some(number(&mut rest)?.unwrap_or(0));
    }
    rest = rest.trim_start_matches(['h', 'l', 'L']);
    let kind = rest.chars().next().ok_or_else(|| invalid(format!("the format {format:?} ends within a %")))?;
    Ok((directive, kind, &rest[kind.len_utf8()..]))
}

impl Directive {
    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    /// `body` at the width that is asked for.
    fn fill(&self, body: &str, kind: char) -> String {
        let missing = self.width.unwrap_or(0).saturating_sub(body.chars().count());
        if self.has('-') {
            return padded(body, ' ', 0, missing);
        }
        if self.has('0') && !"srac".contains(kind) {
            let digits = body.trim_start_matches(['+', '-', ' ']);
            return format!("{}{}{digits}", &body[..body.len() - digits.len()], "0".repeat(missing));
        }
        padded(body, ' ', missing, 0)
    }

    fn sign(&self, negative: bool) -> &'static str {
        match negative {
            true => "-",
            false if self.has('+') => "+",
            false if self.has(' ') => " ",
            false => "",
        }
    }
}

/// A value as one `%...` writes it, without its width.
fn body(directive: &Directive, kind: char, value: &Value, format: &str) -> Result<String, Error> {
    let wrong = |needs: &str| invalid(format!("%{kind} of the format {format:?} needs {needs}, not {}", repr(value)));
    let number = || match value.kind() {
        ValueKind::Bool => Ok(f64::from(u8::from(value.is_true()))),
        _ => f64::try_from(value.clone()).map_err(|_| wrong("a number")),
    };
    let whole = || match value.is_integer() {
        true => i128::try_from(value.clone()),
        false => number().map(|number| number as i128),
    };
    let cut = |text: String| match directive.precision {
        Some(length) => text.chars().take(length).collect(),
        None => text,
    };
    let signed = |negative: bool, digits: String| format!("{}{digits}", directive.sign(negative));
    let digits = |digits: String| match directive.precision {
        Some(count) => format!("{}{digits}", "0".repeat(count.saturating_sub(digits.len()))),
        None => digits,
    };
    let mark = |mark: &str, text: String| if directive.has('#') { format!("{mark}{text}") } else { text };
    let precision = directive.precision.unwrap_or(6);
    Ok(match kind {
        's' => cut(printed(value)),
        'r' | 'a' => cut(repr(value)),
        'c' => match value.as_str() {
            Some(text) if text.chars().count() == 1 => text.to_owned(),
            Some(_) => return Err(wrong("one character")),
            None => {
                u32::try_from(whole()?).ok().and_then(char::from_u32).ok_or_else(|| wrong("a character"))?.to_string()
            }
        },
        'd' | 'i' | 'u' => signed(whole()? < 0, digits(whole()?.unsigned_abs().to_string())),
        'x' | 'X' | 'o' if !value.is_integer() => return Err(wrong("an integer")),
        'x' => signed(whole()? < 0, mark("0x", digits(format!("{:x}", whole()?.unsigned_abs())))),
        'X' => signed(whole()? < 0, mark("0X", digits(format!("{:X}", whole()?.unsigned_abs())))),
        'o' => signed(whole()? < 0, mark("0o", digits(format!("{:o}", whole()?.unsigned_abs())))),
        'f' | 'F' => signed(number()?.is_sign_negative(), format!("{:.precision$}", number()?.abs())),
        'e' => signed(number()?.is_sign_negative(), exponent(number()?.abs(), precision)),
        'E' => signed(number()?.is_sign_negative(), exponent(number()?.abs(), precision).to_uppercase()),
        'g' => signed(number()?.is_sign_negative(), general(number()?.abs(), precision, directive.has('#'))),
        'G' => {
            signed(number()?.is_sign_negative(), general(number()?.abs(), precision, directive.has('#')).to_uppercase())
        }
        _ => return Err(invalid(format!("%{kind} of the format {format:?} is not known to Python"))),
    })
}

/// With an exponent of two digits or more.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// The shorter of both ways, with so many digits that count.
fn general(number: f64, precision: usize, zeros: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponent(number, precision - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let (digits, power) = if (-4..precision as i32).contains(&power) {
        (format!("{number:.*}", (precision as i32 - 1 - power).max(0) as usize), "")
    } else {
        let (digits, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        (digits.to_owned(), &scientific[digits.len()..])
    };
    let digits =
        if digits.contains('.') && !zeros { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{power}")
}
