//! Reading safetensors through a memory map.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};

use super::info::Info;
use crate::error::{PeftError, Result};

/// Values that are converted at a time.
pub(super) const CONVERTED: usize = 1 << 20;

/// A mapped file, and where each tensor's bytes lie in it.
#[derive(Debug)]
pub(super) struct SafeTensorsMap {
    map: Contents,
    places: BTreeMap<String, [usize; 2]>,
}

/// Where a file's bytes are.
#[derive(Debug)]
enum Contents {
    Mapped(Mmap),
    InMemory(Vec<u8>),
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::InMemory(bytes) => bytes,
        }
    }
}

/// Tensors and the header's free-form metadata.
type Opened = (BTreeMap<String, Info>, BTreeMap<String, String>, SafeTensorsMap);

impl SafeTensorsMap {
    pub(super) fn open(path: &Path) -> Result<Opened> {
        let file = File::open(path).map_err(PeftError::io(path))?;
        // SAFETY: the map is read-only and lives in this struct. Another process that truncates the file while it is
        // mapped would end this one with SIGBUS, as with every memory-mapped checkpoint reader.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(PeftError::io(path))?;
        Self::of(path, Contents::Mapped(map))
    }

    pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Opened> {
        Self::of(path, Contents::InMemory(bytes))
    }

    fn of(path: &Path, map: Contents) -> Result<Opened> {
        let broken = |message: String| PeftError::Safetensors { path: path.to_owned(), message };
        let (header, metadata): (usize, Metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            broken(format!(
                "{e}; the file has {} bytes: if its download or copy was cut short, fetch it again",
                map.len()
            ))
        })?;
        let data_start = header + 8;
        let (mut tensors, mut places, mut end) = (BTreeMap::new(), BTreeMap::new(), data_start);
        for (name, info) in metadata.tensors() {
            let place = [data_start + info.data_offsets.0, data_start + info.data_offsets.1];
            end = end.max(place[1]);
            places.insert(name.clone(), place);
            let (shape, bytes) = (info.shape.clone(), place[1] - place[0]);
            let (dtype, in_burn) = (format!("{:?}", info.dtype), burn_dtype(info.dtype));
            tensors.insert(name, Info { shape, dtype, in_burn, bytes });
        }
        if end > map.len() {
            return Err(broken(format!(
                "its header describes {end} bytes and the file has {}: it is truncated, fetch it again",
                map.len()
            )));
        }
        let metadata = metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok((tensors, metadata, Self { map, places }))
    }

    /// A tensor in its own dtype. Its pages of the map are given back to the system.
    pub(super) fn read(&self, name: &str, shape: &[usize], dtype: DType) -> TensorData {
        let [start, end] = self.place(name);
        let data = TensorData::from_bytes_vec(self.map[start..end].to_vec(), shape.to_vec(), dtype);
        self.forget(start, end);
        data
    }

    /// A tensor that is `stored` in one dtype in another, converted a part at a time.
    pub(super) fn read_as(&self, name: &str, shape: &[usize], stored: DType, dtype: DType) -> TensorData {
        let [start, end] = self.place(name);
        let values = (end - start) / stored.size();
        let mut bytes = Vec::with_capacity(values * dtype.size());
        for first in (0..values).step_by(CONVERTED) {
            let last = (first + CONVERTED).min(values);
            let (from, to) = (start + first * stored.size(), start + last * stored.size());
            let part = TensorData::from_bytes_vec(self.map[from..to].to_vec(), vec![last - first], stored);
            bytes.extend_from_slice(part.convert_dtype(dtype).as_bytes());
            self.forget(from, to);
        }
        TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype)
    }

    fn place(&self, name: &str) -> [usize; 2] {
        self.places.get(name).copied().unwrap_or_default()
    }

    /// Lets the system drop the pages of a tensor that was copied, so that the file does not count twice in memory.
    fn forget(&self, start: usize, end: usize) {
        #[cfg(unix)]
        {
            const PAGE: usize = 4096;
            let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
            if let Contents::Mapped(map) = &self.map
                && end > start
            {
                // SAFETY: the mapping is read-only and backed by a file: dropped pages are read again when touched.
                #[allow(unsafe_code)]
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
    }
}

fn burn_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        _ => return None,
    })
}
