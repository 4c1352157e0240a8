//! AdaLoRA's configuration makes its layers.

use burn::tensor::Tensor;

use super::config::AdaLoraConfig;
use super::layer::AdaLora;
use crate::config::TargetModules;
use crate::error::Result;
use crate::methods::traits::{PeftMethod, Place, Preset};

impl PeftMethod for AdaLoraConfig {
    type Layer = AdaLora;

    fn init(&self, place: &Place<'_>) -> Result<(AdaLora, Option<Tensor<2>>)> {
        Ok((AdaLora::init(self, place.path, place.weight, &mut place.rng()), None))
    }

    fn presets(steps: usize) -> Vec<Preset<Self>> {
        // A tenth of the steps at full rank, then pruning, and the last third at the final ranks.
        let config = Self {
            init_r: 24,
            target_r: 16,
            lora_alpha: 32.0,
            tinit: steps / 10,
            tfinal: steps / 3,
            delta_t: (steps / 30).max(1),
            target_modules: TargetModules::AllLinear,
            ..Self::default()
        };
        vec![Preset { name: "adalora", config, learning_rate: 4e-2 }]
    }
}
