//! AdaLoRA's `rank_pattern`, and adapters cut down to it: what is saved is smaller than what was trained.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::AdaLora;
use super::adalora::layers;
use crate::config::AdaLoraConfig;
use crate::error::Result;
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
    /// Its triplets that live.
    pub rank: usize,
    /// Those that training began with.
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

/// Cuts an adapter's tensors and configuration down to the live triplets, as they are saved.
pub(crate) fn cut_to_live<M: PeftModel>(
    model: &M,
    name: &str,
    config: &mut AdaLoraConfig,
    tensors: &mut BTreeMap<String, TensorData>,
) -> Result<()> {
    config.rank_pattern = rank_pattern(model, name)?;
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

/// The rows (`axis` 0) or columns (1) of a matrix in f32 that are flagged.
pub(super) fn select(data: &TensorData, axis: usize, flags: &[bool]) -> TensorData {
    let columns = data.shape()[1];
    let index = |i: usize| if axis == 0 { i / columns } else { i % columns };
    let values: Vec<f32> = data.iter::<f32>().enumerate().filter(|(i, _)| flags[index(*i)]).map(|(_, v)| v).collect();
    let mut shape = [data.shape()[0], columns];
    shape[axis] = flags.iter().filter(|f| **f).count();
    TensorData::new(values, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flagged_rows_or_columns_are_selected() {
        let data = TensorData::new(vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
        assert_eq!(select(&data, 1, &[true, false, true]), TensorData::new(vec![1.0_f32, 3.0, 4.0, 6.0], [2, 2]));
        assert_eq!(select(&data, 0, &[false, false]), TensorData::new(Vec::<f32>::new(), [0, 3]));
    }
}
