//! The parts that kernels for GPUs are made of. They are written in CubeCL: one source for CUDA, ROCm, Metal, Vulkan and
//! WebGPU.
//!
//! A kernel takes the dtypes of [`is_common`] and computes in f32. What it does not take, its operation composes.

use std::sync::Once;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Units of a cube that works on one row: as many as every device has.
pub(crate) const UNITS: u32 = 256;

/// Rows of cubes along the first axis: what every device allows.
const CUBES: usize = 32_768;

/// Whether kernels take tensors of `dtype`.
pub(crate) fn is_common(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Whether kernels take all of them.
pub(crate) fn all_common(tensors: &[&CubeTensor]) -> bool {
    tensors.iter().all(|t| is_common(t.dtype))
}

/// Whether the device runs cubes of `units` that share `shared` bytes and reach `tensors` tensors.
pub(crate) fn has_room(tensor: &CubeTensor, units: u32, shared: usize, tensors: u32) -> bool {
    let hardware = &tensor.client.properties().hardware;
    // One binding is for sizes and numbers.
    hardware.max_units_per_cube >= units
        && hardware.max_cube_dim.0 >= units
        && hardware.max_shared_memory_size >= shared
        && hardware.max_bindings > tensors
}

/// Says once that `operation` is composed on this device, and why.
pub(crate) fn composed_instead(once: &Once, operation: &str, tensor: &CubeTensor) {
    once.call_once(|| {
        let dtype = tensor.dtype;
        let device = &tensor.device;
        tracing::info!("{operation} is composed of smaller operations: no kernel for {dtype:?} on {device:?}");
    });
}

/// The tensor's elements one after another.
pub(crate) fn rows(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// A tensor of that shape and dtype beside `like`, not written yet.
pub(crate) fn empty(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// As CubeCL calls it.
pub(crate) fn element(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// How many neighbours of a row of `width` numbers of `dtype` a unit takes at once.
pub(crate) fn vector(tensor: &CubeTensor, width: usize) -> usize {
    let sizes = tensor.client.io_optimized_vector_sizes(tensor.dtype.size());
    sizes.filter(|size| *size <= 4 && width.is_multiple_of(*size)).max().unwrap_or(1)
}

/// A cube for each of `n` things; kernels leave out those behind `n`.
pub(crate) fn cubes(n: usize) -> CubeCount {
    let x = n.clamp(1, CUBES);
    CubeCount::Static(x as u32, n.div_ceil(x).max(1) as u32, 1)
}

/// Wide enough addresses for all of them.
pub(crate) fn addresses(tensors: &[&CubeTensor]) -> AddressType {
    tensors.iter().map(|t| t.required_address_type()).max().unwrap_or_default()
}

/// Width of the last dimension.
pub(crate) fn width(tensor: &CubeTensor) -> usize {
    let shape = tensor.shape();
    shape[shape.num_dims() - 1]
}

/// The sum of a number of each unit of the cube, known to all of them. Every unit calls it. `parts` has a place for each.
#[cube]
pub(crate) fn sum_of_cube(value: f32, parts: &mut Shared<[f32]>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    // What was read of the last sum has been read.
    sync_cube();
    parts[unit] = value;
    sync_cube();
    #[unroll]
    for round in 0..comptime!(units.ilog2() as usize) {
        let step = comptime!(units >> (round + 1));
        if unit < step {
            let sum = parts[unit] + parts[unit + step];
            parts[unit] = sum;
        }
        sync_cube();
    }
    parts[0]
}

/// As [`sum_of_cube`], the largest.
#[cube]
pub(crate) fn max_of_cube(value: f32, parts: &mut Shared<[f32]>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    parts[unit] = value;
    sync_cube();
    #[unroll]
    for round in 0..comptime!(units.ilog2() as usize) {
        let step = comptime!(units >> (round + 1));
        if unit < step {
            let largest = parts[unit].max(parts[unit + step]);
            parts[unit] = largest;
        }
        sync_cube();
    }
    parts[0]
}
