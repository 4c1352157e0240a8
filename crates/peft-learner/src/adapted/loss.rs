//! The usual training step of a model.

/// Implements Burn's `TrainStep` in the usual way, for a model that implements `InferenceStep` with an output that has a
/// `loss`, such as Burn's `ClassificationOutput` or `RegressionOutput`: the same output, and the gradients of its loss.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::Linear;
/// use burn::tensor::Tensor;
/// use burn::train::{InferenceStep, RegressionOutput};
/// use peft_learner::train_by_loss;
///
/// #[derive(Module, Debug)]
/// struct Net {
///     only: Linear,
/// }
///
/// impl InferenceStep for Net {
///     type Input = (Tensor<2>, Tensor<2>);
///     type Output = RegressionOutput;
///
///     fn step(&self, (x, y): Self::Input) -> RegressionOutput {
///         let output = self.only.forward(x);
///         RegressionOutput::new((output.clone() - y.clone()).powi_scalar(2).mean(), output, y)
///     }
/// }
///
/// train_by_loss!(Net);
/// ```
#[macro_export]
macro_rules! train_by_loss {
    ($model:ty) => {
        impl $crate::burn::train::TrainStep for $model {
            type Input = <$model as $crate::burn::train::InferenceStep>::Input;
            type Output = <$model as $crate::burn::train::InferenceStep>::Output;

            fn step(&self, item: Self::Input) -> $crate::burn::train::TrainOutput<Self::Output> {
                let output = $crate::burn::train::InferenceStep::step(self, item);
                $crate::burn::train::TrainOutput::new(self, output.loss.backward(), output)
            }
        }
    };
}
