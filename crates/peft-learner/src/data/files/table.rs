//! Rows of CSV and TSV files. Every value is a string, or null.

use std::io::{BufReader, Read};

use csv::{ByteRecord, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::layout::Layout;

fn reader<R: Read>(text: R, delimiter: u8) -> csv::Reader<R> {
    ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text)
}

/// The names of the columns, and where the rows lie; the text begins at byte `at` of its file.
pub(super) fn open(text: impl Read, at: u64, delimiter: u8) -> Result<(Vec<String>, Layout), String> {
    let mut reader = reader(BufReader::with_capacity(1 << 18, text), delimiter);
    let (mut record, mut layout) = (ByteRecord::new(), Layout::default());
    let mut read =
        |record: &mut ByteRecord| reader.read_byte_record(record).map(|more| (more, reader.position().byte()));
    let (_, mut start) = read(&mut record).map_err(|error| error.to_string())?;
    let header =
        StringRecord::from_byte_record(record.clone()).map_err(|_| "its first line is not UTF-8".to_string())?;
    let header: Vec<String> = header.iter().map(|name| name.trim().to_string()).collect();
    if let Some(name) = header.iter().enumerate().find(|(i, name)| header[..*i].contains(name)).map(|(_, name)| name) {
        return Err(format!("two columns are named `{name}`"));
    }
    loop {
        let (more, end) = read(&mut record).map_err(|error| error.to_string())?;
        if !more {
            return Ok((header, layout));
        }
        if !layout.push(at + start, at + end) {
            return Err(format!("row {} is longer than 4 GiB", layout.len() + 1));
        }
        start = end;
    }
}

/// Contents of cells that count as empty: pandas' `STR_NA_VALUES`, as `datasets` reads it. Quotes round it change nothing.
const NOTHING: &[&str] = &[
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
];

fn value(cell: &str) -> Value {
    if NOTHING.contains(&cell) { Value::Null } else { cell.into() }
}

/// A row from its bytes.
pub(super) fn row(bytes: &[u8], header: &[String], delimiter: u8) -> Result<Map<String, Value>, String> {
    let mut record = StringRecord::new();
    match reader(bytes, delimiter).read_record(&mut record) {
        Ok(_) if record.len() == header.len() => Ok(header.iter().cloned().zip(record.iter().map(value)).collect()),
        Ok(_) => Err(format!("has {} values for {} columns", record.len(), header.len())),
        Err(error) => Err(match error.kind() {
            csv::ErrorKind::Utf8 { .. } => "is not UTF-8; save the file as UTF-8".to_string(),
            _ => error.to_string(),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quoted_cells_may_hold_anything() {
        let text = "prompt,completion\r\n\"a, \"\"b\"\"\nc\",d\r\n\r\ne,\n";
        let (header, layout) = open(text.as_bytes(), 0, b',').unwrap();
        assert_eq!((header.as_slice(), layout.len()), (&["prompt".to_string(), "completion".to_string()][..], 2));
        let read = |at: usize| {
            let range = layout.range(at);
            row(&text.as_bytes()[range.start as usize..range.end as usize], &header, b',').unwrap()
        };
        assert_eq!(read(0)["prompt"], "a, \"b\"\nc");
        assert_eq!(
            (&read(0)["completion"], &read(1)["prompt"], &read(1)["completion"]),
            (&"d".into(), &"e".into(), &Value::Null)
        );
    }

    #[test]
    fn what_is_no_table_is_said() {
        assert!(open("a,b,a\n".as_bytes(), 0, b',').unwrap_err().contains("two columns are named `a`"));
        let header = ["a".to_string(), "b".to_string()];
        assert!(row(b"1\t2\t3\n", &header, b'\t').unwrap_err().contains("3 values for 2 columns"));
        assert!(row(b"\xff\t2\n", &header, b'\t').unwrap_err().contains("save the file as UTF-8"));
    }
}
