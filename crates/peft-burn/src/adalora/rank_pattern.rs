//! AdaLoRA's `rank_pattern`, and adapters cut down to it: what is saved is smaller than what was trained.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::layers::layers;
use crate::error::Result;
use crate::methods::adalora::triplets::select;
use crate::methods::{AdaLora, PeftConfig};
use crate::model::{PeftModel, file_key};

/// Which triplets of the adapter `name` live, by `<path>.lora_E` as in `adapter_config.json`; `None` while none is gone.
///
/// Between two masks that are those that the last one kept and those that came alive since, so that nothing that takes
/// part is lost.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub fn rank_pattern<M: PeftModel>(model: &M, name: &str) -> Result<Option<BTreeMap<String, Vec<bool>>>> {
    let (_, layers) = layers(model, name)?;
    let flags = layers.into_iter().map(|(path, layer)| (format!("{path}.lora_E"), layer.of_all(&layer.live())));
    let pattern: BTreeMap<_, _> = flags.collect();
    Ok(pattern.values().flatten().any(|live| !live).then_some(pattern))
}

/// How much of its rank a module kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRank {
    /// The module's path.
    pub path: String,
    /// The triplets that were not pruned.
    pub rank: usize,
    /// The rank that training began with.
    pub of: usize,
}

/// The rank that each module of the adapter `name` has now, in the model's order.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub fn kept_ranks<M: PeftModel>(model: &M, name: &str) -> Result<Vec<KeptRank>> {
    let (config, layers) = layers(model, name)?;
    let rank = |layer: &AdaLora| layer.live().into_iter().filter(|live| *live).count();
    Ok(layers.into_iter().map(|(path, layer)| KeptRank { path, rank: rank(layer), of: config.init_r }).collect())
}

/// Cuts an adapter's tensors and configuration down to the live triplets, as they are saved. Adapters of other methods stay as
/// they are.
pub(crate) fn cut_to_live<M: PeftModel>(
    model: &M,
    name: &str,
    config: &mut PeftConfig,
    tensors: &mut BTreeMap<String, TensorData>,
) -> Result<()> {
    let PeftConfig::AdaLora(adalora) = config else { return Ok(()) };
    adalora.rank_pattern = rank_pattern(model, name)?;
    for (path, layer) in layers(model, name)?.1 {
        let live = layer.live();
        for (suffix, axis) in [("lora_A", 0), ("lora_E", 0), ("lora_B", 1)] {
            if let Some(data) = tensors.get_mut(&file_key(&path, suffix)) {
                *data = select(data, axis, &live);
            }
        }
    }
    Ok(())
}
