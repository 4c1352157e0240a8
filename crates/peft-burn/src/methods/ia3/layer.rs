//! (IA)³ (Liu et al. 2022, arXiv:2205.05638): `y = l ∘ (x·Wᵀ + b)`, or `y = (x ∘ l)·Wᵀ + b` for feedforward modules.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use fused_burn::{RowUpdate, Weight, can_join, scale_columns, scaled_linear};

use crate::methods::traits::{MethodLayer, Scale};
use crate::param::{ParamMut, ParamRef, from_vec};
use crate::random::TensorRng;
use crate::serve::{Pairs, Served, host};

/// An IA3 adapter of one linear layer.
#[derive(Module, Debug)]
pub struct Ia3 {
    /// l: `[1, in]` where it scales the input, `[out, 1]` where it scales the output.
    pub ia3_l: Param<Tensor<2>>,
    feedforward: bool,
}

impl Ia3 {
    /// Makes the adapter for `weight` (`[out, in]`). `ones`: l begins as the identity, else as N(0, 1).
    pub fn init(weight: &Weight, feedforward: bool, ones: bool, rng: &mut TensorRng) -> Self {
        let [out, inp] = weight.dims();
        let shape = if feedforward { [1, inp] } else { [out, 1] };
        let n = shape[0] * shape[1];
        let values = if ones { vec![1.0; n] } else { rng.normal(n, 1.0) };
        Self { ia3_l: from_vec(values, shape, &weight.device()), feedforward }
    }

    /// Whether l scales the layer's input rather than its output.
    pub fn is_feedforward(&self) -> bool {
        self.feedforward
    }

    /// l without its second dimension: `[in]` or `[out]`.
    pub(crate) fn vector(&self) -> Tensor<1> {
        let l = self.ia3_l.val();
        let n = l.shape().num_elements();
        l.reshape([n])
    }

    /// The adapted `product` (`[n, out]`, f32).
    pub(crate) fn scale_output(&self, product: Tensor<2>) -> Tensor<2> {
        if self.feedforward { product } else { scale_columns(product, self.vector()) }
    }

    /// The adapted bias (`[out]`, f32).
    pub(crate) fn scale_bias(&self, bias: Tensor<1>) -> Tensor<1> {
        if self.feedforward { bias } else { bias * self.vector() }
    }
}

impl MethodLayer for Ia3 {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        vec![("ia3_l", ParamRef::from(&self.ia3_l))]
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![("ia3_l", ParamMut::from(&mut self.ia3_l))]
    }

    fn scale(&self) -> Option<Scale<'_>> {
        Some(Scale { of_input: self.feedforward, values: &self.ia3_l })
    }

    fn apply(&self, product: Tensor<2>, _: Tensor<2>, _: &Weight, _: Option<&Tensor<2>>) -> Tensor<2> {
        self.scale_output(product)
    }

    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Weight,
        _: &Weight,
        _: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        let joined = !self.feedforward && can_join(x, weight, &[]);
        joined.then(|| scaled_linear(x.clone(), weight.clone(), self.vector(), rounded))
    }

    fn merge(&self, weight: Tensor<2>, _: &Weight) -> Tensor<2> {
        weight * self.ia3_l.val()
    }

    fn input_scale(&self) -> Option<Tensor<1>> {
        self.feedforward.then(|| self.vector())
    }

    fn serve(&self, _: &Weight, _: &Pairs) -> Option<Served> {
        let vector = host(self.vector());
        Some(if self.feedforward {
            Served { input: vector, ..Served::default() }
        } else {
            Served { update: RowUpdate { scale: vector, ..RowUpdate::default() }, ..Served::default() }
        })
    }

    fn changes_bias(&self, has_bias: bool) -> bool {
        has_bias && !self.feedforward
    }

    fn apply_bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        bias.map(|bias| self.scale_bias(bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tolerance};

    #[test]
    fn either_side_equals_the_scaled_weight() {
        let device = Device::flex();
        let mut rng = TensorRng::new(1, "x");
        let [w, x] = [[4, 6], [3, 6]].map(|s| from_vec(rng.normal(s[0] * s[1], 1.0), s, &device).val());
        let bias = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &device);
        for feedforward in [true, false] {
            let ia3 = Ia3::init(&w.clone().into(), feedforward, false, &mut rng);
            assert_eq!(ia3.ia3_l.val().dims(), if feedforward { [1, 6] } else { [4, 1] });
            let scaled_bias = ia3.scale_bias(bias.clone());
            let y = ia3.scale_output(ia3.scale_input(x.clone()).matmul(w.clone().transpose()));
            let merged = x.clone().matmul(ia3.merge(w.clone(), &w.clone().into()).transpose());
            let with_bias = ia3.scale_output(x.clone().matmul(w.clone().transpose()) + bias.clone().unsqueeze());
            y.clone().into_data().assert_approx_eq::<f32>(&merged.into_data(), Tolerance::absolute(1e-5));
            if !feedforward {
                let y = y + scaled_bias.unsqueeze();
                y.into_data().assert_approx_eq::<f32>(&with_bias.into_data(), Tolerance::absolute(1e-5));
            }
        }
        let identity = Ia3::init(&w.clone().into(), false, true, &mut rng);
        assert_eq!(identity.merge(w.clone(), &w.clone().into()).into_data(), w.into_data());
    }
}
