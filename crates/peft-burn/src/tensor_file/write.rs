//! Safetensors files, written whole or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::error::{PeftError, Result};

/// Writes tensors to `path`, with `format: pt` and `metadata` in the header.
///
/// # Errors
/// A file that cannot be written, for example because the disk is full: then nothing is left at `path` that was not
/// there before.
pub fn write_tensors(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, TensorData>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let path = path.as_ref();
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
    // One file for one adapter, byte for byte: the crate writes notes in any order.
    let ordered = || if metadata.is_empty() { Ok(()) } else { order_notes(&part).map_err(PeftError::io(path)) };
    let readable = || std::fs::set_permissions(&part, usual).map_err(PeftError::io(path));
    finish(written.and_then(|()| ordered()).and_then(|()| readable()), &part, path)
}

/// Sorts the notes in a file's header, whose length stays.
fn order_notes(path: &Path) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    (&file).take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&header)?;
    if let Some(serde_json::Value::Object(notes)) = json.get_mut("__metadata__") {
        notes.sort_keys();
    }
    let mut sorted = serde_json::to_vec(&json)?;
    if sorted.len() > header.len() {
        return Err(std::io::Error::other("the header grew when its notes were sorted"));
    }
    sorted.resize(header.len(), b' ');
    file.seek(SeekFrom::Start(8))?;
    file.write_all(&sorted)
}

/// Writes `bytes` to `path` whole or not at all.
///
/// # Errors
/// A file that cannot be written; what was at `path` is still there.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
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

fn file_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        _ => return None,
    })
}
