//! Tokens in a file: written once, one example after the other, and read through a memory map.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use burn::data::dataset::{Dataset, DatasetError};
use memmap2::Mmap;
use xxhash_rust::xxh3::Xxh3;

use super::encode_report::EncodeReport;
use super::files::Spool;
use super::{Example, IGNORE_INDEX};
use crate::error::{LearnerError, Result};

/// Begins every file; the last character is the version.
const MAGIC: &[u8; 8] = b"PEFTTOK1";
/// Magic, key, checksum, examples, bytes of the tokens, bytes of the report.
const HEADER: usize = 64;
/// The age of a part that nobody writes any more.
const STALE: Duration = Duration::from_secs(3600);
/// Set in a token that is learned: ids are below it.
const LEARNED: u32 = 1 << 31;
/// Set in the place of an example whose labels are not its ids: they follow the tokens.
const LABELS: u64 = 1 << 63;

/// A file of tokens that is being written.
pub(super) struct TokenWriter {
    out: BufWriter<File>,
    place: Place,
    hash: Xxh3,
    /// Where each example begins, in units of 4 bytes.
    index: Vec<u64>,
    words: u64,
    buffer: Vec<u8>,
}

/// Where it is written.
enum Place {
    /// A file that goes with the process.
    Spool(Spool),
    /// A file that is kept: under another name until it is complete.
    Kept { part: PartFile, path: PathBuf },
}

/// A file that is taken away again, unless it has got its own name before.
struct PartFile(PathBuf);

impl Drop for PartFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Takes away what killed programs left: a file that is being written changes all the time.
fn remove_stale_parts(dir: &Path) {
    let old = |path: &Path| {
        path.metadata().and_then(|meta| meta.modified()).is_ok_and(|then| then.elapsed().is_ok_and(|age| age > STALE))
    };
    for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|end| end == "part") && old(&path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Spool(spool) => spool.path(),
            Self::Kept { part, .. } => &part.0,
        }
    }
}

impl TokenWriter {
    /// A file at `kept`, or a temporary one.
    pub fn new(kept: Option<PathBuf>) -> Result<Self> {
        let (file, place) = match kept {
            None => {
                let (file, spool) = Spool::new()?;
                (file, Place::Spool(spool))
            }
            Some(path) => {
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir).map_err(LearnerError::io("create", dir))?;
                    remove_stale_parts(dir);
                }
                static COUNT: AtomicUsize = AtomicUsize::new(0);
                let count = COUNT.fetch_add(1, Ordering::Relaxed);
                let part = path.with_extension(format!("{}-{count}.part", std::process::id()));
                let file = File::options().read(true).write(true).create(true).truncate(true).open(&part);
                (file.map_err(LearnerError::io("create", &part))?, Place::Kept { part: PartFile(part), path })
            }
        };
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 20, file),
            place,
            hash: Xxh3::new(),
            index: Vec::new(),
            words: 0,
            buffer: Vec::new(),
        };
        writer.raw(&[0; HEADER])?;
        Ok(writer)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(LearnerError::io("write", self.place.path()))
    }

    fn hashed(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.raw(bytes)
    }

    /// Adds an example, whose ids are below 2³¹.
    pub fn push(&mut self, example: &Example) -> Result<()> {
        let plain = |(&id, &label): (&u32, &i32)| label == IGNORE_INDEX || i64::from(label) == i64::from(id);
        let plain = example.input_ids.iter().zip(&example.labels).all(plain);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for (&id, &label) in example.input_ids.iter().zip(&example.labels) {
            let learned = if plain && label != IGNORE_INDEX { LEARNED } else { 0 };
            buffer.extend((id | learned).to_le_bytes());
        }
        if !plain {
            buffer.extend(example.labels.iter().flat_map(|label| label.to_le_bytes()));
        }
        self.index.push(self.words | if plain { 0 } else { LABELS });
        self.words += (buffer.len() / 4) as u64;
        let written = self.hashed(&buffer);
        self.buffer = buffer;
        written
    }

    /// Ends the file, which belongs to `key`, and opens it.
    pub fn finish(mut self, key: u128, report: &EncodeReport) -> Result<TokenFile> {
        let mut index = std::mem::take(&mut self.index);
        let examples = index.len() as u64;
        index.push(self.words);
        for block in index.chunks(1 << 16) {
            self.hashed(&block.iter().flat_map(|place| place.to_le_bytes()).collect::<Vec<_>>())?;
        }
        drop(index);
        let report = serde_json::to_vec(report).map_err(|error| LearnerError::Dataset(error.into()))?;
        self.hashed(&report)?;
        let sizes = [examples, 4 * self.words, report.len() as u64].map(u64::to_le_bytes).concat();
        self.hash.update(&sizes);
        let header = [MAGIC.as_slice(), &key.to_le_bytes(), &self.hash.digest128().to_le_bytes(), &sizes].concat();
        let Self { mut out, place, .. } = self;
        let path = place.path().to_path_buf();
        let failed = || LearnerError::io("write", &path);
        out.flush().map_err(failed())?;
        let mut file = out.into_inner().map_err(|error| failed()(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(failed())?;
        match place {
            Place::Spool(spool) => TokenFile::map(&file, &path, Some(spool)),
            Place::Kept { part, path } => {
                file.sync_all().map_err(failed())?;
                std::fs::rename(&part.0, &path).map_err(LearnerError::io("write", &path))?;
                TokenFile::map(&file, &path, None)
            }
        }
    }
}

/// The examples of a file of tokens. Only those that are asked for are read.
#[derive(Debug)]
pub(super) struct TokenFile {
    map: Mmap,
    examples: usize,
    token_bytes: usize,
    report: EncodeReport,
    checksum: u128,
    _spool: Option<Spool>,
}

impl TokenFile {
    /// The file at `path`, where there is one that belongs to `key` and is as it was written: read whole, unless `checked` is
    /// the checksum that was found when it was.
    pub fn open(path: &Path, key: u128, checked: Option<u128>) -> Option<Self> {
        let file = File::open(path).ok()?;
        let tokens = Self::map(&file, path, None).ok()?;
        let stored = tokens.map.get(8..24).and_then(|key| key.try_into().ok()).map(u128::from_le_bytes);
        if stored != Some(key) {
            return None;
        }
        if checked == Some(tokens.checksum) {
            return Some(tokens);
        }
        let (sizes, body) = (tokens.map.get(40..HEADER)?, tokens.map.get(HEADER..)?);
        let mut hash = Xxh3::new();
        body.chunks(1 << 24).for_each(|block| hash.update(block));
        hash.update(sizes);
        (hash.digest128() == tokens.checksum).then_some(tokens)
    }

    fn map(file: &File, path: &Path, spool: Option<Spool>) -> Result<Self> {
        // SAFETY: the map is read-only and lives in the result. The file is never written again: it is replaced by a rename.
        // Another program that cuts it off while it is mapped would end this one with SIGBUS.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(file) }.map_err(LearnerError::io("read", path))?;
        let broken = || LearnerError::Dataset(format!("`{}` is no file of tokens", path.display()).into());
        let number = |at: usize| map.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let size = |at: usize| number(at).and_then(|number| usize::try_from(number).ok());
        let parts = map.starts_with(MAGIC).then(|| Some((size(40)?, size(48)?, size(56)?))).flatten();
        let (examples, token_bytes, report) = parts.ok_or_else(broken)?;
        let checksum =
            map.get(24..40).and_then(|sum| sum.try_into().ok()).map(u128::from_le_bytes).ok_or_else(broken)?;
        let index = examples.checked_add(1).and_then(|entries| entries.checked_mul(8)).ok_or_else(broken)?;
        let start = HEADER.checked_add(token_bytes).and_then(|end| end.checked_add(index)).ok_or_else(broken)?;
        let report = start.checked_add(report).and_then(|end| map.get(start..end)).ok_or_else(broken)?;
        let report = serde_json::from_slice(report).map_err(|_| broken())?;
        Ok(Self { examples, token_bytes, report, checksum, map, _spool: spool })
    }

    pub fn report(&self) -> &EncodeReport {
        &self.report
    }

    /// Says why it is not kept.
    pub fn not_kept(&mut self, reason: String) {
        self.report.not_kept = Some(reason);
    }

    /// Differs where the tokens do.
    pub fn checksum(&self) -> u128 {
        self.checksum
    }

    fn entry(&self, index: usize) -> Option<u64> {
        let at = HEADER + self.token_bytes + 8 * index;
        self.map.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn example(&self, index: usize) -> Option<Example> {
        let (place, end) = (self.entry(index)?, self.entry(index + 1)? & !LABELS);
        let byte = |word: u64| usize::try_from(word).ok()?.checked_mul(4)?.checked_add(HEADER);
        let words = self.map[HEADER..].get(byte(place & !LABELS)? - HEADER..byte(end)? - HEADER)?.chunks_exact(4);
        let words: Vec<u32> = words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
        if place & LABELS != 0 {
            let (ids, labels) = words.split_at(words.len() / 2);
            return Some(Example {
                input_ids: ids.to_vec(),
                labels: labels.iter().map(|&label| label as i32).collect(),
            });
        }
        let label = |&word: &u32| if word & LEARNED != 0 { (word & !LEARNED) as i32 } else { IGNORE_INDEX };
        let labels = words.iter().map(label).collect();
        Some(Example { input_ids: words.iter().map(|word| word & !LEARNED).collect(), labels })
    }
}

impl Dataset<Example> for TokenFile {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        let example = self.example(index);
        example.ok_or_else(|| {
            DatasetError::new(std::io::Error::other("the file of tokens is shorter than its index says"))
        })
    }

    fn len(&self) -> usize {
        self.examples
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        let example = |ids: &[u32], labels: &[i32]| Example { input_ids: ids.to_vec(), labels: labels.to_vec() };
        vec![
            example(&[1, 2, 3], &[-100, 2, 3]),
            example(&[0, 5], &[-101, 5]),
            example(&[7, 8], &[-100, 9]),
            example(&[0], &[0]),
        ]
    }

    fn write(path: Option<PathBuf>) -> TokenFile {
        let mut writer = TokenWriter::new(path).unwrap();
        examples().iter().for_each(|example| writer.push(example).unwrap());
        writer.finish(7, &EncodeReport { rows: 9, ..EncodeReport::default() }).unwrap()
    }

    fn read(tokens: &TokenFile) -> Vec<Example> {
        (0..tokens.len()).map(|at| tokens.get(at).unwrap()).collect()
    }

    #[test]
    fn examples_come_back_whatever_their_labels() {
        let temporary = write(None);
        assert_eq!((read(&temporary), temporary.report().rows), (examples(), 9));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.tokens");
        let kept = write(Some(path.clone()));
        assert_eq!((read(&kept), kept.checksum()), (examples(), temporary.checksum()));
        let again = TokenFile::open(&path, 7, None).unwrap();
        assert_eq!((read(&again), again.report().rows), (examples(), 9));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no part is left");
    }

    #[test]
    fn what_is_not_as_it_was_written_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        drop(write(Some(path.clone())));
        assert!(TokenFile::open(&path, 8, None).is_none(), "of another key");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            assert!(TokenFile::open(&path, 7, None).is_none(), "byte {at}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(TokenFile::open(&path, 7, None).is_none(), "{length} bytes");
        }
        assert!(TokenFile::open(&folder.path().join("none"), 7, None).is_none());
    }

    #[test]
    fn a_writer_that_does_not_finish_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TokenWriter::new(Some(folder.path().join("a.tokens"))).unwrap();
        writer.push(&examples()[0]).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
