//! Data files of any format, as rows that are read when they are asked for.

mod decode;
mod json;
mod layout;
mod locate;
#[cfg(feature = "parquet")]
mod parquet;
mod spool;
mod strict;
mod table;

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::data::dataset::Dataset;
use serde_json::{Map, Value};

use self::layout::{Bytes, Layout};
pub use self::locate::{Part, locate};
pub(crate) use self::spool::Spool;
use crate::error::{DataFileProblem, LearnerError, Problems, Result};

/// A row as a file has it: its columns by name.
pub type RawRow = Map<String, Value>;

/// A data file. Its rows stay in the file: in memory is where they lie, 12 bytes each.
///
/// JSON Lines, a JSON list of objects (also one in an object, under `train`, `data`, `rows` or the like), CSV and TSV with a
/// header line (an empty cell and `NA`, `None`, `null` and the like are null, as in pandas), and Parquet (feature `parquet`); each of them also compressed by gzip or zstd, and text in UTF-8 or UTF-16,
/// with or without a byte-order mark. What is compressed, re-encoded or Parquet is unpacked into a temporary file first.
#[derive(Debug)]
pub struct DataFile {
    path: PathBuf,
    bytes: Bytes,
    layout: Layout,
    format: Format,
    left_out: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum Format {
    /// A JSON object a line.
    Lines,
    /// JSON objects that lie anywhere.
    Values,
    /// Cells of these columns.
    Table { header: Vec<String>, delimiter: u8 },
}

/// Rows of a block, and bytes that it may have.
const BLOCK_ROWS: usize = 1024;
const BLOCK_BYTES: u64 = 16 << 20;

impl DataFile {
    /// Finds the rows of the file at `path`. Of a JSON object with lists of rows in it, the one for `part` is taken.
    ///
    /// # Errors
    /// [`LearnerError::Io`]; [`LearnerError::DataFile`] for a format that is not read; [`LearnerError::NoRows`] for a file
    /// without a row.
    pub fn open(path: impl AsRef<Path>, part: Part) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let decode::Decoded { mut file, spool, skip, parquet } = decode::open(&path)?;
        let refuse =
            |message: String| LearnerError::DataFile { file: path.clone(), problem: DataFileProblem::Format, message };
        let unreadable = || LearnerError::io("read", &path);
        let whole = |file: &mut File| file.seek(SeekFrom::Start(skip)).map(|_| ());
        let end = name_end(&path);
        let (file, spool, layout, format, left_out) = if parquet {
            let (file, spool, layout, left_out) = parquet_lines(&path, file)?;
            (file, Some(spool), layout, Format::Values, left_out)
        } else if let Some(delimiter) = delimiter(&end) {
            whole(&mut file).map_err(unreadable())?;
            let (header, layout) = table::open(&file, skip, delimiter).map_err(refuse)?;
            (file, spool, layout, Format::Table { header, delimiter }, Vec::new())
        } else {
            whole(&mut file).map_err(unreadable())?;
            let lines = json::is_lines(&file, matches!(end.as_str(), "jsonl" | "ndjson")).map_err(unreadable())?;
            whole(&mut file).map_err(unreadable())?;
            if lines {
                let layout = json::lines(&file, skip).map_err(unreadable())?;
                (file, spool, layout, Format::Lines, Vec::new())
            } else {
                let layout = json::document(&file, skip, part.keys()).map_err(unreadable())?;
                let layout = layout.map_err(|problem| {
                    refuse(format!(
                        "{problem}; a data file is JSON Lines, a JSON list, CSV or TSV (.csv, .tsv) or Parquet, \
                         each also compressed (.gz, .zst)"
                    ))
                })?;
                whole(&mut file).map_err(unreadable())?;
                let alone = layout.len() == 1 && json::lines(&file, skip).map_err(unreadable())?.len() == 1;
                (file, spool, layout, if alone { Format::Lines } else { Format::Values }, Vec::new())
            }
        };
        if layout.len() == 0 {
            return Err(LearnerError::NoRows { file: path });
        }
        let file = Self { path, bytes: Bytes::new(file, spool), layout, format, left_out };
        match file.columns_in_a_row()? {
            Some(message) => {
                Err(LearnerError::DataFile { file: file.path, problem: DataFileProblem::Columns, message })
            }
            None => Ok(file),
        }
    }

    /// The error for a JSON file whose one row holds columns, as pandas writes them by default.
    fn columns_in_a_row(&self) -> Result<Option<String>> {
        if self.len() != 1 || !matches!(self.format, Format::Lines | Format::Values) {
            return Ok(None);
        }
        let Ok(row) = self.parse(0, &self.read(&(0..1))?) else { return Ok(None) };
        let numbered = |value: &Value| match value {
            Value::Object(cells) => !cells.is_empty() && cells.keys().all(|key| key.parse::<u64>().is_ok()),
            _ => false,
        };
        let texts = |value: &Value| {
            value.as_array().is_some_and(|cells| !cells.is_empty() && cells.iter().all(Value::is_string))
        };
        let by_number = row.keys().all(|key| key.parse::<u64>().is_ok()) && row.values().all(Value::is_object);
        let columns = !row.is_empty() && (row.values().all(numbered) || row.values().all(texts) || by_number);
        Ok(columns.then(|| {
            "it holds columns, or rows by their numbers, in the place of rows; write its rows: `df.to_json(FILE, orient=\"records\", lines=True)` of \
             pandas, `Dataset.from_dict(COLUMNS).to_json(FILE)` of datasets"
                .to_string()
        }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Columns that a Parquet file has and that cannot be read: their types have no place in JSON.
    pub fn unreadable_columns(&self) -> &[String] {
        &self.left_out
    }

    /// Where row `index` is, such as `line 3`, for messages.
    pub fn place(&self, index: usize) -> String {
        match self.format {
            Format::Lines => format!("line {}", self.layout.line(index)),
            Format::Values | Format::Table { .. } => format!("row {}", index + 1),
        }
    }

    /// The rows from `first` on that are read together.
    pub(crate) fn block(&self, first: usize) -> Range<usize> {
        self.layout.block(first, BLOCK_ROWS, BLOCK_BYTES)
    }

    /// The bytes of some rows, in one read.
    pub(crate) fn read(&self, rows: &Range<usize>) -> Result<Block> {
        if rows.is_empty() {
            return Ok(Block { start: 0, bytes: Vec::new() });
        }
        let range = self.layout.range(rows.start).start..self.layout.range(rows.end - 1).end;
        let start = range.start;
        let bytes = self.bytes.read(range).map_err(LearnerError::io("read", &self.path))?;
        Ok(Block { start, bytes })
    }

    /// Row `index`, which lies in `block`, or what is wrong with it.
    pub(crate) fn parse(&self, index: usize, block: &Block) -> Result<RawRow, String> {
        let range = self.layout.range(index);
        let bytes = &block.bytes[(range.start - block.start) as usize..(range.end - block.start) as usize];
        let text = bytes.trim_ascii();
        match &self.format {
            Format::Table { header, delimiter } => table::row(bytes, header, *delimiter),
            _ => match strict::parse(text)? {
                Value::Object(object) => Ok(object),
                _ => Err("not a JSON object".to_string()),
            },
        }
    }
}

/// Bytes of a file.
pub(crate) struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Dataset<RawRow, LearnerError> for DataFile {
    /// Row `index`.
    ///
    /// # Panics
    /// For `index >= len()`, as every `Dataset`.
    fn get(&self, index: usize) -> Result<RawRow> {
        let block = self.read(&(index..index + 1))?;
        self.parse(index, &block).map_err(|problem| {
            let mut problems = Problems::default();
            problems.push(format!("{}: {problem}", self.place(index)));
            LearnerError::Data { file: self.path.clone(), problems }
        })
    }

    fn len(&self) -> usize {
        self.layout.len()
    }
}

#[cfg(feature = "parquet")]
fn parquet_lines(path: &Path, file: File) -> Result<(File, Spool, Layout, Vec<String>)> {
    let (out, spool) = Spool::new()?;
    let (layout, left_out) = parquet::to_lines(file, &out).map_err(|error| LearnerError::DataFile {
        file: path.to_path_buf(),
        problem: DataFileProblem::Format,
        message: format!("it cannot be read as Parquet: {error}"),
    })?;
    Ok((out, spool, layout, left_out))
}

#[cfg(not(feature = "parquet"))]
fn parquet_lines(path: &Path, _file: File) -> Result<(File, Spool, Layout, Vec<String>)> {
    let message = "it is Parquet, and this build is without the feature `parquet`; build it with that, or write the rows \
                   as JSON Lines: `datasets.Dataset.from_parquet(FILE).to_json(\"rows.jsonl\")`";
    Err(LearnerError::DataFile {
        file: path.to_path_buf(),
        problem: DataFileProblem::Format,
        message: message.to_string(),
    })
}

/// The end of a file's name, in small letters, without that of a compression.
fn name_end(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = [".gz", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name).to_string();
    name.rsplit_once('.').map_or(String::new(), |(_, end)| end.to_string())
}

fn delimiter(end: &str) -> Option<u8> {
    match end {
        "csv" => Some(b','),
        "tsv" | "tab" => Some(b'\t'),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn open(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<Value>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let file = DataFile::open(&path, Part::Train)?;
        (0..file.len()).map(|at| file.get(at).map(Value::Object)).collect()
    }

    fn texts(rows: Result<Vec<Value>>) -> Vec<String> {
        rows.unwrap().iter().map(|row| row["text"].as_str().unwrap().to_string()).collect()
    }

    const LINES: &str = "{\"text\": \"größe\"}\n\n{\"text\": \"b\"}";

    #[test]
    fn every_format_gives_the_same_rows() {
        let expected = ["größe", "b"];
        let list = "[\n {\"text\": \"größe\"},\n {\"text\": \"b\"}\n]";
        for (name, text) in [
            ("a.jsonl", LINES.to_string()),
            ("a.jsonl", LINES.replace('\n', "\r\n")),
            ("a.json", LINES.to_string()),
            ("a.json", list.to_string()),
            ("a.jsonl", list.to_string()),
            ("a.json", format!("{{\"train\": {list}, \"test\": []}}")),
            ("a.json", format!("{{\"version\": \"1\", \"data\": {list}}}")),
            ("a", LINES.to_string()),
            ("a.csv", "text,other\ngröße,1\nb,2\n".to_string()),
            ("a.TSV", "text\tother\ngröße\t1\nb\t2\n".to_string()),
        ] {
            assert_eq!(texts(open(name, &text)), expected, "{name}: {text}");
            assert_eq!(texts(open(name, format!("\u{feff}{text}"))), expected, "with a byte-order mark: {text}");
            let utf16 = |swap: bool, mark: bool| -> Vec<u8> {
                let text = if mark { format!("\u{feff}{text}") } else { text.clone() };
                text.encode_utf16()
                    .flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() })
                    .collect()
            };
            for (swap, mark) in [(false, true), (true, true), (false, false), (true, false)] {
                assert_eq!(texts(open(name, utf16(swap, mark))), expected, "UTF-16, {swap}, {mark}: {text}");
            }
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(text.as_bytes()).unwrap();
            assert_eq!(texts(open(&format!("{name}.gz"), gzip.finish().unwrap())), expected);
            let zstd = zstd::stream::encode_all(text.as_bytes(), 1).unwrap();
            assert_eq!(texts(open(&format!("{name}.zst"), &zstd)), expected);
            let twice = zstd::stream::encode_all(utf16(false, true).as_slice(), 1).unwrap();
            assert_eq!(texts(open(&format!("{name}.zst"), &twice)), expected, "compressed UTF-16");
        }
    }

    #[test]
    fn lines_are_counted_through_gaps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "\u{feff}{\"text\": \"a\"}\r\n\r\n{\"text\":\n").unwrap();
        let file = DataFile::open(&path, Part::Train).unwrap();
        assert_eq!((file.place(0), file.place(1)), ("line 1".to_string(), "line 3".to_string()));
        let error = file.get(1).unwrap_err().to_string();
        assert!(error.contains("line 3: not JSON: it ends at column 8, inside a value"), "{error}");
    }

    #[test]
    fn one_row_in_one_line_is_called_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let place = |text: &str| {
            let path = folder.path().join("a.json");
            std::fs::write(&path, text).unwrap();
            DataFile::open(&path, Part::Train).unwrap().place(0)
        };
        assert_eq!((place("{\"text\": 1}"), place("{\n\"text\": 1}")), ("line 1".to_string(), "row 1".to_string()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |name: &str, bytes: &[u8]| open(name, bytes).unwrap_err().to_string();
        assert!(error("a.jsonl", b"\n\n").contains("has no rows"));
        assert!(error("a.jsonl", b"").contains("has no rows"));
        assert!(error("a.csv", b"text\n").contains("has no rows"));
        assert!(error("a.json", b"[{\"text\": \"a\"}").contains("cut short"));
        assert!(error("a.txt", b"once upon a time").contains("a data file is JSON Lines"));
        assert!(error("a.xlsx", b"PK\x03\x04....").contains("save the table as CSV"));
        assert!(error("a.arrow", b"ARROW1..").contains("to_parquet"));
        assert!(error("a.jsonl", b"{\"text\": \"gr\xf6\xdfe\"}").contains("line 1: not UTF-8 at column"));
        assert!(error("a.gz", b"\x1f\x8bnot really").contains("cannot read"));
        assert!(error("a.csv", b"text,b\n1,2\n1\n").contains("row 2: has 1 values for 2 columns"));
        let missing = DataFile::open("nowhere/rows.jsonl", Part::Train).unwrap_err().to_string();
        assert!(missing.starts_with("cannot open `nowhere/rows.jsonl`"), "{missing}");
    }

    #[test]
    fn a_part_is_taken_from_an_object() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, r#"{"train": [{"text": "a"}, {"text": "b"}], "validation": [{"text": "c"}]}"#).unwrap();
        assert_eq!(DataFile::open(&path, Part::Train).unwrap().len(), 2);
        let valid = DataFile::open(&path, Part::Valid).unwrap();
        assert_eq!((valid.len(), &valid.get(0).unwrap()["text"]), (1, &Value::from("c")));
    }
}
