//! LoRA's configuration makes a DoRA adapter with `use_dora`, else a LoRA one.

use burn::tensor::Tensor;

use super::embedding::EmbeddingLora;
use super::layer::Dora;
use crate::config::TargetModules;
use crate::error::Result;
use crate::methods::lora::{Lora, LoraConfig, LoraSpec};
use crate::methods::traits::{Either, PeftMethod, Place, Preset};

impl PeftMethod for LoraConfig {
    type Layer = Either<Lora, Dora>;

    fn init(&self, place: &Place<'_>) -> Result<(Self::Layer, Option<Tensor<2>>)> {
        let spec = LoraSpec {
            r: self.rank_for(place.path),
            scaling: self.scaling_for(place.path),
            dropout: self.lora_dropout,
            bias: self.lora_bias,
            init: self.init_lora_weights.clone(),
        };
        if self.use_dora {
            let (dora, residual) = Dora::init(&spec, place.weight, &mut place.rng())?;
            return Ok((Either::Other(dora), residual));
        }
        let (lora, residual) = Lora::init(&spec, place.weight, &mut place.rng())?;
        Ok((Either::One(lora), residual))
    }

    fn init_embedding(&self, place: &Place<'_>) -> Option<EmbeddingLora> {
        let (r, scaling) = (self.rank_for(place.path), self.scaling_for(place.path));
        Some(EmbeddingLora::init(place.weight, r, scaling, self.use_dora, &mut place.rng()))
    }

    fn presets(_: usize) -> Vec<Preset<Self>> {
        let lora = Self { r: 16, lora_alpha: 32.0, target_modules: TargetModules::AllLinear, ..Self::default() };
        let dora = Self { use_dora: true, ..lora.clone() };
        let preset = |(name, config)| Preset { name, config, learning_rate: 3e-3 };
        [("lora", lora), ("dora", dora)].map(preset).into()
    }
}
