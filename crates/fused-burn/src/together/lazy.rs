//! Under Burn's fusion: as it does for operations with a fixed number of tensors, which its macro is limited to.

use burn::backend::fusion::custom::{CustomOpIr, OperationFn, OperationIr, StreamId, TensorIr};
use burn::backend::fusion::{Fusion, FusionBackend, FusionTensor};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};

use super::{AdamWStep, TogetherOps};

/// Registers `run` on `inputs`, which makes float tensors of the given shapes and dtypes of them.
fn register<B: FusionBackend>(
    name: &str,
    inputs: Vec<FloatTensor<Fusion<B>>>,
    outputs: Vec<(Shape, DType)>,
    run: impl Fn(Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> + Send + Sync + 'static,
) -> Vec<FusionTensor<B::FusionRuntime>> {
    let client = inputs[0].client.clone();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let outputs: Vec<TensorIr> = outputs
        .into_iter()
        .map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype))
        .collect();
    let (taken, made) = (inputs.clone(), outputs.clone());
    let description = CustomOpIr { id: name.to_owned(), inputs, outputs, scalars: Vec::new() };
    let operation = OperationFn(
        move |handles: &mut burn::backend::fusion::custom::HandleContainer<
            <B::FusionRuntime as burn::backend::fusion::FusionRuntime>::FusionHandle,
        >| {
            let inputs = taken.iter().map(|input| handles.get_float_tensor::<B>(input)).collect();
            for (output, tensor) in made.iter().zip(run(inputs)) {
                handles.register_float_tensor::<B>(&output.id, tensor);
            }
            Ok(())
        },
    );
    client.register(StreamId::current(), OperationIr::Custom(description), operation)
}

impl<B: FusionBackend + TogetherOps> TogetherOps for Fusion<B> {
    fn sum_of_squares(tensors: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        let shape = vec![(Shape::from([1]), DType::F32)];
        register::<B>("sum_of_squares", tensors, shape, |tensors| vec![B::sum_of_squares(tensors)]).remove(0)
    }

    fn adam_w(
        parameters: Vec<FloatTensor<Self>>,
        gradients: Vec<FloatTensor<Self>>,
        first: Vec<FloatTensor<Self>>,
        second: Vec<FloatTensor<Self>>,
        factor: FloatTensor<Self>,
        step: AdamWStep,
    ) -> Vec<FloatTensor<Self>> {
        let count = parameters.len();
        let outputs =
            [&parameters, &first, &second].into_iter().flatten().map(|t| (t.shape.clone(), t.dtype)).collect();
        let inputs = [parameters, gradients, first, second, vec![factor]].into_iter().flatten().collect();
        register::<B>("adam_w", inputs, outputs, move |inputs| {
            let mut inputs = inputs.into_iter();
            let mut next = |count: usize| inputs.by_ref().take(count).collect::<Vec<_>>();
            let [parameters, gradients, first, second] = std::array::from_fn(|_| next(count));
            B::adam_w(parameters, gradients, first, second, next(1).remove(0), step)
        })
    }
}
