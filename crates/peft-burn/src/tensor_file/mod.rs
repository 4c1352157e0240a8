//! Files of tensors: safetensors, read through a memory map and written whole or not at all, and what `torch.save` writes,
//! which is read without running any of its code.

mod info;
mod pytorch;
mod safe;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};

pub use write::{write_atomic, write_tensors};

use crate::error::{PeftError, Result};
use info::Info;
use pytorch::PytorchTensors;
use safe::SafeTensorsMap;

/// An open file of tensors: names, shapes and, on demand, values.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    tensors: BTreeMap<String, Info>,
    metadata: BTreeMap<String, String>,
    source: Source,
}

/// Where values come from.
#[derive(Debug)]
enum Source {
    Safetensors(SafeTensorsMap),
    Pytorch(PytorchTensors),
}

impl TensorFile {
    /// Opens and checks `path`; values are read when asked for. Whether it is safetensors or a file of `torch.save` (zip,
    /// legacy or tar) is told from its contents, whatever its name.
    ///
    /// # Errors
    /// A file that is missing, is neither of the two, or is shorter than its header says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut head = Vec::new();
        File::open(path).and_then(|file| file.take(64).read_to_end(&mut head)).map_err(PeftError::io(path))?;
        if let Some(what) = another_kind(&head) {
            return Err(PeftError::NotTensors { path: path.to_owned(), what: what.to_owned() });
        }
        let (tensors, metadata, source) = if is_pytorch(path, &head) {
            let (tensors, source) = PytorchTensors::open(path)?;
            (tensors, BTreeMap::new(), Source::Pytorch(source))
        } else {
            let (tensors, metadata, source) = SafeTensorsMap::open(path)?;
            (tensors, metadata, Source::Safetensors(source))
        };
        Ok(Self { path: path.to_owned(), tensors, metadata, source })
    }

    /// The safetensors file whose contents are `bytes`; `path` names it in errors. A file that others may change while it
    /// is read is best read whole.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        let path = path.as_ref();
        let (tensors, metadata, source) = SafeTensorsMap::from_bytes(path, bytes)?;
        Ok(Self { path: path.to_owned(), tensors, metadata, source: Source::Safetensors(source) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The free-form metadata of a safetensors header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// The dtype of a tensor as safetensors names it, such as `BF16`, if the file has it.
    pub fn dtype(&self, name: &str) -> Option<String> {
        self.tensors.get(name).map(|t| t.dtype.clone())
    }

    /// Bytes that a tensor takes in the file.
    pub fn num_bytes(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, |t| t.bytes)
    }

    /// The values of a tensor in the file's own dtype.
    ///
    /// # Errors
    /// A name that the file lacks, a dtype without a counterpart in Burn, and values that cannot be read.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let (info, dtype) = self.info(name)?;
        match &self.source {
            Source::Safetensors(map) => Ok(map.read(name, &info.shape, dtype)),
            Source::Pytorch(tensors) => tensors.read(&self.path, name, &info.shape, dtype),
        }
    }

    /// As [`Self::read`], in `dtype`. A part of a safetensors file's tensor is converted at a time, so that it is never in
    /// memory in both.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_as(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let (info, stored) = self.info(name)?;
        match &self.source {
            Source::Safetensors(map) if stored != dtype => Ok(map.read_as(name, &info.shape, stored, dtype)),
            _ => Ok(self.read(name)?.convert_dtype(dtype)),
        }
    }

    /// A tensor's entry, and its dtype in Burn.
    fn info(&self, name: &str) -> Result<(&Info, DType)> {
        let broken = |message: String| match &self.source {
            Source::Safetensors(_) => PeftError::Safetensors { path: self.path.clone(), message },
            Source::Pytorch(_) => PeftError::Pytorch { path: self.path.clone(), message },
        };
        let info = self.tensors.get(name).ok_or_else(|| broken(format!("it has no tensor {name}")))?;
        let dtype = info.in_burn.ok_or_else(|| {
            broken(format!("{name} has dtype {}; supported are f32, f16, bf16, f64, i8, u8, i32, i64", info.dtype))
        })?;
        Ok((info, dtype))
    }
}

/// Whether to read the file as one of PyTorch's. What begins like neither is told by its name.
fn is_pytorch(path: &Path, head: &[u8]) -> bool {
    let length = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    if head.get(8) == Some(&b'{') && length.is_some_and(|length| length <= 100_000_000) {
        return false;
    }
    let named = path.extension().is_some_and(|end| end != "safetensors");
    named || head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x80, 2])
}

/// The kind of a file that holds no tensors, and the way out.
fn another_kind(head: &[u8]) -> Option<&'static str> {
    let begins = |with: &[u8]| head.trim_ascii_start().starts_with(with);
    if begins(b"version https://git-lfs") {
        Some("a pointer that Git LFS left in the place of the file: fetch the file itself with `git lfs pull`")
    } else if begins(b"GGUF") {
        Some("a GGUF file, which holds quantised weights: take the model in safetensors")
    } else if begins(b"<!") || begins(b"<html") {
        Some("a web page: download the file itself (on the hub, the link `resolve` and not `blob`)")
    } else {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::safe::CONVERTED;
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
    fn one_content_is_one_file_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let notes = [("a", "1".to_owned()), ("z", "\u{e9}\"".to_owned()), ("m", "3".to_owned())];
        let file = |i: usize| {
            let path = dir.path().join(i.to_string());
            write_tensors(&path, &sample(), &notes).unwrap();
            let read = TensorFile::open(&path).unwrap();
            assert_eq!((read.metadata()["z"].as_str(), read.metadata()["format"].as_str()), ("\u{e9}\"", "pt"));
            read.read("a").unwrap().assert_eq(&sample()["a"], true);
            std::fs::read(path).unwrap()
        };
        let first = file(0);
        assert!((1..8).all(|i| file(i) == first));
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
