//! An adapter's tensors, whichever file they lie in, by the names that PEFT writes.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};

use super::names::{OLDER_WEIGHTS_NAME, WEIGHTS_NAME};
use super::spelling::Spelling;
use crate::error::Result;
use crate::methods::PeftConfig;
use crate::tensor_file::TensorFile;

/// The open file of an adapter's tensors.
#[derive(Debug)]
pub(crate) struct AdapterWeights {
    file: TensorFile,
    spelling: Spelling,
    problems: Vec<String>,
}

impl AdapterWeights {
    /// Opens the tensors of the adapter in `dir`.
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    pub(crate) fn open(dir: &Path, config: &PeftConfig) -> Result<Self> {
        let names = [WEIGHTS_NAME, OLDER_WEIGHTS_NAME];
        let name = names.into_iter().find(|name| dir.join(name).exists()).unwrap_or(WEIGHTS_NAME);
        Self::of(TensorFile::open(dir.join(name))?, config)
    }

    /// The tensors of an adapter's file.
    ///
    /// # Errors
    /// A tensor that cannot be read.
    pub(crate) fn of(file: TensorFile, config: &PeftConfig) -> Result<Self> {
        let spelling = Spelling::read(file.names(), config);
        let mut problems = Vec::new();
        for [one, other] in &spelling.doubled {
            if file.read(one)? != file.read(other)? {
                problems.push(format!("{one} and {other} are the same tensor, with different values"));
            }
        }
        Ok(Self { file, spelling, problems })
    }

    /// The notes of the file.
    pub(crate) fn metadata(&self) -> &BTreeMap<String, String> {
        self.file.metadata()
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// PEFT's names of the tensors, alphabetically.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.spelling.names.keys().map(String::as_str)
    }

    /// The file's name of the tensor that PEFT calls `name`.
    pub(crate) fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.spelling.names.get(name).map_or(name, String::as_str)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file.shape(self.spelling.names.get(name)?)
    }

    /// The values of a tensor in the file's own dtype.
    ///
    /// # Errors
    /// A name that the file lacks, or a dtype without a counterpart in Burn.
    pub(crate) fn stored(&self, name: &str) -> Result<TensorData> {
        self.file.read(self.stored_name(name))
    }

    /// The values of a tensor in f32.
    ///
    /// # Errors
    /// A name that the file lacks, or a dtype without a counterpart in Burn.
    pub(crate) fn read(&self, name: &str) -> Result<TensorData> {
        Ok(self.file.read(self.stored_name(name))?.convert_dtype(DType::F32))
    }

    /// The dtype of a tensor as safetensors names it.
    pub(crate) fn dtype(&self, name: &str) -> String {
        self.file.dtype(self.stored_name(name)).unwrap_or_default()
    }

    pub(crate) fn num_bytes(&self, name: &str) -> usize {
        self.file.num_bytes(self.stored_name(name))
    }

    /// Notes for the user about the names.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let other = self.spelling.example.iter().map(|(written, meant, count)| {
            format!(
                "{}: {count} names are not as PEFT 0.21 writes them (`{written}` is read as `{meant}`); PEFT itself may \
                 leave such tensors out without a word",
                self.path().display()
            )
        });
        other.collect()
    }

    /// Tensors that contradict each other.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }
}
