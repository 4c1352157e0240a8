//! The results of a step of an adapted model, as metrics of Burn's.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Tensor, TensorReadError};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry,
};

use super::place::Place;
use super::watch::{StepNumbers, Watch};
use super::wrapper::Adapted;

/// A number of each optimiser step of an [`Adapted`] model, for `SupervisedTraining::metrics` and the like.
///
/// It is made from the model, and asks nothing of the model's outputs. In validation it shows the number of the last
/// step; an epoch's value is that of its last step, and no mean. Where there is no such number, it shows `N/A`.
#[derive(Clone, Debug)]
pub struct StepMetric {
    name: MetricName,
    pick: Pick,
    unit: Option<&'static str>,
    watch: Watch,
    /// The next batch.
    next: usize,
    value: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Pick {
    Budget,
    Live,
    GradNorm,
}

impl StepMetric {
    /// AdaLoRA's budget: how many triplets the model may keep.
    pub fn rank_budget<M: Module, P: Place<M>>(model: &Adapted<M, P>) -> Self {
        Self::new("Rank Budget", Pick::Budget, Some("triplets"), model)
    }

    /// AdaLoRA's triplets that take part: entries of all E that are not zero. Between two masks pruned ones may come back,
    /// as in PEFT.
    pub fn live_triplets<M: Module, P: Place<M>>(model: &Adapted<M, P>) -> Self {
        Self::new("Live Triplets", Pick::Live, Some("triplets"), model)
    }

    /// The norm of all gradients together, before clipping.
    pub fn grad_norm<M: Module, P: Place<M>>(model: &Adapted<M, P>) -> Self {
        Self::new("Gradient Norm", Pick::GradNorm, None, model)
    }

    fn new<M: Module, P: Place<M>>(name: &str, pick: Pick, unit: Option<&'static str>, model: &Adapted<M, P>) -> Self {
        let watch = model.watch.clone();
        let next = watch.watch();
        Self { name: Arc::new(name.to_owned()), pick, unit, watch, next, value: None }
    }

    fn read(&self, numbers: StepNumbers) -> Result<Option<f64>, TensorReadError> {
        let scalar = |tensor: Option<Tensor<1>>| tensor.map(|tensor| tensor.try_into_scalar::<f64>()).transpose();
        match self.pick {
            Pick::Budget => Ok(numbers.budget.map(|budget| budget as f64)),
            Pick::Live => scalar(numbers.live),
            Pick::GradNorm => scalar(numbers.grad_norm),
        }
    }

    fn entry(&self, last: bool) -> SerializedEntry {
        let Some(value) = self.value else { return SerializedEntry::not_available(self.unit) };
        let entry = if last { NumericEntry::Final(value) } else { NumericEntry::Value(value) };
        let value = match self.pick {
            Pick::GradNorm => format!("{value:.3e}"),
            _ => format!("{value}"),
        };
        let text = self.unit.map_or(value.clone(), |unit| format!("{value} {unit}"));
        SerializedEntry::new(text, entry.serialize())
    }
}

impl Metric for StepMetric {
    /// Nothing of the model's output: every output adapts to this.
    type Input = ();

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: self.unit.map(str::to_owned), higher_is_better: false }.into()
    }

    fn update(&mut self, _item: &(), metadata: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        // Only batches of training come with a learning rate.
        let numbers = match metadata.lr {
            Some(_) => {
                self.next += 1;
                self.watch.after(self.next - 1)
            }
            None => self.watch.last(),
        };
        self.value = self.read(numbers)?;
        Ok(self.entry(false))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry(true))
    }

    fn clear(&mut self) {
        self.value = None;
    }
}

impl Numeric for StepMetric {
    fn value(&self) -> Option<NumericEntry> {
        self.value.map(NumericEntry::Value)
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.value()
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.value.unwrap_or(f64::NAN))
    }
}
