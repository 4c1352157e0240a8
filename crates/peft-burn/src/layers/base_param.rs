//! The weight of a base's layer, which may be packed.

use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use fused_burn::{PackedWeight, Weight};

use crate::constant::Copies;

/// The weight of a base's layer: a parameter, or codes, which are none and stay out of every graph and record.
#[derive(Clone, Debug)]
pub enum BaseParam {
    /// Its values.
    Dense(Param<Tensor<2>>),
    /// Its codes.
    Packed(PackedBase),
}

/// A packed weight. Clones share its memory, also after each of them was moved to another device.
#[derive(Clone, Debug)]
pub struct PackedBase {
    value: Arc<PackedWeight>,
    copies: Copies<PackedWeight>,
}

impl BaseParam {
    /// A frozen weight.
    pub fn new(weight: impl Into<Weight>) -> Self {
        match weight.into() {
            Weight::Dense(weight) => Self::Dense(Param::from_tensor(weight).set_require_grad(false)),
            Weight::Packed(weight) => {
                let (value, copies) = (Arc::new(weight), Copies::default());
                copies.add(&value);
                Self::Packed(PackedBase { value, copies })
            }
        }
    }

    /// The weight.
    pub fn val(&self) -> Weight {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.val()),
            Self::Packed(weight) => Weight::Packed((*weight.value).clone()),
        }
    }

    /// Puts `weight` in its place. A parameter stays the same parameter.
    pub fn set(&mut self, weight: impl Into<Weight>) {
        *self = match (&*self, weight.into()) {
            (Self::Dense(param), Weight::Dense(weight)) => Self::Dense(param.clone().map(|_| weight)),
            (_, weight) => Self::new(weight),
        };
    }

    /// Makes a parameter trainable, or frozen. Codes cannot be trained.
    pub(crate) fn set_trainable(&mut self, trainable: bool) {
        if let Self::Dense(param) = self {
            *self = Self::Dense(param.clone().set_require_grad(trainable));
        }
    }

    fn with(self, param: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(param(weight)),
            packed => packed,
        }
    }
}

impl PackedBase {
    fn moved(self, device: &Device) -> Self {
        let there = device.clone().inner();
        let value = self.copies.get_or(|copy| copy.device() == there, || self.value.to_device(&there));
        Self { value, ..self }
    }
}

impl Module for BaseParam {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        match self {
            Self::Dense(weight) => weight.collect_devices(devices),
            Self::Packed(_) => devices,
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.fork(device)),
            Self::Packed(weight) => Self::Packed(weight.moved(device)),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.to_device(device)),
            Self::Packed(weight) => Self::Packed(weight.moved(device)),
        }
    }

    fn train(self) -> Self {
        self.with(Module::train)
    }

    fn valid(&self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.valid()),
            packed => packed.clone(),
        }
    }

    fn materialize(self) -> Self {
        self.with(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if let Self::Dense(weight) = self {
            weight.visit(visitor);
        }
    }

    fn map<F: ModuleMapper>(self, mapper: &mut F) -> Self {
        self.with(|weight| Module::map(weight, mapper))
    }
}

impl ModuleDisplayDefault for BaseParam {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(weight) => content.add("weight", weight).optional(),
            Self::Packed(weight) => content.add_single(&format!("{:?}", weight.value.layout())).optional(),
        }
    }
}

impl ModuleDisplay for BaseParam {}
