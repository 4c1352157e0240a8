//! Operations on all trained tensors together: the norm of their gradients, and AdamW (Loshchilov and Hutter 2019,
//! arXiv:1711.05101). A GPU takes many tensors in one launch.

#[cfg(feature = "cube")]
use burn::backend::Cube;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex};
use burn::tensor::{Device, Tensor};

mod composed;
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
#[cfg(feature = "fusion")]
mod lazy;

#[cfg(test)]
mod tests;

/// The numbers of a step of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// The learning rate.
    pub lr: f64,
    /// The decays of the first and the second moment.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// The weights' decay, a step of the learning rate of it.
    pub weight_decay: f32,
    /// Which step of these tensors it is, from 1.
    pub time: usize,
}

impl AdamWStep {
    /// The factor on a weight before its step: 1 less the decay.
    fn kept(&self) -> f32 {
        (1.0 - self.lr * f64::from(self.weight_decay)) as f32
    }

    /// One minus the power of each decay: what the moments have seen so far.
    fn seen(&self) -> [f32; 2] {
        self.betas.map(|beta| 1.0 - beta.powi(self.time as i32))
    }
}

/// Tensors of any shapes, each of its own. They are not tracked.
pub trait TogetherOps: Backend {
    /// The sum of the squares of all their numbers, `[1]` in f32.
    fn sum_of_squares(tensors: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        composed::sum_of_squares::<Self>(tensors)
    }

    /// One step of AdamW: parameters, their gradients and their two moments, as many of each and of one shape. A gradient is
    /// taken `factor` (`[1]` in f32) times. Returns the parameters, then the first moments, then the second ones.
    fn adam_w(
        parameters: Vec<FloatTensor<Self>>,
        gradients: Vec<FloatTensor<Self>>,
        first: Vec<FloatTensor<Self>>,
        second: Vec<FloatTensor<Self>>,
        factor: FloatTensor<Self>,
        step: AdamWStep,
    ) -> Vec<FloatTensor<Self>> {
        composed::adam_w::<Self>(parameters, [gradients, first, second], factor, &step)
    }
}

/// Whether tensors on `device` are better worked on together: on the CPU, where a launch costs nothing, they are not.
pub fn better_together(device: &Device) -> bool {
    cfg!(feature = "cube") && *device != Device::flex()
}

/// A tensor of any rank.
#[derive(Clone, Debug)]
pub struct AnyTensor(Own);

/// The tensor as its backend has it.
#[derive(Clone, Debug)]
enum Own {
    Flex(FloatTensor<Flex>),
    #[cfg(feature = "cube")]
    Cube(FloatTensor<Cube>),
}

impl<const D: usize> From<Tensor<D>> for AnyTensor {
    /// # Panics
    /// A tensor that is tracked.
    #[allow(clippy::panic)]
    fn from(tensor: Tensor<D>) -> Self {
        #[cfg(feature = "cube")]
        if let Ok(own) = tensor.clone().try_into_primitive::<Cube>() {
            return Self(Own::Cube(own));
        }
        match tensor.try_into_primitive::<Flex>() {
            Ok(own) => Self(Own::Flex(own)),
            Err(error) => panic!("not a tensor of the CPU or of a GPU: {error:?}"),
        }
    }
}

impl AnyTensor {
    /// The tensor, which is of rank `D`.
    pub fn of_rank<const D: usize>(self) -> Tensor<D> {
        match self.0 {
            Own::Flex(own) => Tensor::from_primitive::<Flex>(own),
            #[cfg(feature = "cube")]
            Own::Cube(own) => Tensor::from_primitive::<Cube>(own),
        }
    }

    fn on_flex(self) -> Option<FloatTensor<Flex>> {
        match self.0 {
            Own::Flex(own) => Some(own),
            #[cfg(feature = "cube")]
            Own::Cube(_) => None,
        }
    }

    #[cfg(feature = "cube")]
    fn on_cube(self) -> Option<FloatTensor<Cube>> {
        match self.0 {
            Own::Flex(_) => None,
            Own::Cube(own) => Some(own),
        }
    }
}

/// The sum of the squares of all numbers of `tensors`, `[1]` in f32. `None` where there is none.
pub fn sum_of_squares(tensors: Vec<AnyTensor>) -> Option<Tensor<1>> {
    let first = tensors.first()?.clone();
    let sum = match first.0 {
        Own::Flex(_) => Own::Flex(Flex::sum_of_squares(tensors.into_iter().filter_map(AnyTensor::on_flex).collect())),
        #[cfg(feature = "cube")]
        Own::Cube(_) => Own::Cube(Cube::sum_of_squares(tensors.into_iter().filter_map(AnyTensor::on_cube).collect())),
    };
    Some(AnyTensor(sum).of_rank())
}

/// A parameter with what AdamW knows of it.
#[derive(Clone, Debug)]
pub struct AdamWParameter {
    /// The parameter.
    pub value: AnyTensor,
    /// Its gradient.
    pub gradient: AnyTensor,
    /// The first and the second moment so far.
    pub moments: [AnyTensor; 2],
}

/// One step of AdamW of `parameters`, all of one device: their new values with their new moments. Gradients are taken
/// `factor` (`[1]` in f32) times.
pub fn adam_w(parameters: Vec<AdamWParameter>, factor: Tensor<1>, step: AdamWStep) -> Vec<(AnyTensor, [AnyTensor; 2])> {
    match AnyTensor::from(factor).0 {
        Own::Flex(factor) => on_backend::<Flex>(parameters, factor, step, AnyTensor::on_flex, Own::Flex),
        #[cfg(feature = "cube")]
        Own::Cube(factor) => on_backend::<Cube>(parameters, factor, step, AnyTensor::on_cube, Own::Cube),
    }
}

fn on_backend<B: TogetherOps>(
    parameters: Vec<AdamWParameter>,
    factor: FloatTensor<B>,
    step: AdamWStep,
    own: fn(AnyTensor) -> Option<FloatTensor<B>>,
    any: fn(FloatTensor<B>) -> Own,
) -> Vec<(AnyTensor, [AnyTensor; 2])> {
    let count = parameters.len();
    if count == 0 {
        return Vec::new();
    }
    let mut parts: [Vec<_>; 4] = std::array::from_fn(|_| Vec::with_capacity(count));
    for AdamWParameter { value, gradient, moments: [first, second] } in parameters {
        for (part, tensor) in parts.iter_mut().zip([value, gradient, first, second]) {
            part.extend(own(tensor));
        }
    }
    let [values, gradients, first, second] = parts;
    let mut results = B::adam_w(values, gradients, first, second, factor, step).into_iter().map(any).map(AnyTensor);
    let mut next = || results.by_ref().take(count).collect::<Vec<_>>();
    let (values, first, second) = (next(), next(), next());
    let moments = first.into_iter().zip(second).map(|(first, second)| [first, second]);
    values.into_iter().zip(moments).collect()
}
