//! VeRA's configuration makes its layers.

use burn::tensor::Tensor;

use super::config::VeraConfig;
use super::layer::Vera;
use crate::config::TargetModules;
use crate::error::{Result, Unsupported};
use crate::methods::traits::{PeftMethod, Place, Preset};

impl PeftMethod for VeraConfig {
    type Layer = Vera;

    fn init(&self, place: &Place<'_>) -> Result<(Vera, Option<Tensor<2>>)> {
        let Some(projection) = place.shared_pair else {
            return Err(Unsupported::NoProjection { path: place.path.to_owned() }.into());
        };
        let start = self.init_weights.then_some(self.d_initial);
        let vera = Vera::init(projection.clone(), place.weight, start, self.vera_dropout, &mut place.rng());
        Ok((vera, None))
    }

    fn presets(_: usize) -> Vec<Preset<Self>> {
        let config = Self { r: 256, target_modules: TargetModules::AllLinear, ..Self::default() };
        vec![Preset { name: "vera", config, learning_rate: 4e-2 }]
    }
}
