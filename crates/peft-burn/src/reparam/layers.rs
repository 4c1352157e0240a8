//! The linear layers of a model that knows nothing of adapters, as layers that take them.

use burn::module::Module;

use super::parameters::Parameters;
use crate::error::{Result, Unsupported};
use crate::layers::layer::{LayerMut, LayerRef};
use crate::layers::linear::PeftLinear;
use crate::model::{AdaptableModel, PeftState};
use crate::modules::ModuleInfo;

/// The linear layers of a model with its adapter on them, apart from the model: a [`PeftModel`](crate::PeftModel) to look into, save,
/// merge or convert. It shares the model's memory.
#[derive(Module, Debug)]
pub struct AdaptedLayers {
    pub(super) layers: Vec<PeftLinear>,
    #[module(skip)]
    modules: Vec<ModuleInfo>,
    #[module(skip)]
    peft: PeftState,
}

impl AdaptableModel for AdaptedLayers {
    fn layers(&self) -> Vec<(String, LayerRef<'_>)> {
        self.linear_paths().into_iter().zip(self.layers.iter().map(LayerRef::Linear)).collect()
    }

    fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)> {
        self.linear_paths().into_iter().zip(self.layers.iter_mut().map(LayerMut::Linear)).collect()
    }

    fn modules(&self) -> Vec<ModuleInfo> {
        self.modules.clone()
    }

    fn peft_state(&self) -> &PeftState {
        &self.peft
    }

    fn peft_state_mut(&mut self) -> &mut PeftState {
        &mut self.peft
    }
}

impl AdaptedLayers {
    /// The layers are the first modules.
    pub(super) fn linear_paths(&self) -> Vec<String> {
        self.modules.iter().take(self.layers.len()).map(|module| module.path.clone()).collect()
    }

    pub(super) fn of<M: Module>(model: &M) -> Result<Self> {
        let mut found = Parameters::default();
        model.visit(&mut found);
        if found.reparameterized {
            return Err(Unsupported::SecondParamAdapter.into());
        }
        let Parameters { weights, mut biases, others, .. } = found;
        let (mut layers, mut modules) = (Vec::new(), Vec::new());
        for (path, weight) in weights {
            let bias = biases.remove(&path).map(|b| b.detach());
            let [inp, out] = weight.dims();
            modules.push(ModuleInfo::linear(&path, inp, out).with_bias(bias.is_some()));
            layers.push(PeftLinear::new(weight.detach().transpose(), bias));
        }
        modules.extend(others.into_iter().map(|(path, numbers)| ModuleInfo::other(path, numbers)));
        Ok(Self { layers, modules, peft: PeftState::default() })
    }
}
