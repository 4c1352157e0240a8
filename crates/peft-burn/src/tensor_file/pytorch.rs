//! Reading what `torch.save` writes. Only tensors are taken; nothing in the file is run.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{DType, TensorData};
use pytorch_reader::{DType as Stored, PytorchError, PytorchReader, Tensor};

use super::info::Info;
use crate::error::{PeftError, Result};

/// The tensors of a file, their values not yet read.
#[derive(Debug)]
pub(super) struct PytorchTensors(HashMap<String, Tensor>);

impl PytorchTensors {
    pub(super) fn open(path: &Path) -> Result<(BTreeMap<String, Info>, Self)> {
        let reader = PytorchReader::new(path).map_err(|error| match error {
            PytorchError::Io(source) if source.kind() == std::io::ErrorKind::NotFound => PeftError::io(path)(source),
            other => broken(path, format!("{other}; if its download or copy was cut short, fetch it again")),
        })?;
        let tensors = reader.into_tensors();
        if tensors.is_empty() {
            return Err(broken(path, "it holds no tensors".into()));
        }
        let info = |(name, tensor): (&String, &Tensor)| {
            let dtype = format!("{:?}", tensor.dtype()).to_uppercase();
            let (shape, in_burn) = (tensor.shape().to_vec(), burn_dtype(tensor.dtype()));
            (name.clone(), Info { shape, dtype, in_burn, bytes: tensor.byte_len() })
        };
        Ok((tensors.iter().map(info).collect(), Self(tensors)))
    }

    pub(super) fn read(&self, path: &Path, name: &str, shape: &[usize], dtype: DType) -> Result<TensorData> {
        let tensor = self.0.get(name).ok_or_else(|| broken(path, format!("it has no tensor {name}")))?;
        let bytes = tensor.read().map_err(|error| broken(path, error.to_string()))?;
        Ok(TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype))
    }
}

fn broken(path: &Path, message: String) -> PeftError {
    PeftError::Pytorch { path: path.to_owned(), message }
}

fn burn_dtype(dtype: Stored) -> Option<DType> {
    Some(match dtype {
        Stored::F64 => DType::F64,
        Stored::F32 => DType::F32,
        Stored::F16 => DType::F16,
        Stored::BF16 => DType::BF16,
        Stored::I64 => DType::I64,
        Stored::I32 => DType::I32,
        Stored::I8 => DType::I8,
        Stored::U8 => DType::U8,
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::TensorFile;

    #[test]
    fn code_in_a_file_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let (path, made) = (dir.path().join("adapter_model.bin"), dir.path().join("made"));
        // {'w': os.system('touch made')}, as Python would unpickle it.
        let pickle = format!("\u{80}\u{2}}}U\u{1}wcposix\nsystem\n(S'touch {}'\ntRs.", made.display());
        std::fs::write(&path, pickle.chars().map(|c| c as u8).collect::<Vec<_>>()).unwrap();
        let error = TensorFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("adapter_model.bin is not a readable PyTorch file"), "{error}");
        assert!(!made.exists());
    }
}
