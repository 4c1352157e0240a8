//! Models that take adapters.

use burn::module::Module;

use super::state::PeftState;
use crate::error::Result;
use crate::layers::layer::{LayerMut, LayerRef};
use crate::modules::ModuleInfo;

/// The trait that a model crate implements so that its models take adapters: the layers by their Hugging Face paths.
/// Everything that is done with adapters then comes from [`PeftModel`](crate::PeftModel). For one's own model
/// [`layers!`](crate::layers) writes it.
pub trait AdaptableModel: Module {
    /// The `model_type` of the Hugging Face configuration, which decides default targets. Without one they must be set.
    fn model_type(&self) -> &str {
        ""
    }
    /// Every layer that could take an adapter, with its path, in the model's order.
    fn layers(&self) -> Vec<(String, LayerRef<'_>)>;
    /// The layers of [`layers`](Self::layers) by mutable reference, in the same order.
    fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)>;
    /// The model's modules, norms included, for target selection and counts. Without more, the layers.
    fn modules(&self) -> Vec<ModuleInfo> {
        let info = |(path, layer): (String, LayerRef<'_>)| match layer {
            LayerRef::Linear(l) => {
                ModuleInfo::linear(path, l.dims()[0], l.dims()[1]).with_bias(l.base().bias.is_some())
            }
            LayerRef::Embedding(e) => ModuleInfo::embedding(path, e.dims()[0], e.dims()[1]),
            LayerRef::Norm(norm) => ModuleInfo::other(path, norm.base().val().dims()[0]),
        };
        self.layers().into_iter().map(info).collect()
    }
    /// How many numbers the base has, a shared weight counted once.
    fn num_base_parameters(&self) -> usize {
        self.modules().iter().map(ModuleInfo::parameters).sum()
    }
    /// Prepares weights that two layers share, such as a tied head's, for folding the adapters `names` in: for good
    /// (`for_good`), or until they are unmerged. A model without such weights has nothing to do.
    ///
    /// # Errors
    /// A merge that the sharing does not allow: before anything changes.
    fn prepare_merge(&mut self, names: &[&str], for_good: bool) -> Result<()> {
        let _ = (names, for_good);
        Ok(())
    }
    /// Where the model keeps its adapters' configurations.
    fn peft_state(&self) -> &PeftState;
    /// The configurations by mutable reference.
    fn peft_state_mut(&mut self) -> &mut PeftState;
}
