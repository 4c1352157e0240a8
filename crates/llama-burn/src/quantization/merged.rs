//! A merged model whose weights are packed again.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use fused_burn::{PackedWeight, Weight};

use super::config::BaseQuantization;
use crate::error::{LlamaError, Result};
use crate::gguf;
use crate::merge::{MergeReport, merged, part_of, write_merged};
use crate::model::Llama;
use crate::model::parts::PartMut;
use crate::weights::save_tensors;

/// The results of merging into packed weights.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedMergeReport {
    /// The merge.
    pub merge: MergeReport,
    /// Of each merged module the share of the update that is left after rounding: 1 is all of it, 0 nothing.
    pub survives: BTreeMap<String, f64>,
}

/// As [`merge_into`](crate::merge_into), with the weights of projections packed again, as [`quantize_into`](crate::quantize_into)
/// packs them. Rounding can erase a small update: the report says how much of it is left.
///
/// # Errors
/// As [`merge_into`](crate::merge_into), and weights that cannot be quantised.
pub fn merge_into_packed(
    base: impl AsRef<Path>,
    adapter: impl AsRef<Path>,
    output: impl AsRef<Path>,
    how: &BaseQuantization,
    device: &Device,
) -> Result<PackedMergeReport> {
    let (base, adapter, output) = (&*gguf::directory(base.as_ref())?, adapter.as_ref(), output.as_ref());
    let part = part_of(output)?;
    let mut before = BTreeMap::new();
    let (mut model, mut merge) = merged(base, adapter, device, |model| before.extend(model.matrices()))?;
    let (survives, dtype) = model.pack_again(how, &before)?;
    write_merged([base, adapter, output], &part, &model, &mut merge, |part| {
        let stored = save_tensors(part, model.stored_weights())?;
        Ok(vec![
            ("quantization_config", how.to_json(dtype)),
            ("dtype", stored.torch_name().into()),
            ("torch_dtype", serde_json::Value::Null),
        ])
    })?;
    Ok(PackedMergeReport { merge, survives })
}

impl Llama {
    /// Packs the weights of projections. Returns which share of the difference to `before` is left in those that differ, and the
    /// dtype of what packed weights are decoded to.
    fn pack_again(
        &mut self,
        how: &BaseQuantization,
        before: &BTreeMap<String, Weight>,
    ) -> Result<(BTreeMap<String, f64>, DType)> {
        let (mut survives, mut dtype) = (BTreeMap::new(), DType::F32);
        for (path, part) in self.parts_mut() {
            let PartMut::Linear(linear) = part else { continue };
            if !how.packs(&path) {
                continue;
            }
            let weight = linear.base().weight.val().dense();
            dtype = weight.dtype();
            let pack = |weight: Tensor<2>| {
                let packed =
                    PackedWeight::quantize(weight, how.of_weight(), dtype, &linear.base().weight.val().device());
                packed.map_err(|error| LlamaError::Quantization { tensor: format!("{path}.weight"), error })
            };
            let packed = pack(weight.clone())?;
            if let Some(before) = before.get(&path).map(Weight::dense).filter(|before| before.dims() == weight.dims()) {
                let wide = |t: Tensor<2>| t.cast(DType::F32);
                let update = wide(weight) - wide(before.clone());
                let size = update.clone().powi_scalar(2).sum().into_scalar::<f64>();
                if size > 0.0 {
                    let left = wide(packed.dense()) - wide(pack(before)?.dense());
                    survives.insert(path.clone(), (left * update).sum().into_scalar::<f64>() / size);
                }
            }
            linear.base_mut().weight.set(packed);
        }
        Ok((survives, dtype))
    }
}
