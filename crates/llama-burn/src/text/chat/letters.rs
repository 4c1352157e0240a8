//! Upper and lower case, lines and widths of text, as Python has them.

/// `str.title()`: the first letter of each run of letters in upper case.
pub(super) fn title(text: &str) -> String {
    let mut inside = false;
    text.chars()
        .flat_map(|c| if std::mem::replace(&mut inside, c.is_alphabetic()) { lower(c) } else { upper(c) })
        .collect()
}

/// `str.capitalize()`.
pub(super) fn capitalized(text: &str) -> String {
    text.chars().enumerate().flat_map(|(at, c)| if at == 0 { upper(c) } else { lower(c) }).collect()
}

pub(super) fn upper(c: char) -> Vec<char> {
    // The one title case letters that is not its upper case, as `ß` gives `Ss`.
    if c == 'ß' { vec!['S', 's'] } else { c.to_uppercase().collect() }
}

pub(super) fn lower(c: char) -> Vec<char> {
    c.to_lowercase().collect()
}

/// `text` with so many `fill`s on its left and right.
pub(super) fn padded(text: &str, fill: char, left: usize, right: usize) -> String {
    let run = |count: usize| std::iter::repeat_n(fill, count);
    run(left).chain(text.chars()).chain(run(right)).collect()
}

/// The lines of `text`, at every character that Python ends a line with.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ends) {
        let length =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if keep_ends { at + length } else { at }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}
