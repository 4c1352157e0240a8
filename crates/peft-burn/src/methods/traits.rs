//! What a method is: the behaviour of its configuration ([`MethodConfig`]), of its adapter on one layer
//! ([`MethodLayer`]), and how the one makes the other ([`PeftMethod`]).
//!
//! A method implements these three in its folder and is named once in the list in [`crate::methods`]; the rest of the
//! crate, and whoever uses it, asks no further which method it is.

use std::collections::BTreeMap;
use std::fmt::Debug;

use burn::module::ParamId;
use burn::tensor::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dora::{EmbeddingLora, Magnitude};
use super::vera::VeraProjection;
use crate::config::{
    Bias, ModuleNames, Object, OneOrMany, Shared, SharedMut, TargetModules, TaskType, TokenIndices, keys,
};
use crate::error::{PeftError, Result};
use crate::low_rank::LowRank;
use crate::modules::ModuleInfo;
use crate::param::{ParamMut, ParamRef};
use crate::random::TensorRng;
use crate::serve::{Pairs, Served};

/// What an adapter does to a weight, which decides how adapters are combined and converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It adds an update of low rank.
    LowRank,
    /// It changes the weight's direction by an update of low rank, and its norms (DoRA).
    Direction,
    /// It multiplies rows or columns by a vector ((IA)³).
    Vectors,
}

/// A configuration of some method: PEFT's keys, and what they mean.
pub trait MethodConfig: ToObject + Debug {
    /// The method's name in files.
    fn peft_type(&self) -> &'static str;

    /// The method in the words of its users: DoRA and rsLoRA are LoRA to PEFT.
    fn display_name(&self) -> &'static str;

    /// The keys that methods have in common.
    fn shared(&self) -> Shared<'_>;

    /// As [`Self::shared`], to change.
    fn shared_mut(&mut self) -> SharedMut<'_>;

    /// What is wrong, each entry with its key and the way out.
    fn problems(&self) -> Vec<String>;

    /// Trainable parameters that the adapter adds to a module.
    fn parameters(&self, module: &ModuleInfo) -> usize;

    /// How the names of the method's tensors begin, after the module's path.
    fn tensor_prefix(&self) -> &'static str;

    /// Pairs of tensors of one module, A `[r, in]` and B `[out, r]` by name, that have a rank in common.
    fn factors(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Tensors of a module whose first size is the rank.
    fn rank_tensors(&self) -> Vec<&'static str> {
        self.factors().iter().map(|(a, _)| *a).collect()
    }

    /// The rank of the module at `path` in a file, where the configuration says it.
    fn saved_rank(&self, path: &str) -> Option<usize> {
        let _ = path;
        None
    }

    /// Tensors of a file that belong to no module.
    fn tensors_of_no_module(&self) -> &'static [&'static str] {
        &[]
    }

    /// Probabilities of dropping something in training, by their keys.
    fn dropouts(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Parameters of an adapted module that are not trained and PEFT counts.
    fn frozen_parameters(&self) -> usize {
        0
    }

    /// What the adapter does to a weight.
    fn change(&self) -> Change {
        Change::LowRank
    }

    /// What the method can adapt besides linear modules: embeddings.
    fn adapts_embeddings(&self) -> bool {
        false
    }

    /// The kinds of modules that the method adapts, in words.
    fn adapts(&self) -> &'static str {
        "linear modules only"
    }

    /// PEFT's default for `target_modules` in models of type `model_type`.
    fn default_targets(&self, model_type: &str) -> Option<&'static [&'static str]> {
        (model_type == "llama").then_some(&["q_proj", "v_proj"])
    }

    /// Fills in what PEFT takes from the model where the configuration leaves it open, beside the targets. `adapted` are
    /// the modules that get an adapter. Returns the key that has no default for this type of model.
    fn complete(&mut self, model_type: &str, adapted: &[ModuleInfo]) -> Result<(), &'static str> {
        let _ = (model_type, adapted);
        Ok(())
    }

    /// Entries of keys of the method's own that narrow or refine the selection and match none of `adapted`, each with its
    /// key and what was likely meant ([`crate::targets`] knows the names of `modules`).
    fn unmatched(&self, modules: &[ModuleInfo], adapted: &[ModuleInfo]) -> Vec<String> {
        let _ = (modules, adapted);
        Vec::new()
    }

    /// Whether PEFT stores a long list of targets by the shortest endings.
    fn shortens_targets(&self) -> bool {
        true
    }

    /// Rows of embeddings that are trained themselves.
    fn trainable_tokens(&self) -> Option<&TokenIndices> {
        None
    }

    /// Keys of the read object that PEFT knows and this method has no use for, with the ones to set instead.
    fn useless_keys(&self, read: &Object) -> Option<String> {
        let _ = read;
        None
    }

    /// Keys that only a layer can honour, not a change of its weight alone; each with what to set.
    fn beyond_the_weight(&self) -> Vec<String> {
        let on = self.dropouts().into_iter().filter(|(_, p)| *p > 0.0);
        on.map(|(key, p)| format!("{key} = {p}: set it to 0")).collect()
    }

    /// What to do about a layer whose bias the adapter would change, where the layer's path decides that.
    fn how_to_keep_biases(&self) -> Option<&'static str> {
        None
    }

    /// Makes every step of a run of `steps` do what the dearest of its steps does, for measuring.
    fn make_steps_alike(&mut self, steps: usize) {
        let _ = steps;
    }

    /// The modules that the method is usually measured on, in a Llama.
    fn usual_targets(&self) -> &'static [&'static str] {
        &["q_proj", "k_proj", "v_proj", "o_proj"]
    }

    /// Checks values and their combinations.
    ///
    /// # Errors
    /// [`PeftError::Config`] that lists every problem.
    fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        Err(PeftError::Config { origin: format!("{} configuration", self.peft_type()), problems })
    }

    /// The object that `adapter_config.json` holds: keys sorted, `inference_mode` true.
    fn to_json(&self) -> Object {
        let mut object = self.to_object();
        object.insert("peft_type".into(), self.peft_type().into());
        object.insert("inference_mode".into(), true.into());
        object.sort_keys();
        object
    }

    /// Which modules get an adapter.
    fn target_modules(&self) -> &TargetModules {
        self.shared().target_modules
    }

    /// Modules that are trained and saved whole.
    fn modules_to_save(&self) -> &[String] {
        self.shared().modules_to_save
    }

    /// What the model is trained for.
    fn task_type(&self) -> Option<TaskType> {
        self.shared().task_type
    }

    /// Where the base model came from.
    fn base_model_name_or_path(&self) -> Option<&str> {
        self.shared().base_model_name_or_path
    }

    /// Which biases of the base model are trained.
    fn bias(&self) -> Bias {
        self.shared().bias
    }

    /// Modules to leave out of the targets.
    fn exclude_modules(&self) -> Option<&ModuleNames> {
        self.shared().exclude_modules
    }

    /// Layer numbers and the name of their list that narrow the targets.
    fn layers(&self) -> (Option<&OneOrMany<usize>>, Option<&OneOrMany<String>>) {
        (self.shared().layers_to_transform, self.shared().layers_pattern)
    }

    /// The largest probability of dropping something in training.
    fn dropout(&self) -> f64 {
        self.dropouts().into_iter().fold(0.0, |largest, (_, p)| largest.max(p))
    }

    /// The trained tokens of the embedding at `path`, in the order of the adapter's rows.
    fn trainable_tokens_for(&self, path: &str) -> &[usize] {
        let is = |name: &str| path == name || path.ends_with(&format!(".{name}"));
        let mut tokens = self.trainable_tokens().into_iter().flat_map(TokenIndices::iter);
        tokens.find(|(name, _)| is(name)).map(|(_, ids)| ids).unwrap_or_default()
    }
}

/// A configuration as an object of its keys.
pub trait ToObject {
    /// Every key, in the order of the fields.
    fn to_object(&self) -> Object;
}

impl<T: Serialize> ToObject for T {
    fn to_object(&self) -> Object {
        keys::object(self)
    }
}

/// Where a new adapter of a layer goes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The layer's path.
    pub path: &'a str,
    /// The layer's weight: `[out, in]`, of an embedding `[vocab, hidden]`.
    pub weight: &'a Tensor<2>,
    /// What its random numbers follow from, with the path.
    pub seed: u64,
    /// VeRA's pair.
    pub projection: Option<&'a VeraProjection>,
}

impl Place<'_> {
    /// The random numbers of this layer.
    pub fn rng(&self) -> TensorRng {
        TensorRng::new(self.seed, self.path)
    }
}

/// A configuration that learns well on every linear module of a small model.
#[derive(Clone, Debug)]
pub struct Preset<C> {
    /// What the method is called where a user names one: `lora`, `dora`.
    pub name: &'static str,
    /// The configuration.
    pub config: C,
    /// The learning rate that goes with it: the fewer numbers a method trains, or the smaller they begin, the larger.
    pub learning_rate: f64,
}

impl<C> Preset<C> {
    /// The same with another kind of configuration.
    pub(crate) fn map<D>(self, f: impl FnOnce(C) -> D) -> Preset<D> {
        Preset { name: self.name, config: f(self.config), learning_rate: self.learning_rate }
    }
}

/// A method, by its configuration: its default holds, and serialises to, every key that PEFT knows for the method.
pub trait PeftMethod: MethodConfig + Default + Serialize + DeserializeOwned {
    /// The adapter of one linear layer.
    type Layer;

    /// A new adapter, and the residual that takes the weight's place where the initialisation moves a part of the weight
    /// into the adapter.
    ///
    /// # Errors
    /// What the weight at that place does not allow.
    fn init(&self, place: &Place<'_>) -> Result<(Self::Layer, Option<Tensor<2>>)>;

    /// A new adapter for an embedding.
    fn init_embedding(&self, place: &Place<'_>) -> Option<EmbeddingLora> {
        let _ = place;
        None
    }

    /// Configurations to begin with, of a run of `steps` steps.
    fn presets(steps: usize) -> Vec<Preset<Self>>;
}

/// A product of the input that some layers have in common: layers with equal ones can share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedInput {
    /// By which tensor.
    pub(crate) factor: ParamId,
    /// How much of it.
    pub(crate) inputs: usize,
}

/// An update of low rank.
#[derive(Debug)]
pub struct Update<'a> {
    /// The update of the weight; with norms, of its direction.
    pub low_rank: LowRank,
    /// DoRA's norms.
    pub magnitude: Option<&'a Magnitude>,
}

/// An adapter of one linear layer, whatever its method. `x` is the layer's input, `[n, in]`; weights are `[out, in]`.
pub trait MethodLayer: Debug {
    /// Parameters by the names that PEFT gives them on disk, after the module's path.
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)>;

    /// As [`Self::params`], to write into.
    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)>;

    /// What `product` (`x·Wᵀ` and what earlier adapters made of it, `[n, out]`) becomes; all in f32. `base` is the weight
    /// that the adapter was made for, `low` what [`Self::project_input`] gives for x, if it is known.
    fn apply(&self, product: Tensor<2>, x: Tensor<2>, base: &Tensor<2>, low: Option<&Tensor<2>>) -> Tensor<2>;

    /// `x·Wᵀ` with the method's contribution as one operation, where there is one for it; `base` and `low` as for
    /// [`Self::apply`]. It may be in x's dtype if `rounded`, else it is in f32.
    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Tensor<2>,
        base: &Tensor<2>,
        low: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        let _ = (x, weight, base, low, rounded);
        None
    }

    /// What the weight (f32) becomes when the adapter is folded in; `base` as for [`Self::apply`].
    fn merge(&self, weight: Tensor<2>, base: &Tensor<2>) -> Tensor<2>;

    /// The vector (`[in]`) that the input of everything before this adapter is times, the base included.
    fn input_scale(&self) -> Option<Tensor<1>> {
        None
    }

    /// `x` times [`Self::input_scale`], if there is one.
    fn scale_input(&self, x: Tensor<2>) -> Tensor<2> {
        match self.input_scale() {
            Some(scale) => fused_burn::scale_columns(x, scale),
            None => x,
        }
    }

    /// Whether the adapter changes the layer's bias, where the layer has one (`has_bias`) or has none.
    fn changes_bias(&self, has_bias: bool) -> bool {
        let _ = has_bias;
        false
    }

    /// What the bias `[out]` (f32) becomes; `None` where the layer has none and needs none.
    fn apply_bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        bias
    }

    /// What of the input's products other layers may share, at present.
    fn shared_input(&self) -> Option<SharedInput> {
        None
    }

    /// The product that [`Self::shared_input`] names, for `x` in f32: `[n, r]`.
    fn project_input(&self, x: Tensor<2>) -> Tensor<2> {
        x
    }

    /// The update, of methods that have one.
    fn update(&self) -> Option<Update<'_>> {
        None
    }

    /// What the adapter does to a row of a layer whose weight is `base`, for serving on the CPU; without the bias. `None`
    /// where [`Self::apply`] is to be called instead.
    fn serve(&self, base: &Tensor<2>, pairs: &Pairs) -> Option<Served> {
        let _ = pairs;
        Served::of_update(self, base)
    }

    /// Whether nothing of the adapter is left, so that it does nothing and will not.
    fn is_spent(&self) -> bool {
        false
    }

    /// Multiplies the scaling; `false` where the method has none.
    fn rescale(&mut self, multiplier: f64) -> bool {
        let _ = multiplier;
        false
    }

    /// To be called before the base weight is written into.
    fn forget_base(&mut self) {}

    /// To be called where Burn's mappers reach the base weight, so that it may change with any of them.
    fn base_is_visible(&mut self) {}

    /// To be called when the adapter is about to be trained.
    fn prepare_training(&mut self) {}
}

/// One of two layers that a configuration can make.
#[derive(Debug)]
pub enum Either<A, B> {
    /// The one.
    One(A),
    /// The other.
    Other(B),
}

/// What contradicts itself in the tensors of one module, by their names after its path and with their shapes.
pub(crate) fn tensor_problems(
    config: &dyn MethodConfig,
    path: &str,
    rank: Option<usize>,
    tensors: &BTreeMap<String, Vec<usize>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if let (Some(rank), Some(said)) = (rank, config.saved_rank(path))
        && rank != said
    {
        problems.push(format!("{path} has rank {rank}, and its configuration says {said}"));
    }
    for (a, b) in config.factors() {
        match (tensors.get(*a), tensors.get(*b)) {
            (Some(a), Some(b)) if a.first() != b.last() => {
                problems.push(format!("{path}: A is {a:?} and B is {b:?}, which have no rank in common"));
            }
            (Some(_), None) => problems.push(format!("{path} has {a} and no {b}")),
            (None, Some(_)) => problems.push(format!("{path} has {b} and no {a}")),
            _ => {}
        }
    }
    problems
}
