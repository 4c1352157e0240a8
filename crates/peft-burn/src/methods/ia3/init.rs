//! IA3's configuration makes its layers.

use burn::tensor::Tensor;

use super::config::Ia3Config;
use super::layer::Ia3;
use crate::config::{ModuleNames, TargetModules};
use crate::error::Result;
use crate::methods::traits::{PeftMethod, Place, Preset};

impl PeftMethod for Ia3Config {
    type Layer = Ia3;

    fn init(&self, place: &Place<'_>) -> Result<(Ia3, Option<Tensor<2>>)> {
        let feedforward = self.is_feedforward(place.path);
        Ok((Ia3::init(place.weight, feedforward, self.init_ia3_weights, &mut place.rng()), None))
    }

    fn presets(_: usize) -> Vec<Preset<Self>> {
        let feedforward_modules = Some(ModuleNames::list(["down_proj"]));
        let config = Self { target_modules: TargetModules::AllLinear, feedforward_modules, ..Self::default() };
        vec![Preset { name: "ia3", config, learning_rate: 4e-2 }]
    }
}
