//! The behaviour of a method's adapter on one layer.

use std::fmt::Debug;

use burn::module::{Param, ParamId};
use burn::tensor::Tensor;
use fused_burn::Weight;

use crate::low_rank::LowRank;
use crate::methods::adalora::Importance;
use crate::methods::dora::Magnitude;
use crate::methods::vera::VeraProjection;
use crate::param::{ParamMut, ParamRef};
use crate::serve::{Pairs, Served};

/// A product of the input that some layers have in common: layers with equal ones can share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedInput {
    /// By which tensor.
    pub(crate) factor: ParamId,
    /// How much of it.
    pub(crate) inputs: usize,
}

/// An update of low rank.
#[derive(Debug)]
pub struct Update<'a> {
    /// The update of the weight; with norms, of its direction.
    pub low_rank: LowRank,
    /// DoRA's norms.
    pub magnitude: Option<&'a Magnitude>,
}

/// A learned vector that scales a layer's input or output.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'a> {
    /// Whether it scales the input.
    pub of_input: bool,
    /// Its values: `[1, in]` or `[out, 1]`.
    pub values: &'a Param<Tensor<2>>,
}

/// An adapter of one linear layer, whatever its method. `x` is the layer's input, `[n, in]`; weights are `[out, in]`.
pub trait MethodLayer: Debug {
    /// Parameters by the names that PEFT gives them on disk, after the module's path.
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)>;

    /// As [`Self::params`], to write into.
    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)>;

    /// The adapted `product` (`x·Wᵀ` and what earlier adapters made of it, `[n, out]`); all in f32. `base` is the weight
    /// that the adapter was made for, `low` what [`Self::project_input`] gives for x, if it is known.
    fn apply(&self, product: Tensor<2>, x: Tensor<2>, base: &Weight, low: Option<&Tensor<2>>) -> Tensor<2>;

    /// `x·Wᵀ` with the method's contribution as one operation, where there is one for it; `base` and `low` as for
    /// [`Self::apply`]. It may be in x's dtype if `rounded`, else it is in f32.
    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Weight,
        base: &Weight,
        low: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        let _ = (x, weight, base, low, rounded);
        None
    }

    /// The weight (f32) with the adapter folded in; `base` as for [`Self::apply`].
    fn merge(&self, weight: Tensor<2>, base: &Weight) -> Tensor<2>;

    /// The vector (`[in]`) that the input of everything before this adapter is times, the base included.
    fn input_scale(&self) -> Option<Tensor<1>> {
        None
    }

    /// `x` times [`Self::input_scale`], if there is one.
    fn scale_input(&self, x: Tensor<2>) -> Tensor<2> {
        match self.input_scale() {
            Some(scale) => fused_burn::scale_columns(x, scale),
            None => x,
        }
    }

    /// Whether the adapter changes the layer's bias, where the layer has one (`has_bias`) or has none.
    fn changes_bias(&self, has_bias: bool) -> bool {
        let _ = has_bias;
        false
    }

    /// The adapted bias `[out]` (f32); `None` where the layer has none and needs none.
    fn apply_bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        bias
    }

    /// The product of the input that other layers may share, at present.
    fn shared_input(&self) -> Option<SharedInput> {
        None
    }

    /// The product that [`Self::shared_input`] names, for `x` in f32: `[n, r]`.
    fn project_input(&self, x: Tensor<2>) -> Tensor<2> {
        x
    }

    /// The update, of methods that have one.
    fn update(&self) -> Option<Update<'_>> {
        None
    }

    /// The work of the adapter on a row of a layer whose weight is `base`, for serving on the CPU; without the bias. `None`
    /// where [`Self::apply`] is to be called instead.
    fn serve(&self, base: &Weight, pairs: &Pairs) -> Option<Served> {
        let _ = pairs;
        Served::of_update(self, base)
    }

    /// Whether nothing of the adapter is left, so that it does nothing and will not.
    fn is_spent(&self) -> bool {
        false
    }

    /// The frozen pair that the layers of a model share.
    fn shared_pair(&self) -> Option<&VeraProjection> {
        None
    }

    /// As [`Self::shared_pair`], to change.
    fn shared_pair_mut(&mut self) -> Option<&mut VeraProjection> {
        None
    }

    /// The vector that the layer's input or output is times, of methods that learn nothing else.
    fn scale(&self) -> Option<Scale<'_>> {
        None
    }

    /// The averages of training over the parts that it may take away.
    fn importance(&self) -> Option<&Importance> {
        None
    }

    /// As [`Self::importance`], to change.
    fn importance_mut(&mut self) -> Option<&mut Importance> {
        None
    }

    /// Multiplies the scaling; `false` where the method has none.
    fn rescale(&mut self, multiplier: f64) -> bool {
        let _ = multiplier;
        false
    }

    /// To be called before the base weight is written into.
    fn forget_base(&mut self) {}

    /// To be called where Burn's mappers reach the base weight, so that it may change with any of them.
    fn base_is_visible(&mut self) {}

    /// To be called when the adapter is about to be trained.
    fn prepare_training(&mut self) {}
}
