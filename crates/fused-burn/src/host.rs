//! Operations for serving are written for the CPU's memory. Tensors of another backend are copied there and back.

use burn::backend::Flex;
use burn::tensor::{DType, Device, Tensor};

use crate::flex::{self, FlexTensor, contiguous, narrowed, widened};

/// The tensor in f32, in host memory, its rows one after another.
pub(crate) fn on_host<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    match tensor.clone().try_into_primitive::<Flex>() {
        Ok(tensor) if [DType::F32, DType::BF16].contains(&tensor.dtype()) => contiguous(widened(tensor)),
        _ => {
            let data = tensor.into_data().convert_dtype(DType::F32);
            let shape = data.shape().to_vec();
            flex::tensor(data.iter::<f32>().collect(), shape)
        }
    }
}

/// A tensor of f32 from [`on_host`], in `dtype` on `device`.
pub(crate) fn back<const D: usize>(tensor: FlexTensor, dtype: DType, device: &Device) -> Tensor<D> {
    if *device != Device::flex() {
        return Tensor::from_data(tensor.into_data(), (device, dtype));
    }
    match dtype {
        DType::F32 => Tensor::from_primitive::<Flex>(tensor),
        DType::BF16 => Tensor::from_primitive::<Flex>(narrowed(tensor)),
        _ => Tensor::<D>::from_primitive::<Flex>(tensor).cast(dtype),
    }
}
