//! How much AdaLoRA's triplets matter, by the training so far.
//!
//! A triplet's score is sensitivity times uncertainty, both smoothed over the steps: of its entry of E, plus the means
//! over its row of A and its column of B.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};

use super::triplets::keep;
use crate::param;

/// One number for every number of A, E and B. Frozen parameters: Burn's records carry them, no optimiser moves them.
#[derive(Module, Debug)]
struct Averages {
    a: Param<Tensor<2>>,
    e: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
}

impl Averages {
    fn zeros([a, e, b]: [&Param<Tensor<2>>; 3]) -> Self {
        let zeros = |p: &Param<Tensor<2>>| frozen(p.val().zeros_like());
        Self { a: zeros(a), e: zeros(e), b: zeros(b) }
    }

    fn all_mut(&mut self) -> [&mut Param<Tensor<2>>; 3] {
        [&mut self.a, &mut self.e, &mut self.b]
    }
}

/// The averages of training over the triplets of one layer.
#[derive(Module, Debug)]
pub struct Importance {
    sensitivity: Averages,
    uncertainty: Averages,
    /// 1 for a triplet that the last mask kept, else 0: `[r, 1]`.
    mask: Param<Tensor<2>>,
}

impl Importance {
    /// Of A, E and B, which training has not changed yet.
    pub(crate) fn new(triplets: [&Param<Tensor<2>>; 3]) -> Self {
        let mask = frozen(triplets[1].val().ones_like());
        Self { sensitivity: Averages::zeros(triplets), uncertainty: Averages::zeros(triplets), mask }
    }

    /// Sensitivity and uncertainty of each number of A, E and B, by names on disk.
    pub fn averages(&self) -> [(&'static str, Tensor<2>, Tensor<2>); 3] {
        let (s, u) = (&self.sensitivity, &self.uncertainty);
        [("lora_A", &s.a, &u.a), ("lora_E", &s.e, &u.e), ("lora_B", &s.b, &u.b)]
            .map(|(name, ipt, unc)| (name, ipt.val(), unc.val()))
    }

    pub(crate) fn mask(&self) -> Tensor<2> {
        self.mask.val()
    }

    /// Keeps the flagged triplets.
    pub(crate) fn set_mask(&mut self, kept: &[bool]) {
        let values = kept.iter().map(|&kept| if kept { 1.0_f32 } else { 0.0 }).collect();
        param::replace(&mut self.mask, TensorData::new(values, [kept.len(), 1]));
    }

    /// Takes in one step: the values after it and the gradients that led to it. `betas` smooth sensitivity and uncertainty.
    pub(crate) fn observe(&mut self, values: [Tensor<2>; 3], grads: [Tensor<2>; 3], betas: [f64; 2]) {
        let averages = self.sensitivity.all_mut().into_iter().zip(self.uncertainty.all_mut());
        for ((ipt, unc), (value, grad)) in averages.zip(values.into_iter().zip(grads)) {
            let now = (value * grad).abs();
            smooth(ipt, now.clone(), betas[0]);
            smooth(unc, (now - ipt.val().inner()).abs(), betas[1]);
        }
    }

    /// Forgets all averages: after the last mask nothing reads them.
    pub(crate) fn reset(&mut self) {
        for average in self.sensitivity.all_mut().into_iter().chain(self.uncertainty.all_mut()) {
            param::update(average, |old| old.zeros_like());
        }
    }

    /// Forgets the triplets that are not flagged.
    pub(crate) fn keep(&mut self, flags: &[bool]) {
        for average in [&mut self.sensitivity, &mut self.uncertainty] {
            keep(&mut average.a, 0, flags);
            keep(&mut average.e, 0, flags);
            keep(&mut average.b, 1, flags);
        }
        keep(&mut self.mask, 0, flags);
    }

    /// The score of each triplet: `[r]`.
    pub(crate) fn scores(&self) -> Tensor<1> {
        let (s, u) = (&self.sensitivity, &self.uncertainty);
        let score = |ipt: &Param<Tensor<2>>, unc: &Param<Tensor<2>>| ipt.val().inner() * unc.val().inner();
        let vectors = score(&s.a, &u.a).mean_dim(1) + score(&s.b, &u.b).mean_dim(0).transpose();
        (score(&s.e, &u.e) + vectors).squeeze_dim(1)
    }
}

fn frozen(tensor: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(tensor.detach()).set_require_grad(false)
}

/// `average = beta·average + (1 − beta)·now`
fn smooth(average: &mut Param<Tensor<2>>, now: Tensor<2>, beta: f64) {
    param::update(average, |old| old.mul_scalar(beta) + now.mul_scalar(1.0 - beta));
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn scores_are_those_of_the_definition() {
        let device = Device::flex();
        let start = [[2, 2], [2, 1], [3, 2]].map(|shape| Param::from_tensor(Tensor::zeros(shape, &device)));
        let mut importance = Importance::new(start.each_ref());
        let shaped = |a: [[f32; 2]; 2], e: [[f32; 1]; 2], b: [[f32; 2]; 3]| {
            [Tensor::from_floats(a, &device), Tensor::from_floats(e, &device), Tensor::from_floats(b, &device)]
        };
        let values = shaped([[1.0, -2.0], [3.0, 4.0]], [[1.0], [0.0]], [[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]]);
        let ones = || shaped([[1.0; 2]; 2], [[1.0]; 2], [[1.0; 2]; 3]);
        importance.observe(values, ones(), [0.5, 0.75]);
        // Of one value v: sensitivity v/2, uncertainty (v - v/2)/4, score v²/16.
        let expected = [(1.0 + 5.0 / 2.0 + 5.0 / 3.0) / 16.0, (0.0 + 25.0 / 2.0 + 10.0 / 3.0) / 16.0];
        let found: Vec<f32> = importance.scores().into_data().iter().collect();
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        importance.reset();
        assert_eq!(importance.scores().into_data().iter::<f32>().collect::<Vec<_>>(), [0.0, 0.0]);
    }
}
