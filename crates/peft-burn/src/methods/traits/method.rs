//! How a configuration makes a method's adapters.

use burn::tensor::Tensor;
use fused_burn::Weight;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::config::MethodConfig;
use crate::error::Result;
use crate::methods::dora::EmbeddingLora;
use crate::methods::vera::VeraProjection;
use crate::random::TensorRng;

/// Where a new adapter of a layer goes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The layer's path.
    pub path: &'a str,
    /// The layer's weight: `[out, in]`, of an embedding `[vocab, hidden]`.
    pub weight: &'a Weight,
    /// The seed of its random numbers, with the path.
    pub seed: u64,
    /// The pair that layers share, of methods that have one.
    pub shared_pair: Option<&'a VeraProjection>,
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
    /// The name by which a user asks for the method: `lora`, `dora`.
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
    /// An initialisation that the weight at that place does not allow.
    fn init(&self, place: &Place<'_>) -> Result<(Self::Layer, Option<Tensor<2>>)>;

    /// A new adapter for an embedding.
    fn init_embedding(&self, place: &Place<'_>) -> Option<EmbeddingLora> {
        let _ = place;
        None
    }

    /// Configurations to begin with, of a run of `steps` steps.
    fn presets(steps: usize) -> Vec<Preset<Self>>;
}

/// A layer of one of two kinds, where a configuration can make both.
#[derive(Debug)]
pub enum Either<A, B> {
    /// A layer of the first kind.
    One(A),
    /// A layer of the second kind.
    Other(B),
}
