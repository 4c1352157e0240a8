//! Takes the keys of a file apart and keeps everything that is wrong with them, so that one error can tell it all.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Object;
use super::keys::object;

/// Everything wrong with one file, over all its sections.
#[derive(Debug, Default)]
pub struct Reader {
    problems: Vec<String>,
    known: Vec<(String, String)>,
    unknown: Vec<(String, String)>,
}

impl Reader {
    /// A section that stands under `name`; `""` is the part above all sections.
    pub fn section(&mut self, name: impl Into<String>, keys: Object) -> Section<'_> {
        Section { name: name.into(), keys, asked: Vec::new(), reader: self }
    }

    /// Takes the section `name` out of `root`. A key of that name that holds no section is a problem.
    pub fn take_section(&mut self, root: &mut Object, name: &str) -> Section<'_> {
        let keys = match root.shift_remove(name) {
            Some(Value::Object(keys)) => keys,
            None => Object::new(),
            Some(other) => {
                self.problem(format!("`{name}` is a section, `[{name}]`, not {}", kind(&other)));
                Object::new()
            }
        };
        self.section(name, keys)
    }

    /// Adds a problem.
    pub fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Keys that no section was asked for, by their paths.
    pub fn unknown(&self) -> impl Iterator<Item = String> {
        self.unknown.iter().map(|(section, key)| path(section, key))
    }

    /// Everything wrong, unknown keys left out.
    pub fn problems(self) -> Vec<String> {
        self.problems
    }

    /// Everything wrong, unknown keys first: each with the section it belongs into, or the nearest known key.
    pub fn problems_and_unknown(self) -> Vec<String> {
        let Self { problems, known, unknown } = self;
        let hint = |section: &str, key: &str| {
            let elsewhere = known.iter().find(|(other, known)| known == key && other != section);
            let here = known.iter().filter(|(other, _)| other == section).map(|(_, known)| known.as_str());
            match (elsewhere, nearest(here, key)) {
                (Some((other, _)), _) if other.is_empty() => "; it stands above all sections".to_owned(),
                (Some((other, _)), _) => format!("; it belongs into [{other}]"),
                (None, Some((_, nearest))) => format!("; the nearest known key is `{nearest}`"),
                (None, None) => String::new(),
            }
        };
        let unknown = unknown.iter().map(|(at, key)| format!("unknown key `{}`{}", path(at, key), hint(at, key)));
        unknown.chain(problems).collect()
    }
}

/// One object of a file. A getter notes what is wrong and reading goes on; a key that nobody asked for is unknown when
/// the section is [finished](Self::finish).
#[derive(Debug)]
pub struct Section<'r> {
    name: String,
    keys: Object,
    asked: Vec<String>,
    reader: &'r mut Reader,
}

impl Section<'_> {
    /// The path of `key` from the top of the file.
    pub fn path(&self, key: &str) -> String {
        path(&self.name, key)
    }

    /// Whether `key` is there.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// The value of `key`, unchecked.
    pub fn raw(&mut self, key: &str) -> Option<Value> {
        self.knows([key]);
        self.keys.get(key).cloned()
    }

    /// The value of `key`, where it is there and of the right type; null counts as absent.
    pub fn get<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.raw(key).filter(|value| !value.is_null())?;
        self.parse(key, value)
    }

    /// `value`, which `key` holds, as a `T`.
    pub fn parse<T: DeserializeOwned>(&mut self, key: &str, value: Value) -> Option<T> {
        let parsed = serde_json::from_value(value);
        parsed.map_err(|error| self.problem(format!("`{}`: {error}", self.path(key)))).ok()
    }

    /// The value of `key`, or its default.
    pub fn or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// A path or name that may be absent, but not empty.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let text: Option<String> = self.get(key);
        if text.as_deref() == Some("") {
            self.problem(format!("`{}` is empty", self.path(key)));
        }
        text
    }

    /// A path or name that must be there.
    pub fn required(&mut self, key: &str) -> String {
        if !self.has(key) {
            self.problem(format!("`{}` is missing", self.path(key)));
        }
        self.text(key).unwrap_or_default()
    }

    /// A whole struct whose fields are called as the keys, over its defaults. A value of the wrong kind is a problem and
    /// leaves the default.
    pub fn over<T: Default + Serialize + DeserializeOwned>(&mut self) -> T {
        let defaults = object(&T::default());
        let mut merged = defaults.clone();
        for key in defaults.keys() {
            let Some(value) = self.raw(key) else { continue };
            // Alone among defaults: whatever serde then objects to is this key's fault.
            let mut alone = defaults.clone();
            alone.insert(key.clone(), value.clone());
            match serde_json::from_value::<T>(Value::Object(alone)) {
                Ok(_) => _ = merged.insert(key.clone(), value),
                Err(error) => self.problem(format!("{} = {value}: {error}", self.path(key))),
            }
        }
        serde_json::from_value(Value::Object(merged)).unwrap_or_default()
    }

    /// An object within this one, which stands under `key`.
    pub fn inner(&mut self, key: &str, keys: Object) -> Section<'_> {
        let name = self.path(key);
        self.reader.section(name, keys)
    }

    /// Names keys that may stand here, though nobody asks for them.
    pub fn knows<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>) {
        for key in keys {
            if !self.asked.iter().any(|asked| asked == key) {
                self.asked.push(key.to_owned());
            }
        }
    }

    /// The keys that nobody asked for, unchecked; they are known from then on.
    pub fn rest(&mut self) -> Object {
        let Self { keys, asked, .. } = self;
        let rest: Object =
            keys.iter().filter(|(key, _)| !asked.contains(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        self.knows(rest.keys().map(String::as_str));
        rest
    }

    /// Adds a problem with this section, unless it is there already.
    pub fn problem(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        if !self.reader.problems.contains(&problem) {
            self.reader.problems.push(problem);
        }
    }

    /// Whether nothing is wrong so far, in this section and those before it.
    pub fn is_fine(&self) -> bool {
        self.reader.problems.is_empty()
    }

    /// Ends the section: a key that nobody asked for is unknown.
    pub fn finish(self) {
        let Self { name, keys, asked, reader } = self;
        let unknown = keys.keys().filter(|key| !asked.contains(key));
        reader.unknown.extend(unknown.map(|key| (name.clone(), key.clone())));
        reader.known.extend(asked.into_iter().map(|key| (name.clone(), key)));
    }
}

fn path(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section",
    }
}

/// The name of `known` that `key` is most like, and how alike they are, from 0 to 1.
pub(crate) fn nearest<'k>(known: impl Iterator<Item = &'k str>, key: &str) -> Option<(f64, &'k str)> {
    let key = key.to_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&key, &name.to_lowercase());
    known.map(|name| (likeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn reading_goes_on_after_a_problem_and_names_keys_by_their_paths() {
        let mut root = object(r#"{"model": {"path": "", "size": "big", "rate": 2}, "data": 3, "seed": null}"#);
        let mut reader = Reader::default();
        let mut model = reader.take_section(&mut root, "model");
        assert_eq!((model.get::<usize>("size"), model.or("rate", 1)), (None, 2));
        assert_eq!((model.required("path"), model.required("name")), (String::new(), String::new()));
        model.finish();
        reader.take_section(&mut root, "data").finish();
        let mut top = reader.section("", root);
        assert_eq!(top.or("seed", 7), 7, "null is absent");
        top.finish();
        let problems = reader.problems_and_unknown();
        assert_eq!(
            problems,
            [
                "`model.size`: invalid type: string \"big\", expected usize",
                "`model.path` is empty",
                "`model.name` is missing",
                "`data` is a section, `[data]`, not a number",
            ]
        );
    }

    #[test]
    fn an_unknown_key_comes_with_where_it_belongs() {
        let mut root = object(r#"{"a": {"rat": 1, "seed": 2, "size": 3}, "b": {"size": 4}}"#);
        let mut reader = Reader::default();
        for (name, key) in [("a", "rate"), ("b", "size")] {
            let mut section = reader.take_section(&mut root, name);
            section.knows([key]);
            section.finish();
        }
        let mut top = reader.section("", root);
        top.knows(["seed"]);
        top.finish();
        assert_eq!(reader.unknown().collect::<Vec<_>>(), ["a.rat", "a.seed", "a.size"]);
        assert_eq!(
            reader.problems_and_unknown(),
            [
                "unknown key `a.rat`; the nearest known key is `rate`",
                "unknown key `a.seed`; it stands above all sections",
                "unknown key `a.size`; it belongs into [b]",
            ]
        );
    }

    #[test]
    fn what_is_left_is_given_up_unchecked() {
        let mut reader = Reader::default();
        let mut section = reader.section("adapter", object(r#"{"from": "x", "r": 4}"#));
        assert_eq!(section.text("from").as_deref(), Some("x"));
        assert_eq!(section.rest(), object(r#"{"r": 4}"#));
        section.finish();
        assert!(reader.problems_and_unknown().is_empty());
    }
}
