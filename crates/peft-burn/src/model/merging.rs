//! Folding adapters into the base's weights, and taking them out again.

use super::adaptable::AdaptableModel;
use super::checks;
use super::state::{PeftState, check_known};
use crate::error::{PeftError, Result, Unsupported};

/// Folds the adapters `names` into the base; with `safe`, only where every merged weight is finite.
pub(super) fn merge<M: AdaptableModel>(model: &mut M, names: &[&str], safe: bool) -> Result<()> {
    let state = model.peft_state();
    names.iter().try_for_each(|name| check_known(name, state))?;
    checks::together(model.layers(), names)?;
    if !state.merged.is_empty() {
        return Err(PeftError::Merged { operation: "merge again".into(), adapters: state.merged.clone() });
    }
    if state.disabled {
        return Err(Unsupported::DisabledMerge.into());
    }
    checks::not_quantised(model.layers(), names)?;
    let owned: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    if safe {
        checks::finite(model.layers(), &owned)?;
    }
    model.prepare_merge(names, false)?;
    let names = owned;
    for (_, layer) in model.layers_mut() {
        layer.merge(&names)?;
    }
    model.peft_state_mut().merged = names;
    Ok(())
}

/// Takes merged adapters out of the base again.
pub(super) fn unmerge<M: AdaptableModel>(model: &mut M) {
    model.layers_mut().into_iter().for_each(|(_, layer)| layer.unmerge());
    model.peft_state_mut().merged.clear();
}

/// Folds the active adapters in for good. After an error the model is what it was.
pub(super) fn merge_and_unload<M: AdaptableModel>(model: &mut M, safe: bool) -> Result<()> {
    let active = model.peft_state().active.clone();
    let names: Vec<&str> = active.iter().map(String::as_str).collect();
    let before = model.clone();
    if let Err(error) = model.prepare_merge(&names, true).and_then(|()| merge(model, &names, safe)) {
        *model = before;
        return Err(error);
    }
    forget(model);
    Ok(())
}

/// Forgets all adapters; what is merged stays.
pub(super) fn forget<M: AdaptableModel>(model: &mut M) {
    model.layers_mut().into_iter().for_each(|(_, layer)| layer.keep_merged());
    *model.peft_state_mut() = PeftState::default();
}
