//! Takes a configuration apart key by key and remembers everything that is wrong with it.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::Problems;

/// What was asked for and what was found, over all sections of one file.
#[derive(Default)]
pub(super) struct Reader {
    known: Vec<(&'static str, &'static str)>,
    unknown: Vec<(&'static str, String)>,
    /// Everything wrong so far, unknown keys excepted.
    pub problems: Problems,
}

impl Reader {
    /// Takes `[name]` out of `root`; `""` is the part above all sections.
    pub fn section<'r>(&'r mut self, root: &mut Table, name: &'static str) -> Section<'r> {
        let table = match (name, root.remove(name)) {
            ("", _) => std::mem::take(root),
            (_, Some(Value::Table(table))) => table,
            (_, None) => Table::new(),
            (_, Some(other)) => {
                self.problems.push(format!("`{name}` is a section, `[{name}]`, not {}", other.type_str()));
                Table::new()
            }
        };
        Section { name, table, reader: self }
    }

    /// The list of everything wrong, unknown keys first, each with the nearest known key.
    pub fn finish(self) -> Problems {
        let mut problems = Problems::default();
        for (section, key) in &self.unknown {
            let elsewhere = self.known.iter().find(|(other, known)| known == key && other != section);
            let nearest = self
                .known
                .iter()
                .filter(|(other, _)| other == section)
                .max_by(|(_, a), (_, b)| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
            let hint = match (elsewhere, nearest) {
                (Some(("", _)), _) => "; it stands above all sections".to_string(),
                (Some((other, _)), _) => format!("; it belongs into [{other}]"),
                (None, Some((_, nearest))) => format!("; the nearest known key is `{nearest}`"),
                (None, None) => String::new(),
            };
            problems.push(format!("unknown key `{}`{hint}", path(section, key)));
        }
        problems.extend(self.problems);
        problems
    }
}

fn path(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_string() } else { format!("{section}.{key}") }
}

/// One section being read. What is left in it after [`Section::finish`] was unknown.
pub(super) struct Section<'r> {
    name: &'static str,
    table: Table,
    reader: &'r mut Reader,
}

impl Section<'_> {
    /// The value of `key`, if it is there and of the right type.
    pub fn get<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.reader.known.push((self.name, key));
        match self.table.remove(key)?.try_into() {
            Ok(value) => Some(value),
            Err(error) => {
                let message = error.to_string();
                self.reader.problems.push(format!("`{}`: {}", path(self.name, key), message.trim_end()));
                None
            }
        }
    }

    /// The value of `key`, or its default.
    pub fn or<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// A path or name that may be absent, but not empty.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        let text: Option<String> = self.get(key);
        if text.as_deref() == Some("") {
            self.reader.problems.push(format!("`{}` is empty", path(self.name, key)));
        }
        text
    }

    /// Whether `key` is there.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A path or name that must be there.
    pub fn required(&mut self, key: &'static str) -> String {
        if !self.table.contains_key(key) {
            self.reader.problems.push(format!("`{}` is missing", path(self.name, key)));
        }
        self.text(key).unwrap_or_default()
    }

    /// Names the sections that may stand beside the keys.
    pub fn knows(&mut self, keys: &[&'static str]) {
        self.reader.known.extend(keys.iter().map(|&key| (self.name, key)));
    }

    /// Gives the remaining keys up as they are, unchecked.
    pub fn rest(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    /// Adds a problem with this section.
    pub fn problem(&mut self, problem: impl Into<String>) {
        self.reader.problems.push(problem);
    }

    /// Ends the section: what was not asked for is unknown.
    pub fn finish(self) {
        self.reader.unknown.extend(self.table.into_iter().map(|(key, _)| (self.name, key)));
    }
}
