//! A parameter of either rank, so that adapters can be listed, saved and loaded without naming their fields.

use burn::module::{Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor, TensorData};

/// A borrowed adapter parameter.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ParamRef<'a> {
    /// A vector.
    One(&'a Param<Tensor<1>>),
    /// A matrix.
    Two(&'a Param<Tensor<2>>),
}

/// A mutably borrowed adapter parameter.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParamMut<'a> {
    /// A vector.
    One(&'a mut Param<Tensor<1>>),
    /// A matrix.
    Two(&'a mut Param<Tensor<2>>),
}

/// The role of a parameter in its adapter, as far as optimisers tell parameters apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The side of a low-rank update that makes the output: the B of LoRA, DoRA and AdaLoRA.
    Up,
    /// A vector: a magnitude, a scale, a bias.
    Vector,
    /// A side of the update of an embedding.
    Embedding,
    /// Any other matrix.
    Matrix,
}

impl Role {
    /// The role of the parameter that a layer calls `name`, such as `lora_B.weight`.
    pub(crate) fn of(name: &str, param: &ParamRef<'_>) -> Self {
        match (name.split('.').next().unwrap_or_default(), param) {
            ("lora_B", _) => Self::Up,
            ("lora_embedding_A" | "lora_embedding_B", _) => Self::Embedding,
            (_, ParamRef::One(_)) => Self::Vector,
            (_, ParamRef::Two(_)) => Self::Matrix,
        }
    }
}

impl<'a> From<&'a Param<Tensor<1>>> for ParamRef<'a> {
    fn from(param: &'a Param<Tensor<1>>) -> Self {
        Self::One(param)
    }
}

impl<'a> From<&'a Param<Tensor<2>>> for ParamRef<'a> {
    fn from(param: &'a Param<Tensor<2>>) -> Self {
        Self::Two(param)
    }
}

impl<'a> From<&'a mut Param<Tensor<1>>> for ParamMut<'a> {
    fn from(param: &'a mut Param<Tensor<1>>) -> Self {
        Self::One(param)
    }
}

impl<'a> From<&'a mut Param<Tensor<2>>> for ParamMut<'a> {
    fn from(param: &'a mut Param<Tensor<2>>) -> Self {
        Self::Two(param)
    }
}

impl ParamRef<'_> {
    /// The parameter's identity, by which optimisers and gradients know it.
    pub fn id(&self) -> ParamId {
        match self {
            Self::One(p) => p.id,
            Self::Two(p) => p.id,
        }
    }

    /// The shape, one or two sizes.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::One(p) => p.val().dims().to_vec(),
            Self::Two(p) => p.val().dims().to_vec(),
        }
    }

    /// How many numbers it holds.
    pub fn num_elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether it is set to be trained, in validation mode too.
    pub fn requires_grad(&self) -> bool {
        // `train` reinstates the configured state, which the value itself loses in validation mode.
        match self {
            Self::One(p) => burn::module::Module::train((*p).clone()).val().is_require_grad(),
            Self::Two(p) => burn::module::Module::train((*p).clone()).val().is_require_grad(),
        }
    }

    /// Its values on the host.
    pub fn to_data(&self) -> TensorData {
        match self {
            Self::One(p) => p.val().into_data(),
            Self::Two(p) => p.val().into_data(),
        }
    }

    /// Its gradient on the host, if `grads` holds one.
    pub fn grad(&self, grads: &GradientsParams) -> Option<TensorData> {
        match self {
            Self::One(p) => grads.get::<1>(p.id).map(Tensor::into_data),
            Self::Two(p) => grads.get::<2>(p.id).map(Tensor::into_data),
        }
    }
}

impl ParamMut<'_> {
    /// The same parameter, to look at.
    pub fn view(&self) -> ParamRef<'_> {
        match self {
            Self::One(p) => ParamRef::One(p),
            Self::Two(p) => ParamRef::Two(p),
        }
    }

    /// Replaces the values; identity and training state stay. The shape may change.
    pub fn set(&mut self, data: TensorData) {
        match self {
            Self::One(p) => replace(p, data),
            Self::Two(p) => replace(p, data),
        }
    }

    /// Sets whether it is trained.
    pub fn set_require_grad(&mut self, require_grad: bool) {
        match self {
            Self::One(p) => **p = p.clone().set_require_grad(require_grad),
            Self::Two(p) => **p = p.clone().set_require_grad(require_grad),
        }
    }
}

/// Puts `data` in the place of the parameter's values, in the parameter's own dtype.
pub(crate) fn replace<const D: usize>(param: &mut Param<Tensor<D>>, data: TensorData) {
    let id = param.id;
    *param = param.clone().map(|old| {
        let new = Tensor::from_data(data, (&old.device(), old.dtype()));
        as_trained(new, old.is_require_grad(), is_distributed(&old), id)
    });
}

/// Puts `f` of the parameter's values in their place; identity and training state stay.
pub(crate) fn update<const D: usize>(param: &mut Param<Tensor<D>>, f: impl FnOnce(Tensor<D>) -> Tensor<D>) {
    let id = param.id;
    *param = param.clone().map(|old| {
        let (trained, distributed) = (old.is_require_grad(), is_distributed(&old));
        let new = f(old.detach().set_require_grad(false)).detach();
        as_trained(new, trained, distributed, id)
    });
}

/// Burn asks for autodiff before it looks for the mark.
fn is_distributed<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.is_autodiff() && tensor.is_distributed()
}

/// Burn marks the parameters whose gradients it adds up across devices; a new value must bear the mark as well, or the
/// replicas drift apart from here on.
fn as_trained<const D: usize>(new: Tensor<D>, trained: bool, distributed: bool, id: ParamId) -> Tensor<D> {
    let new = if trained { new.require_grad() } else { new };
    if distributed { new.set_distributed(id) } else { new }
}

/// A parameter made from numbers on the host.
pub(crate) fn from_vec<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), (device, DType::F32)))
}
