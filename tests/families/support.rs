//! A case: a model, a batch, and what the reference makes of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use llama_burn::{AttentionMask, Input, Llama};
use peft_burn_workspace::{device, fixtures, tensors};

/// The notes of `tests/python/families.py` about one model.
pub struct Case {
    pub folder: PathBuf,
    pub expected: BTreeMap<String, TensorData>,
    pub ids: Vec<Vec<u32>>,
    /// As Transformers takes them: aligned with `ids`, −100 ignored.
    pub labels: Vec<Vec<i64>>,
    /// Padding, on the left.
    pub hidden: Vec<Vec<bool>>,
}

impl Case {
    /// The case whose model is at `config`.
    pub fn of(config: &Path) -> Self {
        let folder = config.parent().unwrap().to_owned();
        let expected = tensors(&folder.join("case.safetensors"));
        let rows = |name: &str| -> Vec<Vec<i64>> {
            let data: &TensorData = &expected[name];
            let width = *data.shape().last().unwrap();
            data.iter::<i64>().collect::<Vec<_>>().chunks(width).map(<[i64]>::to_vec).collect()
        };
        let ids = rows("input_ids").into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect();
        let hidden = rows("attention_mask").into_iter().map(|row| row.into_iter().map(|v| v == 0).collect()).collect();
        let labels = rows("labels");
        Self { folder, expected, ids, labels, hidden }
    }

    /// The case of that name.
    pub fn named(name: &str) -> Self {
        Self::of(&fixtures().join("families").join(name).join("config.json"))
    }

    /// The model, in f32.
    pub fn model(&self) -> Llama {
        Llama::from_dir(&self.folder, None, &device()).unwrap()
    }

    pub fn input(&self) -> Input {
        Input::from_rows(&self.ids, &device())
    }

    pub fn masked(&self) -> Input {
        self.input().with_mask(AttentionMask::Hidden(self.hidden.clone()))
    }

    /// The first `columns` tokens of each row.
    pub fn first(&self, columns: usize) -> Vec<Vec<u32>> {
        self.ids.iter().map(|row| row[..columns].to_vec()).collect()
    }
}
