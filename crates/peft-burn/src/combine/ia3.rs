//! Combinations of IA3 adapters.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Tensor;

use super::kinds::{Combination, Weighting, own_weight, refuse};
use crate::config::{ModuleNames, TargetModules};
use crate::error::{NotCombined, Result};
use crate::methods::{Ia3Config, PeftConfig};
use crate::model::PeftModel;

/// l = Σ w·l.
pub(super) fn add_ia3<M: PeftModel>(
    model: &mut M,
    name: &str,
    adapters: &[(&str, f64)],
    weighting: &Weighting,
    first: PeftConfig,
) -> Result<()> {
    if weighting.combination != Combination::Linear {
        return Err(refuse(NotCombined::Ia3Kind { kind: format!("{:?}", weighting.combination) }));
    }
    let mut sums: BTreeMap<String, (bool, Tensor<2>)> = BTreeMap::new();
    for (path, layer) in model.layers() {
        for (adapter, weight) in adapters {
            let Some(found) = layer.linear().and_then(|linear| linear.adapters().get(adapter)) else { continue };
            let Some(scale) = found.method.as_ref().and_then(|method| method.scale()) else {
                return Err(refuse(own_weight(adapter, "a weight", path)));
            };
            let (role, scaled) = (scale.of_input, scale.values.val().detach().inner().mul_scalar(*weight));
            let sum = match sums.remove(&path) {
                Some((other, _)) if other != role => {
                    return Err(refuse(NotCombined::Feedforward { path }));
                }
                Some((_, sum)) => sum + scaled,
                None => scaled,
            };
            sums.insert(path.clone(), (role, sum));
        }
    }
    let feedforward: BTreeSet<_> = sums.iter().filter(|(_, (role, _))| *role).map(|(path, _)| path.clone()).collect();
    let config = Ia3Config {
        target_modules: TargetModules::list(sums.keys()),
        feedforward_modules: Some(ModuleNames::list(feedforward)),
        task_type: first.task_type(),
        base_model_name_or_path: first.base_model_name_or_path().map(Into::into),
        ..Ia3Config::default()
    };
    let active = model.active_adapters().to_vec();
    model.add_adapter(name, &config.into(), 0)?;
    for (key, mut param) in model.adapter_params_mut(name)? {
        let path = key.trim_start_matches("base_model.model.").trim_end_matches(".ia3_l");
        if let Some((_, sum)) = sums.remove(path) {
            param.set(sum.into_data());
        }
    }
    model.set_adapter(&active.iter().map(String::as_str).collect::<Vec<_>>())
}
