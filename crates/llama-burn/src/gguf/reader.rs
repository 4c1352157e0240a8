//! An open GGUF file.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{AllocationProperty, Bytes};
use memmap2::Mmap;

use super::dequantise::Kind;
use super::header::{self, Header, Info};
use super::value::Value;
use crate::error::{LlamaError, Result};

/// A GGUF file, mapped into memory, whose header was checked.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    map: Arc<Mmap>,
    header: Header,
}

impl Gguf {
    /// Opens and checks a file; values are read when asked for.
    ///
    /// # Errors
    /// A file that cannot be read, or is no GGUF or a broken one.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(LlamaError::io(path))?;
        // SAFETY: as for safetensors, a file that someone changes while it is open changes the values, and no more is read
        // of it than its length was when it was mapped.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(LlamaError::io(path))?;
        let header = header::read(&map).map_err(|message| broken(path, message))?;
        Ok(Self { path: path.to_owned(), map: Arc::new(map), header })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value of the metadata.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// All of the metadata.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.header.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Info)> {
        self.header.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    pub fn tensor(&self, name: &str) -> Option<&Info> {
        self.header.tensors.get(name)
    }

    /// The numbers of a tensor, row after row.
    pub fn widened(&self, info: &Info) -> Vec<f32> {
        info.kind.widen(self.map.get(info.start..info.start + info.bytes).unwrap_or_default())
    }

    /// The blocks of a tensor as they lie in the file, which stays mapped for them.
    pub fn blocks(&self, info: &Info) -> Bytes {
        let part = Part { map: self.map.clone(), range: info.start..info.start + info.bytes };
        Bytes::from_shared(bytes::Bytes::from_owner(part), AllocationProperty::File)
    }

    /// How many tensors of which type there are.
    pub fn kinds(&self) -> Vec<(Kind, usize)> {
        let mut all: Vec<(Kind, usize)> = Vec::new();
        for (_, info) in self.tensors() {
            match all.iter_mut().find(|(kind, _)| *kind == info.kind) {
                Some((_, count)) => *count += 1,
                None => all.push((info.kind, 1)),
            }
        }
        all
    }

    /// The file is not what it should be.
    pub fn error(&self, message: impl Into<String>) -> LlamaError {
        broken(&self.path, message)
    }
}

/// A part of a mapped file.
struct Part {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.map.get(self.range.clone()).unwrap_or_default()
    }
}

fn broken(path: &Path, message: impl Into<String>) -> LlamaError {
    LlamaError::Gguf { path: path.to_owned(), message: message.into() }
}
