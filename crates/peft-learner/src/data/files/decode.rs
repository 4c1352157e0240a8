//! Compression and encoding: any file as one of UTF-8.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use encoding_rs::{CoderResult, Encoding, UTF_16BE, UTF_16LE};

use super::spool::Spool;
use crate::error::{DataFileProblem, LearnerError, Result};

/// Layers of compression and encoding that are taken off: a text in UTF-16, compressed twice.
const LAYERS: usize = 3;
/// How a file begins.
const HEAD: usize = 64;
const BUFFER: usize = 1 << 18;
/// Formats that are not read, by their first bytes, and what to do.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"ARROW1", "an Arrow file; write it as Parquet: `datasets.load_from_disk(DIR).to_parquet(\"rows.parquet\")`"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream; write it as Parquet: `datasets.load_from_disk(DIR).to_parquet(\"rows.parquet\")`",
    ),
    (b"\xff\xfe\x00\x00", "in UTF-32; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "in UTF-32; save it as UTF-8"),
    (b"PK\x03\x04", "a zip archive or spreadsheet; unpack it, or save the table as CSV"),
    (b"BZh", "compressed by bzip2; unpack it (bunzip2), or compress it by gzip or zstd"),
    (b"\xfd7zXZ", "compressed by xz; unpack it (unxz), or compress it by gzip or zstd"),
    (b"SQLite format 3", "an SQLite data base; write its rows as JSON Lines or CSV"),
];

/// The file that holds the decoded text: the data file itself, or a copy.
pub(super) struct Decoded {
    pub file: File,
    pub spool: Option<Spool>,
    /// Bytes of a byte-order mark before the text.
    pub skip: u64,
    pub parquet: bool,
}

/// Opens `path`: as it is where it is UTF-8 (or Parquet), otherwise unpacked and re-encoded into a temporary file.
pub(super) fn open(path: &Path) -> Result<Decoded> {
    let mut file = File::open(path).map_err(LearnerError::io("open", path))?;
    let mut spool = None;
    let refuse =
        |message| LearnerError::DataFile { file: path.to_path_buf(), problem: DataFileProblem::Format, message };
    for layer in 0.. {
        let head = head(&mut file).map_err(LearnerError::io("read", path))?;
        let unreadable = LearnerError::io("read", path);
        if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(refuse(format!("it is {what}")));
        }
        if layer > LAYERS {
            break;
        }
        let decoded = if head.starts_with(b"\x1f\x8b") {
            spooled(|out| io::copy(&mut flate2::read::MultiGzDecoder::new(BufReader::new(&file)), out), unreadable)?
        } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
            spooled(|out| io::copy(&mut zstd::stream::read::Decoder::new(&file)?, out), unreadable)?
        } else if let Some(encoding) = utf16(&head) {
            spooled(|out| transcode(&mut file, encoding, out), unreadable)?
        } else {
            let skip = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            return Ok(Decoded { file, spool, skip, parquet: head.starts_with(b"PAR1") });
        };
        file = decoded.0;
        spool = Some(decoded.1);
    }
    let message = "it is compressed several times over; unpack it".to_string();
    Err(refuse(message))
}

fn head(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.rewind()?;
    Read::by_ref(file).take(HEAD as u64).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head)
}

/// By its byte-order mark, or because text that begins with a character of ASCII has every other byte 0.
fn utf16(head: &[u8]) -> Option<&'static Encoding> {
    match head {
        [0xff, 0xfe, ..] => Some(UTF_16LE),
        [0xfe, 0xff, ..] => Some(UTF_16BE),
        [1..=127, 0, 1..=255, 0, ..] => Some(UTF_16LE),
        [0, 1..=127, 0, 1..=255, ..] => Some(UTF_16BE),
        _ => None,
    }
}

fn spooled(
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<u64>,
    unreadable: impl FnOnce(io::Error) -> LearnerError,
) -> Result<(File, Spool)> {
    let (file, spool) = Spool::new()?;
    let mut out = BufWriter::with_capacity(BUFFER, &file);
    let written = write(&mut out).and_then(|_| out.flush());
    drop(out);
    match written {
        Ok(()) => Ok((file, spool)),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(LearnerError::io("write", spool.path())(error)),
        Err(error) => Err(unreadable(error)),
    }
}

fn transcode(file: &mut File, encoding: &'static Encoding, out: &mut impl Write) -> io::Result<u64> {
    let mut decoder = encoding.new_decoder_with_bom_removal();
    let (mut input, mut text) = (vec![0; BUFFER], vec![0; 2 * BUFFER]);
    let mut total = 0;
    loop {
        let length = file.read(&mut input)?;
        let mut rest = &input[..length];
        loop {
            let (result, read, written, broken) = decoder.decode_to_utf8(rest, &mut text, length == 0);
            if broken {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is not valid {}", encoding.name())));
            }
            out.write_all(&text[..written])?;
            total += written as u64;
            rest = &rest[read..];
            if result == CoderResult::InputEmpty {
                break;
            }
        }
        if length == 0 {
            return Ok(total);
        }
    }
}
