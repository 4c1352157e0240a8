//! Models with made-up weights.

use std::convert::Infallible;

use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor, TensorData};
use fused_burn::{PackedWeight, Weight};
use peft_burn::TensorRng;

use super::llama::Llama;
use super::parts::Source;
use crate::config::LlamaConfig;
use crate::quantization::{BaseQuantization, Quantize};

/// Gains of one, biases of zero, and matrices drawn from N(0, `std`²).
struct MadeUp<'a> {
    std: f64,
    dtype: DType,
    /// The values that norms store.
    gain: f64,
    device: &'a Device,
    /// Draws on the host by this seed and the tensor's name; without one the device draws.
    seed: Option<u64>,
    /// How the weights of projections are packed.
    packs: Option<BaseQuantization>,
}

impl Source for MadeUp<'_> {
    type Error = Infallible;

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Result<Tensor<D>, Infallible> {
        let options = (self.device, self.dtype);
        Ok(match (self.seed, D) {
            (_, 1) => Tensor::full(shape, if name.ends_with(".bias") { 0.0 } else { self.gain }, options),
            (None, _) => Tensor::random(shape, Distribution::Normal(0.0, self.std), options),
            (Some(seed), _) => {
                let values = TensorRng::new(seed, name).normal(shape.iter().product(), self.std as f32);
                Tensor::from_data(TensorData::new(values, shape), options)
            }
        })
    }

    fn weight(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, Infallible> {
        let weight: Tensor<2> = self.tensor(name, shape)?;
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let packs = self.packs.as_ref().filter(|how| how.packs(path));
        let pack = |how: &BaseQuantization| {
            PackedWeight::quantize(weight.clone(), how.of_weight(), self.dtype, self.device).ok()
        };
        Ok(packs.and_then(pack).map_or(Weight::Dense(weight.clone()), Weight::Packed))
    }
}

impl Llama {
    /// A model with random weights in f32: N(0, `initializer_range`²), gains one, biases zero. One seed gives one model,
    /// on every device.
    pub fn random(config: LlamaConfig, seed: u64, device: &Device) -> Self {
        Self::made_up(config, DType::F32, device, Some(seed), None)
    }

    /// As [`Self::random`], with the weights in `dtype` and drawn by the device's own generator: at once for a large model
    /// too, and other values on each kind of device. For measurements.
    pub fn random_on_device(config: LlamaConfig, seed: u64, dtype: FloatDType, device: &Device) -> Self {
        Self::random_packed(config, seed, dtype, &Quantize::AsStored, device)
    }

    /// As [`Self::random_on_device`], with weights packed as `quantize` says.
    pub fn random_packed(
        config: LlamaConfig,
        seed: u64,
        dtype: FloatDType,
        quantize: &Quantize,
        device: &Device,
    ) -> Self {
        device.seed(seed);
        let packs = match quantize {
            Quantize::To(how) => Some(how.clone()),
            _ => None,
        };
        Self::made_up(config, dtype.into(), device, None, packs)
    }

    fn made_up(
        config: LlamaConfig,
        dtype: DType,
        device: &Device,
        seed: Option<u64>,
        packs: Option<BaseQuantization>,
    ) -> Self {
        let gain = if config.decoder.norm_offset { 0.0 } else { 1.0 };
        let source = MadeUp { std: config.initializer_range, dtype, gain, device, seed, packs };
        match Self::build(config, source) {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }
}
