//! Adapters of mlx-lm, which are LoRA and DoRA under other names: A and B lie the other way round, and the scale stands in
//! the configuration itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use serde_json::Value;

use super::names::CONFIG_NAME;
use super::rewritten::Rewritten;
use crate::config::{Object, TargetModules, TaskType};
use crate::error::{PeftError, Result};
use crate::methods::{LoraConfig, PeftConfig};
use crate::model::file_key;
use crate::tensor_file::TensorFile;

/// The file with the tensors.
const WEIGHTS: &str = "adapters.safetensors";

/// Whether an `adapter_config.json` is one of mlx-lm's.
pub(super) fn is_mlx(config: &Object) -> bool {
    let has = |key: &str| config.contains_key(key);
    !has("peft_type") && (has("lora_parameters") || has("fine_tune_type") || has("lora_layers"))
}

/// The adapter in `dir`, with the configuration `config`, as PEFT has it.
///
/// # Errors
/// Files of no adapter (a full fine-tune), a configuration without rank or scale, and tensors that are not those of LoRA or
/// DoRA: all at once.
pub(super) fn read(dir: &Path, config: &Object) -> Result<Rewritten> {
    let origin = dir.join(CONFIG_NAME).display().to_string();
    let (settings, mut problems) = Settings::read(config);
    if !dir.join(WEIGHTS).exists() && dir.join("adapters.npz").exists() {
        problems.push("adapters.npz is of an older mlx-lm: fuse it there (mlx_lm.fuse), or train again".into());
    } else if let (false, Some(newest)) = (dir.join(WEIGHTS).exists(), checkpoints(dir).last()) {
        problems.push(format!(
            "{WEIGHTS} is missing, and there are checkpoints of mlx-lm up to {newest}: copy the one that you want to {WEIGHTS}"
        ));
    }
    if !problems.is_empty() {
        return Err(PeftError::Config { origin, problems });
    }
    let file = TensorFile::open(dir.join(WEIGHTS))?;
    let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
    let mut unexpected = Vec::new();
    for name in file.names() {
        let (path, part) = name.rsplit_once('.').unwrap_or(("", name));
        let layer = layers.entry(path.to_owned()).or_default();
        match part {
            "lora_a" if file.shape(name).is_some_and(|shape| shape.len() == 2) => layer.a = Some(file.read(name)?),
            "lora_b" if file.shape(name).is_some_and(|shape| shape.len() == 2) => layer.b = Some(file.read(name)?),
            "m" if settings.dora => layer.m = Some(file.read(name)?),
            _ => unexpected.push(format!("{name} {:?}", file.shape(name).unwrap_or_default())),
        }
    }
    layers.retain(|_, layer| layer.a.is_some() || layer.b.is_some() || layer.m.is_some());
    let mut missing = Vec::new();
    let mut tensors = BTreeMap::new();
    let mut ranks = BTreeMap::new();
    for (path, layer) in layers {
        let embedding = path.ends_with("embed_tokens");
        let (Some(a), Some(b)) = (layer.a, layer.b) else {
            missing.push(format!("{path}.lora_a or {path}.lora_b"));
            continue;
        };
        match (layer.m, embedding) {
            (None, _) if settings.dora => missing.push(format!("{path}.m")),
            (Some(_), true) => {
                unexpected.push(format!("{path}.m (DoRA of an embedding, which PEFT computes otherwise)"))
            }
            (m, _) => drop(m.map(|m| tensors.insert(file_key(&path, "lora_magnitude_vector"), m))),
        }
        ranks.insert(path.clone(), a.shape()[1]);
        let names =
            if embedding { ["lora_embedding_A", "lora_embedding_B"] } else { ["lora_A.weight", "lora_B.weight"] };
        for (name, data) in names.into_iter().zip([a, b]) {
            tensors.insert(file_key(&path, name), transposed(data));
        }
    }
    if tensors.is_empty() {
        missing.push("any lora_a and lora_b".into());
    }
    if !(missing.is_empty() && unexpected.is_empty()) {
        let path = file.path().to_owned();
        return Err(PeftError::Tensors { path, missing, unexpected, misshapen: Vec::new(), non_finite: Vec::new() });
    }
    let config = settings.config(&ranks);
    Ok(Rewritten { from: "mlx-lm", config: PeftConfig::Lora(config), tensors, warnings: settings.warnings })
}

/// The files that mlx-lm writes on the way (`0000100_adapters.safetensors`), in the order of their steps.
fn checkpoints(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let steps = |name: &String| {
        name.strip_suffix(WEIGHTS)
            .and_then(|name| name.strip_suffix('_'))
            .is_some_and(|step| step.parse::<u64>().is_ok())
    };
    let mut names: Vec<_> = names.filter(steps).collect();
    names.sort();
    names
}

#[derive(Default)]
struct Layer {
    a: Option<TensorData>,
    b: Option<TensorData>,
    m: Option<TensorData>,
}

/// The settings of the configuration.
struct Settings {
    dora: bool,
    /// s of `W·x + s·B·A·x`.
    scale: f64,
    dropout: f64,
    model: Option<String>,
    warnings: Vec<String>,
}

impl Settings {
    fn read(config: &Object) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let kind = config.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
        if !matches!(kind, "lora" | "dora") {
            problems.push(format!(
                "fine_tune_type = \"{kind}\" is no adapter: make a model of it with mlx_lm.fuse, and of that a LoRA \
                 (`extract_lora`)"
            ));
        }
        let empty = Object::new();
        let parameters = config.get("lora_parameters").and_then(Value::as_object).unwrap_or(&empty);
        let number = |key: &str| parameters.get(key).and_then(Value::as_f64);
        let mut warnings = Vec::new();
        let scale = match (number("scale"), number("alpha"), number("rank").or(number("r"))) {
            (Some(scale), Some(alpha), Some(rank)) if rank > 0.0 => {
                warnings.push(format!(
                    "lora_parameters has an alpha: the update is scaled by scale × alpha / rank = {}, as mlx-lm did while it \
                     had one",
                    scale * alpha / rank
                ));
                scale * alpha / rank
            }
            (Some(scale), _, _) => scale,
            (None, _, _) => {
                problems.push("lora_parameters has no scale: without it the size of the update is not known".into());
                1.0
            }
        };
        let model = config.get("model").and_then(Value::as_str).map(str::to_owned);
        if model.as_deref().is_some_and(|name| name.contains("bit")) {
            warnings.push(format!(
                "the adapter was trained on {:?}, which looks quantised: on the original weights it computes a little else",
                model.as_deref().unwrap_or_default()
            ));
        }
        let dropout = number("dropout").unwrap_or(0.0);
        (Self { dora: kind == "dora", scale, dropout, model, warnings }, problems)
    }

    fn config(&self, ranks: &BTreeMap<String, usize>) -> LoraConfig {
        let r = ranks.values().copied().max().unwrap_or(1);
        let others = || ranks.iter().filter(|(_, rank)| **rank != r);
        let paths: BTreeSet<&String> = ranks.keys().collect();
        LoraConfig {
            r,
            lora_alpha: self.scale * r as f64,
            lora_dropout: self.dropout,
            rank_pattern: others().map(|(path, rank)| (path.clone(), *rank)).collect(),
            alpha_pattern: others().map(|(path, rank)| (path.clone(), self.scale * *rank as f64)).collect(),
            // In full: mlx-lm adapts the last layers alone unless it is told otherwise.
            target_modules: TargetModules::list(paths),
            use_dora: self.dora,
            task_type: Some(TaskType::CausalLm),
            base_model_name_or_path: self.model.clone(),
            ..LoraConfig::default()
        }
    }
}

fn transposed(data: TensorData) -> TensorData {
    let dtype = data.dtype();
    let host = (&burn::tensor::Device::flex(), DType::F32);
    let tensor = Tensor::<2>::from_data(data.convert_dtype(DType::F32), host).transpose();
    tensor.into_data().convert_dtype(dtype)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::files::rewrite_adapter;
    use crate::tensor_file::write_tensors;

    fn write(dir: &Path, config: &str, tensors: &[(&str, [usize; 2])]) {
        std::fs::write(dir.join(CONFIG_NAME), config).unwrap();
        let data =
            |shape: [usize; 2]| TensorData::new((0..shape[0] * shape[1]).map(|v| v as f32).collect::<Vec<_>>(), shape);
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), data(*shape))).collect();
        write_tensors(dir.join(WEIGHTS), &tensors, &[]).unwrap();
    }

    #[test]
    fn ranks_and_scales_become_pefts() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"lora_layers": 4, "model": "m", "lora_parameters": {"rank": 2, "alpha": 16, "scale": 10.0, "dropout": 0.05}}"#;
        let tensors = [
            ("model.a.q_proj.lora_a", [5, 2]),
            ("model.a.q_proj.lora_b", [2, 3]),
            ("model.a.v_proj.lora_a", [5, 1]),
            ("model.a.v_proj.lora_b", [1, 3]),
        ];
        write(dir.path(), config, &tensors);
        let rewritten = rewrite_adapter(dir.path(), dir.path().join("out")).unwrap();
        assert!(rewritten.warnings[0].contains("= 80"), "{:?}", rewritten.warnings);
        let (config, warnings) = PeftConfig::from_dir(dir.path().join("out")).unwrap();
        let PeftConfig::Lora(lora) = config else { unreachable!() };
        assert_eq!((lora.r, lora.lora_alpha, lora.lora_dropout), (2, 160.0, 0.05));
        assert_eq!((lora.rank_for("model.a.v_proj"), lora.alpha_for("model.a.v_proj")), (1, 80.0));
        assert!(warnings.is_empty());
        let file = TensorFile::open(dir.path().join("out/adapter_model.safetensors")).unwrap();
        let a = file.read("base_model.model.model.a.q_proj.lora_A.weight").unwrap();
        assert_eq!(a, TensorData::new(vec![0.0_f32, 2.0, 4.0, 6.0, 8.0, 1.0, 3.0, 5.0, 7.0, 9.0], [2, 5]));
    }

    #[test]
    fn what_is_no_adapter_is_told_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write(dir.path(), r#"{"fine_tune_type": "full", "lora_parameters": {}}"#, &[("model.q.weight", [2, 2])]);
        let error = rewrite_adapter(dir.path(), &out).unwrap_err().to_string();
        assert!(error.contains("mlx_lm.fuse") && error.contains("no scale"), "{error}");
        let lora = r#"{"fine_tune_type": "dora", "lora_parameters": {"scale": 2.0}}"#;
        write(
            dir.path(),
            lora,
            &[
                ("model.q.lora_a", [2, 2]),
                ("model.k.lora_a", [2, 1]),
                ("model.k.lora_b", [1, 2]),
                ("model.n.weight", [2, 2]),
            ],
        );
        let error = rewrite_adapter(dir.path(), &out).unwrap_err().to_string();
        for part in ["model.q.lora_b", "model.k.m", "model.n.weight"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        assert!(!out.exists());
        for step in ["0000100", "0000200"] {
            std::fs::copy(dir.path().join(WEIGHTS), dir.path().join(format!("{step}_{WEIGHTS}"))).unwrap();
        }
        std::fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
        let error = rewrite_adapter(dir.path(), &out).unwrap_err().to_string();
        assert!(error.contains("up to 0000200_adapters.safetensors: copy the one"), "{error}");
        let error = PeftConfig::from_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("mlx-lm") && error.contains("rewrite_adapter"), "{error}");
    }
}
