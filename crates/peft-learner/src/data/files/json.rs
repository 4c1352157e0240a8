//! Where the rows of JSON files lie: JSON Lines, an array, an object with an array in it, objects one after the other.

use std::io::{self, BufRead, BufReader, Read};

use super::layout::Layout;

const BUFFER: usize = 1 << 18;
/// A longer first line is not looked at whole.
const FIRST_LINE: u64 = 64 << 20;

/// One row a line from byte `at` on; empty lines are passed over.
pub(super) fn lines(text: impl Read, mut at: u64) -> io::Result<Layout> {
    let mut reader = BufReader::with_capacity(BUFFER, text);
    let (mut layout, mut line) = (Layout::default(), Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            return Ok(layout);
        }
        if line.trim_ascii().is_empty() {
            layout.gap();
        } else if !layout.push(at, at + length) {
            return Err(io::Error::other(format!("line {} is longer than 4 GiB", layout.line(layout.len()))));
        }
        at += length;
    }
}

/// Whether a text is JSON Lines rather than one document. `named` says that its name ends so.
pub(super) fn is_lines(text: impl Read, named: bool) -> io::Result<bool> {
    let mut reader = BufReader::with_capacity(BUFFER, text.take(FIRST_LINE));
    let mut line = Vec::new();
    while line.trim_ascii().is_empty() {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(true);
        }
    }
    let line = line.trim_ascii();
    if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok() {
        // One object alone may hold the rows.
        let mut rest = Vec::new();
        while reader.read_until(b'\n', &mut rest)? > 0 && rest.trim_ascii().is_empty() {
            rest.clear();
        }
        return Ok(!rest.is_empty());
    }
    Ok(named && line != b"{" && !line.starts_with(b"["))
}

/// The rows of a JSON document from byte `at` on. Of an object those are the items of the first of `wrappers` that is a
/// list in it; without any the object is a row itself.
///
/// The rows themselves are not parsed: whether one is JSON shows when it is read.
pub(super) fn document(text: impl Read, at: u64, wrappers: &[&str]) -> io::Result<Result<Layout, String>> {
    let mut reader = BufReader::with_capacity(BUFFER, text);
    let mut scan = Scan { at, wrapped: vec![None; wrappers.len()], ..Scan::default() };
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Ok(scan.finish());
        }
        for &byte in block {
            if let Err(problem) = scan.push(byte, wrappers) {
                return Ok(Err(problem));
            }
            scan.at += 1;
        }
        let length = block.len();
        reader.consume(length);
    }
}

/// A walk over a document.
#[derive(Default)]
struct Scan {
    at: u64,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The bracket of the outermost value, and where it stands.
    root: Option<(u8, u64)>,
    /// Where the present row begins.
    row: Option<u64>,
    /// Rows of an outermost list.
    items: Option<Layout>,
    /// Outermost objects.
    objects: Layout,
    /// The key that was last read in an outermost object, and whether one is being read.
    key: Vec<u8>,
    in_key: bool,
    expects_key: bool,
    /// Rows of the wrappers, and which one this is in.
    wrapped: Vec<Option<Layout>>,
    wrapper: Option<usize>,
}

impl Scan {
    /// The list whose items are rows, where `depth` is inside one.
    fn list(&mut self) -> Option<&mut Layout> {
        match (self.root?, self.depth, self.wrapper) {
            ((b'[', _), 1, _) => self.items.as_mut(),
            ((b'{', _), 2, Some(wrapper)) => self.wrapped[wrapper].as_mut(),
            _ => None,
        }
    }

    fn begin_row(&mut self) {
        if self.row.is_none() && self.list().is_some() {
            self.row = Some(self.at);
        }
    }

    fn end_row(&mut self) -> Result<(), String> {
        let at = self.at;
        if self.list().is_some()
            && let Some(start) = self.row.take()
            && !self.list().is_some_and(|list| list.push(start, at))
        {
            return Err("a row is longer than 4 GiB".to_string());
        }
        Ok(())
    }

    fn push(&mut self, byte: u8, wrappers: &[&str]) -> Result<(), String> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => (self.in_string, self.in_key) = (false, false),
                _ if self.in_key => self.key.push(byte),
                _ => {}
            }
            return Ok(());
        }
        let in_object = self.depth == 1 && self.root.is_some_and(|(bracket, _)| bracket == b'{');
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' | b'[' => {
                if self.depth == 0 {
                    self.root = Some((byte, self.at));
                    self.expects_key = true;
                    if byte == b'[' {
                        self.items.get_or_insert_default();
                    }
                } else {
                    self.begin_row();
                    if in_object && byte == b'[' {
                        self.wrapper = wrappers.iter().position(|name| name.as_bytes() == self.key);
                        if let Some(wrapper) = self.wrapper {
                            self.wrapped[wrapper].get_or_insert_default();
                        }
                    }
                }
                self.depth += 1;
            }
            b'}' | b']' => {
                self.end_row()?;
                self.depth = self.depth.checked_sub(1).ok_or_else(|| self.surprise(byte))?;
                if self.depth == 1 {
                    self.wrapper = None;
                }
                if let (0, Some((b'{', start))) = (self.depth, self.root)
                    && !self.objects.push(start, self.at + 1)
                    && self.wrapped.iter().all(Option::is_none)
                {
                    return Err("an object is longer than 4 GiB".to_string());
                }
            }
            _ if self.depth == 0 => return Err(self.surprise(byte)),
            b',' => {
                self.end_row()?;
                self.expects_key |= in_object;
            }
            b':' => self.expects_key &= !in_object,
            b'"' => {
                self.begin_row();
                self.in_string = true;
                if in_object && self.expects_key {
                    self.key.clear();
                    self.in_key = true;
                }
            }
            _ => self.begin_row(),
        }
        Ok(())
    }

    fn surprise(&self, byte: u8) -> String {
        format!("`{}` at byte {} is no beginning of a JSON object or list", byte.escape_ascii(), self.at)
    }

    fn finish(mut self) -> Result<Layout, String> {
        if self.depth > 0 || self.in_string {
            return Err("it ends inside a JSON value; it may have been cut short".to_string());
        }
        if let Some(items) = self.items {
            return Ok(items);
        }
        if self.objects.len() <= 1
            && let Some(rows) = self.wrapped.iter_mut().find_map(Option::take)
        {
            return Ok(rows);
        }
        Ok(self.objects)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rows(text: &str, wrappers: &[&str]) -> Vec<String> {
        let layout = document(text.as_bytes(), 0, wrappers).unwrap().unwrap();
        let row = |at| text[layout.range(at).start as usize..layout.range(at).end as usize].trim().to_string();
        (0..layout.len()).map(row).collect()
    }

    #[test]
    fn rows_of_a_document_are_found() {
        let pretty = "[\n  {\"a\": \"]}\\\"\"},\n  {\n \"b\": [1, {\"c\": 2}] }\n]\n";
        assert_eq!(rows(pretty, &[]), ["{\"a\": \"]}\\\"\"}", "{\n \"b\": [1, {\"c\": 2}] }"]);
        assert_eq!(rows("{\"a\": 1}{\"b\": 2}\n{\n}", &[]), ["{\"a\": 1}", "{\"b\": 2}", "{\n}"]);
        assert_eq!(rows("[1, \"x\", [2], {}]", &[]), ["1", "\"x\"", "[2]", "{}"]);
        assert!(rows("[]", &[]).is_empty());
    }

    #[test]
    fn a_wrapper_is_told_from_a_row() {
        let text = r#"{"version": [1], "train": [{"a": {"train": [5]}}, {"b": 1}], "data": [{"c": 1}]}"#;
        assert_eq!(rows(text, &["train", "data"]), [r#"{"a": {"train": [5]}}"#, r#"{"b": 1}"#]);
        assert_eq!(rows(text, &["data"]), [r#"{"c": 1}"#]);
        assert_eq!(rows(text, &["rows"]).len(), 1, "a row itself");
        let list = r#"[{"train": [1, 2]}]"#;
        assert_eq!(rows(list, &["train"]), [r#"{"train": [1, 2]}"#]);
    }

    #[test]
    fn what_is_no_document_is_said() {
        let problem = |text: &str| document(text.as_bytes(), 0, &[]).unwrap().unwrap_err();
        assert!(problem("[{\"a\": 1}").contains("cut short"));
        assert!(problem("text").contains("`t` at byte 0"));
        assert!(problem("[1]]").contains("`]` at byte 3"));
    }

    #[test]
    fn lines_are_told_from_documents() {
        let is_lines = |text: &str, named| is_lines(text.as_bytes(), named).unwrap();
        assert!(is_lines("\n{\"a\": 1}\n{\"a\"", false));
        assert!(!is_lines("{\"a\": 1}\n\n", true), "one object alone may hold the rows");
        assert!(!is_lines("{\n\"a\": 1}\n", true) && !is_lines("[{\"a\": 1},\n{}]", true));
        assert!(is_lines("{\"a\": \n", true) && !is_lines("{\"a\": \n", false));
    }
}
