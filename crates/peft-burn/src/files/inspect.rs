//! The contents of an adapter directory, told from its files alone.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;

use super::names::CONFIG_NAME;
use super::saved_config;
use super::weights::AdapterWeights;
use crate::error::{PeftError, Result};
use crate::methods::{MethodConfig, PeftConfig, tensor_problems};

/// An adapter directory at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSummary {
    /// Its configuration.
    pub config: PeftConfig,
    /// The modules it touches, by path.
    pub modules: BTreeMap<String, AdaptedModule>,
    /// Numbers in the file.
    pub parameters: usize,
    /// Bytes of the tensors.
    pub bytes: usize,
    /// Tensors by dtype, as safetensors names it.
    pub dtypes: BTreeMap<String, usize>,
    /// Tensors that hold NaN or infinity.
    pub non_finite: Vec<String>,
    /// Contradictions in the file or between file and configuration; non-finite tensors are not repeated here.
    pub problems: Vec<String>,
    /// Notes for the user.
    pub warnings: Vec<String>,
}

/// The parts of an adapter for one module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdaptedModule {
    /// The rank, of methods that have one.
    pub rank: Option<usize>,
    /// Shapes by the tensors' names after the module's path.
    pub tensors: BTreeMap<String, Vec<usize>>,
}

impl AdaptedModule {
    /// Numbers in the tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|shape| shape.iter().product::<usize>()).sum()
    }
}

impl AdapterSummary {
    /// Reads an adapter directory, values included.
    ///
    /// # Errors
    /// A configuration or a tensor file that is missing or cannot be read.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let (config, mut warnings) = PeftConfig::from_dir(dir)?;
        let weights = AdapterWeights::open(dir, &config)?;
        warnings.extend(weights.warnings());
        let mut problems = weights.problems().to_vec();
        match saved_config::for_loading(&config, CONFIG_NAME) {
            Ok(saved) => warnings.extend(saved.warnings),
            Err(PeftError::Config { problems: found, .. }) => problems.extend(found),
            Err(error) => return Err(error),
        }
        let mut summary = Self {
            config,
            modules: BTreeMap::new(),
            parameters: 0,
            bytes: 0,
            dtypes: BTreeMap::new(),
            non_finite: Vec::new(),
            problems,
            warnings,
        };
        let tells_rank = summary.config.rank_tensors();
        for name in weights.names() {
            let shape = weights.shape(name).unwrap_or_default().to_vec();
            summary.parameters += shape.iter().product::<usize>();
            summary.bytes += weights.num_bytes(name);
            *summary.dtypes.entry(weights.dtype(name)).or_insert(0) += 1;
            if !is_finite(&weights.read(name)?) {
                summary.non_finite.push(name.to_owned());
            }
            match split(&*summary.config, name) {
                Some((path, tensor)) => {
                    let module = summary.modules.entry(path.to_owned()).or_default();
                    module.rank =
                        module.rank.or_else(|| shape.first().copied().filter(|_| tells_rank.contains(&tensor)));
                    module.tensors.insert(tensor.to_owned(), shape);
                }
                None => summary.problems.push(format!("{name} is not named as PEFT names an adapter's tensors")),
            }
        }
        if summary.modules.is_empty() {
            summary.problems.push("it holds no tensor of any module".into());
        }
        let check = |(path, module): (&String, &AdaptedModule)| {
            tensor_problems(&*summary.config, path, module.rank, &module.tensors)
        };
        let found: Vec<_> = summary.modules.iter().flat_map(check).collect();
        summary.problems.extend(found);
        Ok(summary)
    }

    /// The method in the words of its users: DoRA and rsLoRA are LoRA to PEFT.
    pub fn method(&self) -> &'static str {
        self.config.display_name()
    }
}

fn is_finite(data: &TensorData) -> bool {
    data.iter::<f32>().all(f32::is_finite)
}

/// A name in the file as the module's path and the tensor's name. What belongs to no module has the path `base_model`, as
/// in its name.
fn split<'a>(config: &dyn MethodConfig, name: &'a str) -> Option<(&'a str, &'a str)> {
    if config.tensors_of_no_module().contains(&name) {
        return name.split_once('.');
    }
    let rest = name.strip_prefix("base_model.model.")?;
    let own = [&format!(".{}", config.tensor_prefix()), ".token_adapter.", ".base_layer."];
    let at = own.iter().filter_map(|part| rest.find(*part)).min().or_else(|| rest.rfind('.'))?;
    Some((&rest[..at], &rest[at + 1..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::files::WEIGHTS_NAME;
    use crate::tensor_file::write_tensors;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens").join(name).join("adapter")
    }

    #[test]
    fn every_method_is_told_from_its_files() {
        for (name, method, rank) in [
            ("lora", "LoRA", Some(4)),
            ("rslora", "rsLoRA", Some(4)),
            ("dora", "DoRA", Some(4)),
            ("adalora", "AdaLoRA", Some(6)),
            ("vera", "VeRA", Some(16)),
            ("ia3", "IA3", None),
            ("loha", "LoHa", Some(4)),
        ] {
            let summary = AdapterSummary::read(golden(name)).unwrap();
            let q = "model.layers.0.self_attn.k_proj";
            let module = summary.modules.get(q).or(summary.modules.get("model.layers.0.self_attn.q_proj")).unwrap();
            assert_eq!((summary.method(), module.rank), (method, rank), "{name}");
            assert!(summary.problems.is_empty() && summary.non_finite.is_empty(), "{name}: {:?}", summary.problems);
            assert_eq!(summary.parameters, summary.modules.values().map(AdaptedModule::parameters).sum::<usize>());
        }
    }

    #[test]
    fn contradictions_and_nan_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(golden("lora").join("adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
        let key = |suffix: &str| format!("base_model.model.model.layers.0.self_attn.{suffix}");
        let tensors = BTreeMap::from([
            (key("q_proj.lora_A.weight"), TensorData::new(vec![1.0_f32; 16], [8, 2])),
            (key("q_proj.lora_B.weight"), TensorData::new(vec![f32::NAN; 15], [3, 5])),
            (key("v_proj.lora_A.weight"), TensorData::new(vec![1.0_f32; 8], [4, 2])),
            ("optimizer_state".to_owned(), TensorData::new(vec![1.0_f32; 2], [2])),
        ]);
        write_tensors(dir.path().join(WEIGHTS_NAME), &tensors, &[]).unwrap();
        let summary = AdapterSummary::read(dir.path()).unwrap();
        assert_eq!(summary.non_finite, [key("q_proj.lora_B.weight")]);
        let problems = summary.problems.join("\n");
        for part in [
            "optimizer_state is not named as PEFT names",
            "q_proj has rank 8, and its configuration says 4",
            "A is [8, 2] and B is [3, 5]",
            "v_proj has lora_A.weight and no lora_B.weight",
        ] {
            assert!(problems.contains(part), "{part} is not in\n{problems}");
        }
    }
}
