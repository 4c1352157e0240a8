//! `'...' % value` of Python's texts: an operator that minijinja knows of numbers alone.

use super::percent::PERCENT;

/// How deep formats stand in the values of formats.
const DEEPEST: usize = 20;

/// A tag's source in which every `%` behind a quoted text has become the filter [`PERCENT`] with what stands behind it.
pub(super) fn formatting(tag: &str) -> String {
    formatting_at(tag, 0)
}

fn formatting_at(tag: &str, depth: usize) -> String {
    if depth == DEEPEST {
        return tag.to_owned();
    }
    let mut result = String::with_capacity(tag.len());
    let mut rest = tag;
    while let Some(start) = rest.find(['\'', '"']) {
        let end = start + quoted(&rest[start..]);
        result.push_str(&rest[..end]);
        rest = &rest[end..];
        let behind = rest.trim_start();
        if let Some(operand) = behind.strip_prefix('%').filter(|behind| !behind.starts_with('}')) {
            let operand = operand.trim_start();
            let length = operand_length(operand);
            result.push_str(&format!(" | {PERCENT}({})", formatting_at(&operand[..length], depth + 1)));
            rest = &operand[length..];
        }
    }
    result + rest
}

/// The length of the tag that `text` begins with, up to its `close`: one in a quoted text or in brackets does not count, unless
/// there is no other.
pub(super) fn tag_length(text: &str, close: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 2);
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        if depth == 0 && text[at..].starts_with(close) {
            return Some(at);
        }
        at += match c {
            '\'' | '"' => quoted(&text[at..]),
            c => c.len_utf8(),
        };
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text.find(close)
}

/// The length of the quoted text that `text` begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    let quote = text.chars().next();
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if Some(c) == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the name, text, number, list or brackets that `text` begins with, and of all that is asked of it: attributes, items,
/// calls and filters.
fn operand_length(text: &str) -> usize {
    let mut at = primary(text);
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        let blank = rest.len() - trimmed.len();
        at += match trimmed.chars().next() {
            Some('.') => blank + 1 + primary(&trimmed[1..]),
            Some('[' | '(') => blank + primary(trimmed),
            Some('|') => {
                let name = trimmed[1..].trim_start();
                blank + (trimmed.len() - name.len()) + primary(name)
            }
            _ => return at,
        };
    }
}

fn primary(text: &str) -> usize {
    match text.chars().next() {
        Some('\'' | '"') => quoted(text),
        Some('(' | '[' | '{') => bracketed(text),
        Some('-' | '+') => {
            let signs = text.len() - text.trim_start_matches(['-', '+']).len();
            signs + text[signs..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len() - signs)
        }
        _ => text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len()),
    }
}

/// The length of the brackets that `text` begins with.
fn bracketed(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '\'' | '"' => {
                at += quoted(&text[at..]);
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::{formatting, tag_length};

    #[test]
    fn tags_end_behind_their_texts_and_brackets() {
        for (text, close, expected) in [
            ("{{ 'a}}b' }} c", "}}", Some("{{ 'a}}b' ")),
            ("{{ {'a': {'b': 1}}}}", "}}", Some("{{ {'a': {'b': 1}}")),
            ("{% if \"%}\" %}", "%}", Some("{% if \"%}\" ")),
            ("{{ it's }} b", "}}", Some("{{ it's ")),
            ("{{ a", "}}", None),
        ] {
            assert_eq!(tag_length(text, close).map(|end| &text[..end]), expected, "{text}");
        }
    }

    #[test]
    fn deep_formats_end_somewhere() {
        let deep = "{{ ".to_owned() + &"'%s' % ('%s', ".repeat(5_000) + &"-".repeat(5_000);
        assert!(formatting(&deep).starts_with("{{ '%s' | __percent(('%s'"));
    }

    #[test]
    fn texts_are_formatted_and_numbers_are_not() {
        for (source, expected) in [
            ("{{ 'a%' % x.y[0] | upper ~ 'b' ", "{{ 'a%' | __percent(x.y[0] | upper) ~ 'b' "),
            ("{{ \"%s\" % ('a)', f(1)) + 7 % 2 ", "{{ \"%s\" | __percent(('a)', f(1))) + 7 % 2 "),
            ("{% set a = 'x' ", "{% set a = 'x' "),
            ("{{ '%s' % '%d' % 3 ", "{{ '%s' | __percent('%d') % 3 "),
            ("{{ 'unclosed % x", "{{ 'unclosed % x"),
            ("{{ '%s' % ", "{{ '%s' | __percent()"),
        ] {
            assert_eq!(formatting(source), expected);
        }
    }
}
