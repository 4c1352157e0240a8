//! Adapters made weaker or stronger.

use super::adaptable::AdaptableModel;
use crate::error::{PeftError, Result, Unsupported};

/// `model` with the scaling of every low-rank adapter multiplied.
pub(super) fn rescaled<M: AdaptableModel>(model: &M, multiplier: f64) -> Result<M> {
    if !multiplier.is_finite() {
        return Err(Unsupported::Scale(multiplier).into());
    }
    let merged = &model.peft_state().merged;
    if !merged.is_empty() {
        let (operation, adapters) = ("rescale".to_owned(), merged.to_vec());
        return Err(PeftError::Merged { operation, adapters });
    }
    let mut model = model.clone();
    let scaled: usize = model.layers_mut().into_iter().map(|(_, layer)| layer.rescale(multiplier)).sum();
    if scaled == 0 {
        return Err(Unsupported::NothingToRescale.into());
    }
    Ok(model)
}
