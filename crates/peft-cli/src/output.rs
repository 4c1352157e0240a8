//! Output: results on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::Write;

use indicatif::{DecimalBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Writes a line to stdout.
pub fn line(text: impl Display) -> Result {
    writeln!(std::io::stdout(), "{text}").map_err(Failure::stdout)
}

/// Writes text to stdout as it comes.
pub fn piece(text: &str) -> Result {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::stdout)
}

/// Writes the one JSON object of a command to stdout.
pub fn json(value: &impl Serialize) -> Result {
    let text = serde_json::to_string(value).map_err(|error| Failure::stdout(error.into()))?;
    line(text)
}

/// Says on stderr what is going on.
pub fn note(text: impl Display) {
    // Nobody reads it: no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says on stderr what the user should know.
pub fn warn(text: impl Display) {
    note(format_args!("warning: {text}"));
}

/// A bar on stderr over `total` rows; nothing where stderr is no terminal.
pub fn bar(total: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total as u64).with_message(what);
    match ProgressStyle::with_template("{msg} {bar:32.cyan/dim} {pos}/{len} · {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// This program as it was called, so that a line to type next works as it stands.
pub fn program() -> String {
    quoted(std::env::args().next().filter(|name| !name.is_empty()).as_deref().unwrap_or("peft"))
}

/// `text` as a POSIX shell reads it back.
pub fn quoted(text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A count in groups of three digits.
pub fn count(number: usize) -> HumanCount {
    HumanCount(number as u64)
}

/// Bytes in the unit that reads best.
pub fn bytes(number: usize) -> DecimalBytes {
    DecimalBytes(number as u64)
}

/// Paths in the order of their numbers: layer 2 before layer 10.
pub fn in_order<'a, T>(modules: impl IntoIterator<Item = (&'a String, T)>) -> Vec<(&'a str, T)> {
    let mut modules: Vec<_> = modules.into_iter().map(|(path, module)| (path.as_str(), module)).collect();
    let key = |path: &str| path.split('.').map(|part| (part.parse::<u64>().ok(), part.to_owned())).collect::<Vec<_>>();
    modules.sort_by_cached_key(|(path, _)| key(path));
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_two_comes_before_layer_ten() {
        let paths = ["layers.10.q", "layers.2.v", "head", "layers.2.q"].map(str::to_owned);
        let found: Vec<_> = in_order(paths.iter().zip(0..)).into_iter().map(|(path, _)| path).collect();
        assert_eq!(found, ["head", "layers.2.q", "layers.2.v", "layers.10.q"]);
    }

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        for (word, shown) in [("runs/a", "runs/a"), ("my run", "'my run'"), ("it's", r"'it'\''s'"), ("", "''")] {
            assert_eq!(quoted(word), shown);
        }
    }
}
