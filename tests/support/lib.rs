//! Helpers of the integration tests: the golden files and comparisons with them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

/// Compiles the README's program.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(feature = "cube")]
pub mod counters;
mod python;
pub mod readers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor, TensorData};
/// The device that the suite runs on: the CPU, or the one that `PEFT_TEST_DEVICE` names, which must be one of the features
/// that the tests are built with.
pub use fused_burn::testing::test_device as device;
use llama_burn::{AttentionMask, Input, Llama};
use peft_burn::tensor_file::TensorFile;
use peft_burn::{AdapterFiles, PeftConfig, PeftModel, adalora};
pub use python::{python_with, run_script, run_script_with};

/// The folder of all fixtures: where Cargo says that the package is, which on another machine is not where it was built.
pub fn fixtures() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("tests/fixtures")
}

/// The folder of one golden, or of the golden bases.
pub fn golden(name: &str) -> PathBuf {
    fixtures().join("goldens").join(name)
}

/// The goldens of one adapter each, with gradients and merges.
pub fn goldens() -> Vec<String> {
    let folders = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path());
    let with_gradients = folders.filter(|folder| folder.join("grads.safetensors").exists());
    let mut names: Vec<_> = with_gradients.map(|f| f.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// All tensors of a file.
pub fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let file = TensorFile::open(path).unwrap();
    file.names().map(|name| (name.to_owned(), file.read(name).unwrap())).collect()
}

/// A golden base model, in f32.
pub fn base(name: &str) -> Llama {
    Llama::from_dir(golden(name), None, &device()).unwrap()
}

/// The generator's notes about a golden.
pub fn meta(name: &str) -> serde_json::Value {
    json(&golden(name).join("meta.json"))
}

/// A JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The base of the golden `name` with the adapter of one of its folders, to be trained.
pub fn adapted(name: &str, folder: &str) -> Llama {
    let mut model = base(meta(name)["base"].as_str().unwrap());
    model.load_adapter(golden(name).join(folder), "default", true).unwrap();
    model
}

/// The batch that every golden was made with.
pub struct Inputs {
    pub ids: Vec<Vec<u32>>,
    /// As Transformers takes them: aligned with `ids`, −100 ignored.
    pub labels: Vec<Vec<i64>>,
    pub hidden: Vec<Vec<bool>>,
    /// The batches of the 30 steps.
    pub train: Vec<Vec<Vec<u32>>>,
}

impl Inputs {
    pub fn load() -> Self {
        let all = tensors(&golden("inputs.safetensors"));
        let rows = |name: &str| -> Vec<Vec<i64>> {
            let data = &all[name];
            let width = *data.shape().last().unwrap();
            data.iter::<i64>().collect::<Vec<_>>().chunks(width).map(<[i64]>::to_vec).collect()
        };
        let ids = |rows: Vec<Vec<i64>>| -> Vec<Vec<u32>> {
            rows.into_iter().map(|r| r.into_iter().map(|v| v as u32).collect()).collect()
        };
        Self {
            ids: ids(rows("input_ids")),
            labels: rows("labels"),
            hidden: rows("attention_mask").into_iter().map(|r| r.into_iter().map(|v| v == 0).collect()).collect(),
            train: ids(rows("train_ids")).chunks(2).map(<[Vec<u32>]>::to_vec).collect(),
        }
    }

    pub fn input(&self) -> Input {
        Input::from_rows(&self.ids, &device())
    }

    pub fn masked(&self) -> Input {
        self.input().with_mask(AttentionMask::Hidden(self.hidden.clone()))
    }
}

/// The mean loss of the next tokens, as Transformers defines it: labels are shifted, and −100 is ignored.
pub fn loss(model: &Llama, ids: &[Vec<u32>], labels: &[Vec<i64>]) -> Tensor<1> {
    let device = model.device();
    let seq = ids[0].len();
    let mut positions = Vec::new();
    let mut targets = Vec::new();
    for (b, row) in labels.iter().enumerate() {
        for (t, &label) in row.iter().enumerate().skip(1) {
            if label != -100 {
                positions.push((b * seq + t - 1) as i32);
                targets.push(label as i32);
            }
        }
    }
    let n = targets.len();
    let int = |v: Vec<i32>| Tensor::<1, Int>::from_data(TensorData::new(v, [n]), &device);
    let hidden = model.hidden(&Input::from_rows(ids, &device), None).select(0, int(positions));
    peft_learner::train::cross_entropy(model, hidden, int(targets), 1.0 / n as f64)
}

/// AdaLoRA's part of the training loss; 0 for other methods.
pub fn orthogonal(model: &Llama) -> Tensor<1> {
    match model.adapter_config("default").unwrap() {
        PeftConfig::AdaLora(_) => adalora::orthogonal_regularization(model, "default").unwrap(),
        _ => Tensor::zeros([1], &model.device()),
    }
}

/// Every id is a label.
pub fn as_labels(ids: &[Vec<u32>]) -> Vec<Vec<i64>> {
    ids.iter().map(|r| r.iter().map(|&v| i64::from(v)).collect()).collect()
}

fn floats(data: &TensorData) -> Vec<f64> {
    data.clone().convert::<f64>().iter::<f64>().collect()
}

/// The largest difference, over the largest magnitude expected.
pub fn relative_error(found: &TensorData, expected: &TensorData) -> f64 {
    let (found, expected) = (floats(found), floats(expected));
    assert_eq!(found.len(), expected.len(), "sizes differ");
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let difference = found.iter().zip(&expected).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(found.iter().all(|v| v.is_finite()), "not finite");
    if difference == 0.0 { 0.0 } else { difference / largest.max(1e-12) }
}

/// Panics with `what` when the values differ by more than `tolerance` of the largest magnitude.
pub fn assert_close(what: &str, found: &TensorData, expected: &TensorData, tolerance: f64) {
    let error = relative_error(found, expected);
    assert!(error <= tolerance, "{what}: off by {error:.3e} of the largest magnitude, allowed {tolerance:.0e}");
}
