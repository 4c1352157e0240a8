//! LoHa's configuration makes its layers.

use burn::tensor::Tensor;

use super::config::LoHaConfig;
use super::layer::LoHa;
use crate::config::TargetModules;
use crate::error::Result;
use crate::methods::traits::{PeftMethod, Place, Preset};

impl PeftMethod for LoHaConfig {
    type Layer = LoHa;

    fn init(&self, place: &Place<'_>) -> Result<(LoHa, Option<Tensor<2>>)> {
        let (r, scaling) = (self.rank_for(place.path), self.scaling_for(place.path));
        let mut loha = LoHa::init(place.weight, r, scaling, self.init_weights, &mut place.rng());
        (loha.rank_dropout, loha.module_dropout) = (self.rank_dropout, self.module_dropout);
        Ok((loha, None))
    }

    fn presets(_: usize) -> Vec<Preset<Self>> {
        let config = Self { r: 8, alpha: 16.0, target_modules: TargetModules::AllLinear, ..Self::default() };
        vec![Preset { name: "loha", config, learning_rate: 1e-2 }]
    }
}
