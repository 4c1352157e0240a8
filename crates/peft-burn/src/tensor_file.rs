//! Safetensors files, read through a memory map and written whole or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};

use crate::error::{PeftError, Result};

/// Values that are converted at a time.
const CONVERTED: usize = 1 << 20;

/// An open safetensors file: names, shapes and, on demand, values.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Contents,
    data_start: usize,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
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

impl TensorFile {
    /// Opens and checks `path`; values are read when asked for.
    ///
    /// # Errors
    /// A file that is missing, is not safetensors, or is shorter than its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(PeftError::io(path))?;
        // SAFETY: the map is read-only and lives in this struct. Another process that truncates the file while it is
        // mapped would end this one with SIGBUS, as with every memory-mapped checkpoint reader.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(PeftError::io(path))?;
        Self::of(path, Contents::Mapped(map))
    }

    /// The file whose contents are `bytes`; `path` names it in errors. A file that others may change while it is read is
    /// best read whole.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::of(path, Contents::InMemory(bytes))
    }

    fn of(path: &Path, map: Contents) -> Result<Self> {
        let broken = |message: String| PeftError::Safetensors { path: path.to_owned(), message };
        let (header, metadata): (usize, Metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            broken(format!(
                "{e}; the file has {} bytes: if its download or copy was cut short, fetch it again",
                map.len()
            ))
        })?;
        let data_start = header + 8;
        let tensors: BTreeMap<_, _> = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let end = data_start + tensors.values().map(|t| t.data_offsets.1).max().unwrap_or(0);
        if end > map.len() {
            return Err(broken(format!(
                "its header describes {end} bytes and the file has {}: it is truncated, fetch it again",
                map.len()
            )));
        }
        let metadata = metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Self { path: path.to_owned(), map, data_start, tensors, metadata })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The free-form metadata of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// The dtype of a tensor as safetensors names it, such as `BF16`, if the file has it.
    pub fn dtype(&self, name: &str) -> Option<String> {
        self.tensors.get(name).map(|t| format!("{:?}", t.dtype))
    }

    /// Bytes that a tensor takes in the file.
    pub fn num_bytes(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, |t| t.data_offsets.1 - t.data_offsets.0)
    }

    /// The values of a tensor in the file's own dtype. Its pages of the map are given back to the system.
    ///
    /// # Errors
    /// A name that the file lacks, or a dtype without a counterpart in Burn.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let (shape, dtype, [start, end]) = self.place(name)?;
        let data = TensorData::from_bytes_vec(self.map[start..end].to_vec(), shape, dtype);
        self.forget(start, end);
        Ok(data)
    }

    /// As [`Self::read`], in `dtype`. A part of the tensor is converted at a time, so that it is never in memory in both.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_as(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let (shape, stored, [start, end]) = self.place(name)?;
        if stored == dtype {
            return self.read(name);
        }
        let values = (end - start) / stored.size();
        let mut bytes = Vec::with_capacity(values * dtype.size());
        for first in (0..values).step_by(CONVERTED) {
            let last = (first + CONVERTED).min(values);
            let (from, to) = (start + first * stored.size(), start + last * stored.size());
            let part = TensorData::from_bytes_vec(self.map[from..to].to_vec(), vec![last - first], stored);
            bytes.extend_from_slice(part.convert_dtype(dtype).as_bytes());
            self.forget(from, to);
        }
        Ok(TensorData::from_bytes_vec(bytes, shape, dtype))
    }

    /// A tensor's shape, its dtype and where its bytes lie in the map.
    fn place(&self, name: &str) -> Result<(Vec<usize>, DType, [usize; 2])> {
        let broken = |message: String| PeftError::Safetensors { path: self.path.clone(), message };
        let info = self.tensors.get(name).ok_or_else(|| broken(format!("it has no tensor {name}")))?;
        let dtype = burn_dtype(info.dtype).ok_or_else(|| {
            broken(format!("{name} has dtype {:?}; supported are f32, f16, bf16, f64, i32, i64", info.dtype))
        })?;
        let bytes = [self.data_start + info.data_offsets.0, self.data_start + info.data_offsets.1];
        Ok((info.shape.clone(), dtype, bytes))
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
        _ => return None,
    })
}

fn file_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        _ => return None,
    })
}

/// Writes tensors to `path`, with `format: pt` and `metadata` in the header.
///
/// # Errors
/// A file that cannot be written, for example because the disk is full: then nothing is left at `path` that was not
/// there before.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, TensorData>, metadata: &[(&str, String)]) -> Result<()> {
    let broken = |message: String| PeftError::Safetensors { path: path.to_owned(), message };
    let mut views = BTreeMap::new();
    for (name, data) in tensors {
        let dtype =
            file_dtype(data.dtype()).ok_or_else(|| broken(format!("{name}: {:?} cannot be stored", data.dtype())))?;
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
            .map_err(|e| broken(format!("{name}: {e}")))?;
        views.insert(name.as_str(), view);
    }
    let mut header: std::collections::HashMap<String, String> =
        metadata.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    header.insert("format".into(), "pt".into());
    let part = partial(path);
    // safetensors makes its files for the owner alone; a new file takes the process's own mask.
    let usual = File::create(&part).and_then(|f| f.metadata()).map_err(PeftError::io(path))?.permissions();
    let written = safetensors::serialize_to_file(views, Some(header), &part).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(source) => PeftError::Io { path: path.to_owned(), source },
        other => broken(other.to_string()),
    });
    let readable = || std::fs::set_permissions(&part, usual).map_err(PeftError::io(path));
    finish(written.and_then(|()| readable()), &part, path)
}

/// Writes `bytes` to `path` whole or not at all.
///
/// # Errors
/// A file that cannot be written; what was at `path` is still there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = partial(path);
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)
    };
    finish(write().map_err(PeftError::io(path)), &part, path)
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Syncs the finished partial file and gives it its name, or removes it.
fn finish(written: Result<()>, part: &Path, path: &Path) -> Result<()> {
    let result = written.and_then(|()| {
        File::open(part).and_then(|f| f.sync_all()).map_err(PeftError::io(path))?;
        std::fs::rename(part, path).map_err(PeftError::io(path))
    });
    if result.is_err() {
        let _ = std::fs::remove_file(part);
    }
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<String, TensorData> {
        BTreeMap::from([
            ("a".to_owned(), TensorData::new(vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])),
            ("empty".to_owned(), TensorData::new(Vec::<f32>::new(), [0, 3])),
        ])
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        write_tensors(&path, &sample(), &[("note", "hi".into())]).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "empty"]);
        assert_eq!(file.metadata()["note"], "hi");
        for (name, data) in sample() {
            file.read(&name).unwrap().assert_eq(&data, true);
        }
        assert!(!dir.path().join("x.safetensors.part").exists());
    }

    #[test]
    fn another_dtype_is_that_of_the_whole_tensor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let values: Vec<f32> = (0..CONVERTED + 7).map(|i| (i as f32).sin()).collect();
        let data = TensorData::new(values, [1, CONVERTED + 7]);
        let mut tensors = sample();
        tensors.insert("long".to_owned(), data.clone());
        write_tensors(&path, &tensors, &[]).unwrap();
        let file = TensorFile::open(&path).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            for (name, data) in &tensors {
                file.read_as(name, dtype).unwrap().assert_eq(&data.clone().convert_dtype(dtype), true);
            }
        }
    }

    #[test]
    #[cfg(unix)]
    fn whoever_may_read_other_new_files_may_read_this_one() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("x.safetensors"), dir.path().join("other"));
        write_tensors(&path, &sample(), &[]).unwrap();
        std::fs::write(&other, "").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&other));
    }

    #[test]
    fn a_truncated_file_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        write_tensors(&path, &sample(), &[]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for keep in [bytes.len() - 4, 20, 3] {
            std::fs::write(&path, &bytes[..keep]).unwrap();
            let error = TensorFile::open(&path).unwrap_err().to_string();
            assert!(error.contains("x.safetensors") && error.contains("fetch it again"), "{error}");
        }
    }

    #[test]
    fn an_unwritable_place_is_an_error_and_leaves_nothing() {
        let path = Path::new("/nonexistent-folder/x.safetensors");
        assert!(matches!(write_tensors(path, &sample(), &[]), Err(PeftError::Io { .. })));
    }
}
