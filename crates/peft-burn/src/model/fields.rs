//! One's own model with adapters in a line: where its layers are, by the names of its fields.

use crate::layers::embedding::PeftEmbedding;
use crate::layers::layer::{LayerMut, LayerRef};
use crate::layers::linear::PeftLinear;
use crate::layers::norm::PeftNorm;

/// A module that holds layers with adapters, or is one. [`layers!`](crate::layers) implements it for a struct.
pub trait Layers {
    /// Appends the layers, their paths under `path`.
    fn collect<'a>(&'a self, path: &str, all: &mut Vec<(String, LayerRef<'a>)>);
    /// The same layers, to change, in the same order.
    fn collect_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, LayerMut<'a>)>);
}

impl Layers for PeftLinear {
    fn collect<'a>(&'a self, path: &str, all: &mut Vec<(String, LayerRef<'a>)>) {
        all.push((path.to_owned(), LayerRef::Linear(self)));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, LayerMut<'a>)>) {
        all.push((path.to_owned(), LayerMut::Linear(self)));
    }
}

impl Layers for PeftEmbedding {
    fn collect<'a>(&'a self, path: &str, all: &mut Vec<(String, LayerRef<'a>)>) {
        all.push((path.to_owned(), LayerRef::Embedding(self)));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, LayerMut<'a>)>) {
        all.push((path.to_owned(), LayerMut::Embedding(self)));
    }
}

impl Layers for PeftNorm {
    fn collect<'a>(&'a self, path: &str, all: &mut Vec<(String, LayerRef<'a>)>) {
        all.push((path.to_owned(), LayerRef::Norm(self)));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, LayerMut<'a>)>) {
        all.push((path.to_owned(), LayerMut::Norm(self)));
    }
}

impl<L: Layers> Layers for Vec<L> {
    fn collect<'a>(&'a self, path: &str, all: &mut Vec<(String, LayerRef<'a>)>) {
        self.iter().enumerate().for_each(|(i, layer)| layer.collect(&join(path, &i.to_string()), all));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, LayerMut<'a>)>) {
        self.iter_mut().enumerate().for_each(|(i, layer)| layer.collect_mut(&join(path, &i.to_string()), all));
    }
}

impl<L: Layers> Layers for Option<L> {
    fn collect<'a>(&'a self, path: &str, all: &mut Vec<(String, LayerRef<'a>)>) {
        self.iter().for_each(|layer| layer.collect(path, all));
    }

    fn collect_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, LayerMut<'a>)>) {
        self.iter_mut().for_each(|layer| layer.collect_mut(path, all));
    }
}

/// `path.name`, or `name` at the top.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Lets a struct's layers take adapters: `layers!(Block { up, down })` for a part of a model, and
/// `layers!(Net { blocks, head }, state)` for the model, whose field `state` is a [`PeftState`](crate::PeftState).
///
/// The fields are [`PeftLinear`], [`PeftEmbedding`], [`PeftNorm`], structs of such fields for which this was said too, and `Vec` and
/// `Option` of them. Paths are the fields' names, as in Burn's records: `blocks.0.up`.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor, activation::relu};
/// use peft_burn::{LoraConfig, PeftConfig, PeftLinear, PeftModel, PeftState, TargetModules, layers};
///
/// #[derive(Module, Debug)]
/// struct Net {
///     hidden: PeftLinear,
///     head: PeftLinear,
///     #[module(skip)]
///     adapters: PeftState,
/// }
///
/// layers!(Net { hidden, head }, adapters);
///
/// impl Net {
///     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
///         self.head.forward(relu(self.hidden.forward(x)))
///     }
/// }
///
/// # fn main() -> Result<(), peft_burn::PeftError> {
/// let device = Device::flex();
/// let linear = |inp, out| PeftLinear::from(LinearConfig::new(inp, out).init(&device));
/// let mut net = Net { hidden: linear(4, 16), head: linear(16, 3), adapters: PeftState::default() };
/// let target_modules = TargetModules::list(["hidden"]);
/// net.add_adapter("mine", &PeftConfig::Lora(LoraConfig { r: 2, target_modules, ..LoraConfig::default() }), 42)?;
/// assert_eq!(net.trainable_parameters().trainable, 2 * (4 + 16));
/// assert_eq!(net.forward(Tensor::zeros([5, 4], &device)).dims(), [5, 3]);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! layers {
    ($model:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::Layers for $model {
            fn collect<'a>(&'a self, path: &str, all: &mut ::std::vec::Vec<(::std::string::String, $crate::LayerRef<'a>)>) {
                $($crate::Layers::collect(&self.$field, &$crate::join_path(path, stringify!($field)), all);)+
            }

            fn collect_mut<'a>(
                &'a mut self,
                path: &str,
                all: &mut ::std::vec::Vec<(::std::string::String, $crate::LayerMut<'a>)>,
            ) {
                $($crate::Layers::collect_mut(&mut self.$field, &$crate::join_path(path, stringify!($field)), all);)+
            }
        }
    };
    ($model:ident { $($field:ident),+ $(,)? }, $state:ident) => {
        $crate::layers!($model { $($field),+ });

        impl $crate::AdaptableModel for $model {
            fn layers(&self) -> ::std::vec::Vec<(::std::string::String, $crate::LayerRef<'_>)> {
                let mut all = ::std::vec::Vec::new();
                $crate::Layers::collect(self, "", &mut all);
                all
            }

            fn layers_mut(&mut self) -> ::std::vec::Vec<(::std::string::String, $crate::LayerMut<'_>)> {
                let mut all = ::std::vec::Vec::new();
                $crate::Layers::collect_mut(self, "", &mut all);
                all
            }

            fn peft_state(&self) -> &$crate::PeftState {
                &self.$state
            }

            fn peft_state_mut(&mut self) -> &mut $crate::PeftState {
                &mut self.$state
            }
        }
    };
}
