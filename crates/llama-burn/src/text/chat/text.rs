//! Jinja's filters that shape text: upper and lower case, wrapping and cutting.

use minijinja::Error;
use minijinja::Value;
use minijinja::value::{Kwargs, Rest, ValueKind};

use super::fault::{invalid, unsupported};
use super::letters::{lines, lower, padded, upper};
use super::python::{is_space, printed, repr};

/// Jinja's filter `title`: a word ends at white space, hyphens and brackets alone.
pub(super) fn title_filter(value: &Value) -> String {
    let mut start = true;
    printed(value)
        .chars()
        .flat_map(|c| {
            let begins = is_space(c) || "-({[<".contains(c);
            if std::mem::replace(&mut start, begins) && !begins { upper(c) } else { lower(c) }
        })
        .collect()
}

/// Filter `center`.
pub(super) fn center(value: &Value, width: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let width = width.or(options.get("width")?).unwrap_or(80).min(1 << 20);
    options.assert_all_used()?;
    let text = printed(value);
    let missing = width.saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    Ok(padded(&text, ' ', left, missing - left))
}

/// Filter `indent`, with its arguments in order: width, first, blank.
pub(super) fn indent(value: &Value, given: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        given.get(at).cloned().map_or_else(|| options.get(name), |value| Ok(Some(value)))
    };
    let by = match argument(0, "width")? {
        None => " ".repeat(4),
        Some(text) if text.as_str().is_some() => printed(&text),
        Some(width) => " ".repeat(usize::try_from(width)?.min(1 << 16)),
    };
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (is_set(argument(1, "first")?), is_set(argument(2, "blank")?));
    options.assert_all_used()?;
    let text = printed(value) + "\n";
    let line = |(at, line): (usize, &str)| match (at, line.is_empty()) {
        (0, _) if first => format!("{by}{line}"),
        (0, _) => line.to_owned(),
        (_, true) if !blank => String::new(),
        _ => format!("{by}{line}"),
    };
    Ok(lines(&text, false).into_iter().enumerate().map(line).collect::<Vec<_>>().join("\n"))
}

/// Filter `pprint`, of a single value: Python's lay-out of lists and dicts is not here.
pub(super) fn pprint(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            Err(unsupported("the filter `pprint` of a list or dict".to_owned()))
        }
        _ => Ok(repr(value)),
    }
}

/// Filter `wordcount`: runs of letters, digits and `_`.
pub(super) fn wordcount(value: &Value) -> usize {
    printed(value).split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
}

/// Filter `truncate`, with its arguments in order: length, killwords, end, leeway.
pub(super) fn truncate(value: &Value, given: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        given.get(at).cloned().map_or_else(|| options.get(name), |value| Ok(Some(value)))
    };
    let number = |value: Option<Value>, default: usize| match value {
        None => Ok(default),
        Some(value) if value.is_none() => Ok(default),
        Some(value) => usize::try_from(value),
    };
    let length = number(argument(0, "length")?, 255)?;
    let cut_words = argument(1, "killwords")?.is_some_and(|value| value.is_true());
    let end = argument(2, "end")?.map_or("...".to_owned(), |value| printed(&value));
    let leeway = number(argument(3, "leeway")?, 5)?;
    options.assert_all_used()?;
    let ends = end.chars().count();
    if length < ends {
        return Err(invalid(format!("truncate: the length {length} is less than that of {end:?}")));
    }
    let text = printed(value);
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let cut: String = text.chars().take(length - ends).collect();
    let kept = if cut_words { cut.as_str() } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(before, _)| before) };
    Ok(format!("{kept}{end}"))
}

/// Filter `wordwrap`, with its arguments in order: width, break_long_words, wrapstring, break_on_hyphens.
pub(super) fn wordwrap(value: &Value, given: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        given.get(at).cloned().map_or_else(|| options.get(name), |value| Ok(Some(value)))
    };
    let width = argument(0, "width")?.map_or(Ok(79), usize::try_from)?;
    let break_words = argument(1, "break_long_words")?.is_none_or(|value| value.is_true());
    let newline =
        argument(2, "wrapstring")?.filter(|value| !value.is_none()).map_or("\n".to_owned(), |value| printed(&value));
    let hyphens = argument(3, "break_on_hyphens")?.is_none_or(|value| value.is_true());
    options.assert_all_used()?;
    if width == 0 {
        return Err(invalid("wordwrap: the width must be above 0".to_owned()));
    }
    let text = printed(value);
    let wrapped = lines(&text, false).into_iter().map(|line| wrap(line, width, break_words, hyphens).join(&newline));
    Ok(wrapped.collect::<Vec<_>>().join(&newline))
}

/// Python's `textwrap.wrap` of one line.
fn wrap(line: &str, width: usize, break_words: bool, hyphens: bool) -> Vec<String> {
    let size = |text: &str| text.chars().count();
    let blank = |text: &str| text.chars().all(is_space);
    let mut chunks: Vec<String> = pieces(line, hyphens);
    chunks.reverse();
    let mut result: Vec<String> = Vec::new();
    while !chunks.is_empty() {
        let (mut current, mut length): (Vec<String>, usize) = (Vec::new(), 0);
        if !result.is_empty() && chunks.last().is_some_and(|chunk| blank(chunk)) {
            chunks.pop();
        }
        while let Some(chunk) = chunks.pop_if(|chunk| length + size(chunk) <= width) {
            length += size(&chunk);
            current.push(chunk);
        }
        if let Some(chunk) = chunks.last_mut().filter(|chunk| size(chunk) > width) {
            let room = width - length;
            if break_words && room > 0 {
                // A long word is cut behind its last hyphen that fits, or where the line ends.
                let cut: String = chunk.chars().take(room).collect();
                let at = cut.rfind('-').filter(|at| hyphens && *at > 0 && cut[..*at].contains(|c| c != '-'));
                let at = at.map_or(cut.len(), |at| at + 1);
                current.push(chunk[..at].to_owned());
                *chunk = chunk[at..].to_owned();
            } else if !break_words && current.is_empty() {
                current.extend(chunks.pop());
            }
        }
        if current.last().is_some_and(|chunk| blank(chunk)) {
            current.pop();
        }
        if !current.is_empty() {
            result.push(current.concat());
        }
    }
    result
}

/// Words and the white space between them, in order; words also end behind a hyphen between letters.
fn pieces(line: &str, hyphens: bool) -> Vec<String> {
    let white = |c: char| matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ');
    let letter = |c: Option<&char>| c.is_some_and(|c| (c.is_alphanumeric() || *c == '_') && !c.is_numeric());
    let characters: Vec<char> = line.chars().collect();
    let (mut pieces, mut current) = (Vec::new(), String::new());
    for (at, &c) in characters.iter().enumerate() {
        current.push(c);
        let before = |back: usize| at.checked_sub(back).and_then(|at| characters.get(at));
        let after = |on: usize| characters.get(at + on);
        let behind = letter(before(1)) && (letter(before(2)) || (before(2) == Some(&'-') && letter(before(3))));
        let ahead = letter(after(1)) && (letter(after(2)) || (after(2) == Some(&'-') && letter(after(3))));
        let ends = after(1).is_none_or(|next| white(*next) != white(c));
        if ends || (hyphens && c == '-' && behind && ahead) {
            pieces.push(std::mem::take(&mut current));
        }
    }
    pieces
}
