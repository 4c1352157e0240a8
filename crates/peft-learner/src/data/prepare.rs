//! The rows of files as examples: found, encoded on all threads, and kept.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde_json::json;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::encode::Encoding;
use super::encode_file::EncodeFile;
use super::examples::Chained;
use super::files::{DataFile, Part, locate};
use super::order::{split, weighted};
use super::reader_of::reader_of;
use super::rows::{RowOptions, RowShape};
use super::seen::{Seen, content};
use super::source::{DataCache, Source};
use super::tokens::{TokenFile, TokenWriter};
use super::{EncodeOptions, EncodeReport, Examples, TextEncoder};
use crate::error::{DataFileProblem, LearnerError, Result};

/// How the rows of files become examples.
///
/// Rows are read a block at a time and encoded on all threads; their tokens go into a file, which is mapped into memory. It
/// is kept under a key made of what is in the data file, the tokenizer, the template and the options ([`DataCache`]), so that
/// the next start only opens it.
#[derive(Clone)]
pub struct Preparation<'a> {
    encoder: Option<&'a dyn TextEncoder>,
    options: EncodeOptions,
    rows: RowOptions,
    stop: Vec<u32>,
    cache: DataCache,
    seed: u64,
}

/// Examples that are ready to train on, with a report of how they came about.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The examples.
    pub examples: Examples,
    /// Counts of the encoding.
    pub report: EncodeReport,
    /// Differs where the examples do.
    pub digest: String,
}

/// How rows are read, as a number: tokens that were kept under another one are made again.
const READING: u32 = 2;

impl<'a> Preparation<'a> {
    /// Rows of `input_ids` need no `encoder`.
    pub fn new(encoder: Option<&'a dyn TextEncoder>, options: EncodeOptions) -> Self {
        Self { encoder, options, rows: RowOptions::default(), stop: Vec::new(), cache: DataCache::Off, seed: 42 }
    }

    /// How rows are read.
    pub fn rows(mut self, rows: RowOptions) -> Self {
        self.rows = rows;
        self
    }

    /// The tokens that end a text: whether some row teaches one is reported.
    pub fn stop(mut self, stop: impl Into<Vec<u32>>) -> Self {
        self.stop = stop.into();
        self
    }

    /// Whether tokens are kept, and where; by default they are not.
    pub fn cache(mut self, cache: DataCache) -> Self {
        self.cache = cache;
        self
    }

    /// Seeds the choice of rows for weights and shares; 42 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The examples of `sources`, one source after the other.
    ///
    /// # Errors
    /// The errors of [`locate`] and [`DataFile::open`]; [`LearnerError::Data`] with every row of a file that cannot be used;
    /// [`LearnerError::NoTokenizer`] for text without an encoder; [`LearnerError::NoTarget`] where no row has anything to
    /// learn.
    pub fn sources(&self, sources: &[Source], part: Part) -> Result<Prepared> {
        let (mut parts, mut report, mut digests) = (Vec::new(), EncodeReport::default(), Vec::new());
        for source in sources {
            let own = self.of(source);
            let Prepared { examples, report: of_source, digest } = own.source(&source.path, part)?;
            if !source.columns.is_empty() {
                own.check_columns(&of_source, &source.path)?;
            }
            report.add(&of_source);
            digests.push(format!("{digest}*{}", source.weight));
            parts.push(match source.weight {
                1.0 => examples,
                weight => {
                    check_weight(source, examples.len())?;
                    examples.select(weighted(examples.len(), weight, self.seed))?
                }
            });
        }
        if sources.iter().all(|source| source.columns.is_empty()) {
            let names: Vec<_> = sources.iter().map(|source| source.path.as_str()).collect();
            self.check_columns(&report, &names.join(", "))?;
        }
        let digest = match digests.as_slice() {
            [one] => one.trim_end_matches("*1").to_string(),
            several => format!("{:032x}", xxh3_128(several.join(" ").as_bytes())),
        };
        Ok(Prepared { examples: joined(parts), report, digest })
    }

    /// With the names that the columns of `source` have.
    fn of(&self, source: &Source) -> Self {
        let mut own = self.clone();
        own.rows.columns.extend(source.columns.clone());
        own
    }

    /// Refuses names of columns that no row has.
    fn check_columns(&self, report: &EncodeReport, names: &str) -> Result<()> {
        let Some((ours, theirs)) = self.rows.never_found(&report.renamed) else { return Ok(()) };
        let message = format!(
            "no row has a column `{theirs}`, which `columns` names for `{ours}`; correct its name or leave it out"
        );
        Err(LearnerError::DataFile { file: names.into(), problem: DataFileProblem::Columns, message })
    }

    /// The examples of a file, folder, pattern or data set of the hub.
    ///
    /// # Errors
    /// As [`sources`](Self::sources).
    pub fn source(&self, name: &str, part: Part) -> Result<Prepared> {
        let files = locate(name, part)?;
        let (mut report, mut hash) = (EncodeReport::default(), Xxh3::new());
        let (mut parts, mut nothing) = (Vec::new(), None);
        for file in &files {
            match self.tokens(file, part) {
                Ok(tokens) => {
                    report.add(tokens.report());
                    hash.update(&tokens.checksum().to_le_bytes());
                    parts.push(Examples::new(tokens));
                }
                // One of several files may teach nothing.
                Err(error @ LearnerError::NoTarget { .. }) => nothing = nothing.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match (parts.is_empty(), nothing) {
            (true, Some(error)) => Err(error),
            _ => Ok(Prepared { examples: joined(parts), report, digest: format!("{:032x}", hash.digest128()) }),
        }
    }

    /// The file of tokens of a data file: the one that is kept, or a new one.
    fn tokens(&self, path: &Path, part: Part) -> Result<TokenFile> {
        let bytes = std::fs::metadata(path).map_err(LearnerError::io("open", path))?.len();
        let Some((folder, fingerprint)) = self.cache.folder(bytes).zip(self.fingerprint()) else {
            return self.encode(&DataFile::open(path, part)?, None, 0);
        };
        // Nobody asked for this folder: what cannot be kept there is encoded again at the next start.
        if self.cache == DataCache::Auto
            && let Err(error) = usable(&folder)
        {
            let mut tokens = self.encode(&DataFile::open(path, part)?, None, 0)?;
            tokens.not_kept(format!("`{}`: {error}", folder.display()));
            return Ok(tokens);
        }
        let seen = Seen::new(&folder);
        let key = self.key(path, part, &fingerprint, &seen)?;
        let kept = folder.join(format!("{key:032x}.tokens"));
        if let Some(tokens) = TokenFile::open(&kept, key, seen.digest(&kept)) {
            seen.note_own(&kept, tokens.checksum());
            return Ok(tokens);
        }
        let tokens = self.encode(&DataFile::open(path, part)?, Some(kept.clone()), key)?;
        seen.note_own(&kept, tokens.checksum());
        Ok(tokens)
    }

    /// A fingerprint of everything that the tokens depend on beside the rows; `None` where that is not known.
    fn fingerprint(&self) -> Option<String> {
        self.encoder.map_or_else(|| Some(String::new()), |encoder| encoder.fingerprint())
    }

    /// The key that a data file's tokens are kept under.
    fn key(&self, path: &Path, part: Part, fingerprint: &str, seen: &Seen<'_>) -> Result<u128> {
        let EncodeOptions { max_length, vocab_size } = self.options;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = match seen.digest(path) {
            Some(digest) => digest,
            None => {
                let digest = content(path)?;
                seen.note(path, digest);
                digest
            }
        };
        let meaning = json!([
            env!("CARGO_PKG_VERSION"),
            READING,
            fingerprint,
            max_length,
            vocab_size,
            self.rows,
            self.stop,
            part == Part::Train,
            // The name's end tells the format.
            name.split_once('.').map(|(_, ends)| ends),
            format!("{content:x}"),
        ]);
        Ok(xxh3_128(meaning.to_string().as_bytes()))
    }

    fn encode(&self, file: &DataFile, kept: Option<PathBuf>, key: u128) -> Result<TokenFile> {
        let words = RwLock::new(HashMap::new());
        let mentions = |word: &str| self.mentions(&words, word);
        let reader = reader_of(file, &self.rows, &mentions)?;
        if self.encoder.is_none() && reader.shape() != RowShape::InputIds {
            return Err(LearnerError::NoTokenizer {
                file: file.path().to_path_buf(),
                shape: reader.shape().to_string(),
            });
        }
        let mut writer = TokenWriter::new(kept)?;
        let work = EncodeFile { file, reader, encoding: self.encoding() };
        let report = work.run(&mut writer)?;
        writer.finish(key, &report)
    }

    fn mentions(&self, words: &RwLock<HashMap<String, bool>>, word: &str) -> bool {
        let Some(encoder) = self.encoder else { return false };
        if let Some(&known) = words.read().unwrap_or_else(PoisonError::into_inner).get(word) {
            return known;
        }
        let mentioned = encoder.mentions(word);
        words.write().unwrap_or_else(PoisonError::into_inner).insert(word.to_string(), mentioned);
        mentioned
    }

    fn encoding(&self) -> Encoding<'_> {
        Encoding { encoder: self.encoder, options: self.options, rows: &self.rows, stop: &self.stop }
    }
}

impl std::fmt::Debug for Preparation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { options, rows, cache, .. } = self;
        f.debug_struct("Preparation").field("options", options).field("rows", rows).field("cache", cache).finish()
    }
}

/// The most rows that a weight may make: their numbers fill 2 GiB.
const MOST_WEIGHTED: usize = 1 << 28;

impl Prepared {
    /// Sets a share of the examples apart, for evaluation, chosen at random by `seed`. Returns them, and the rest in `self`.
    ///
    /// # Errors
    /// [`LearnerError::Dataset`] for a single example, which cannot be shared out.
    pub fn set_apart(&mut self, share: f64, seed: u64) -> Result<Examples> {
        let count = self.examples.len();
        if count < 2 {
            let message = format!("a share of {share} for validation needs at least 2 rows, and there is {count}");
            return Err(LearnerError::Dataset(message.into()));
        }
        let (apart, rest) = split(count, share, seed);
        let apart = self.examples.select(apart)?;
        self.examples = self.examples.select(rest)?;
        self.digest += &format!("-{share}-{seed}");
        Ok(apart)
    }
}

/// Whether files can be made in a folder, which is made where it is missing.
fn usable(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let trial = folder.join(format!("{}.part", std::process::id()));
    std::fs::File::create(&trial)?;
    std::fs::remove_file(trial)
}

/// Refuses a weight that leaves no row, or repeats them beyond all sense.
fn check_weight(source: &Source, rows: usize) -> Result<()> {
    let weighted = (rows as f64 * source.weight).round();
    let way_out = match weighted {
        0.0 => "raise it, or leave the file out",
        more if more > MOST_WEIGHTED as f64 => "lower it",
        _ => return Ok(()),
    };
    let message = format!("weight = {} makes {weighted} of its {rows} rows; {way_out}", source.weight);
    Err(LearnerError::DataFile { file: source.path.clone().into(), problem: DataFileProblem::Weight, message })
}

fn joined(mut parts: Vec<Examples>) -> Examples {
    match parts.len() {
        1 => parts.remove(0),
        _ => Examples::new(Chained::new(parts)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
