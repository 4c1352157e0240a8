//! An adapter of another program, under PEFT's names.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use crate::methods::PeftConfig;

/// An adapter under PEFT's names.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// Who wrote it.
    pub from: &'static str,
    /// Its configuration.
    pub config: PeftConfig,
    /// Its tensors, in the dtypes of the file.
    pub tensors: BTreeMap<String, TensorData>,
    /// Notes for the user.
    pub warnings: Vec<String>,
}
