//! Adapters on models of plain [`nn::Linear`](burn::nn::Linear), of which no line is changed, through Burn's
//! [`Reparameterization`].
//!
//! Burn lets such an adapter change a parameter and nothing else: the effective weight is made anew in every forward
//! pass, which costs time and memory that [`PeftLinear`] does not need, and what depends on a layer's input or output
//! cannot be had. [`ParamAdapter::attach`] lists what is refused. A parameter has one adapter at a time, and Burn takes none
//! off: keep a clone of the model from before, which shares the memory. AdaLoRA's regulariser and its gradients are had from
//! [`ParamAdapter::layers`] ([`orthogonal_regularization`](crate::adalora::orthogonal_regularization),
//! [`keep_gradients`](crate::adalora::keep_gradients)), and [`ParamAdapter::update_and_allocate`] prunes it.

mod averages;
mod layers;
mod param;
mod param_adapter;
mod parameters;

pub use layers::AdaptedLayers;
pub use param::AdaptedParam;
pub use param_adapter::ParamAdapter;
