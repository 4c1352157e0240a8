//! On GPUs: as many tensors in one launch as the device binds.

use std::sync::Once;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{AdamWStep, TogetherOps, composed};
use crate::gpu::{self, UNITS, sum_of_cube};

/// Tensors in a launch at most: each is a part of the kernel of its own.
const TENSORS: usize = 16;
/// Cubes that a tensor is shared out to for its sum.
const PARTS: usize = 8;
/// Cubes that a tensor is shared out to at most for its step.
const CUBES: usize = 64;

static COMPOSED: Once = Once::new();

impl TogetherOps for CubeBackend {
    fn sum_of_squares(tensors: Vec<CubeTensor>) -> CubeTensor {
        let Some(room) = room(&tensors, 1) else { return composed::sum_of_squares::<Self>(tensors) };
        let count = tensors.len();
        let first = tensors[0].clone();
        let parts = gpu::empty(&first, Shape::from([count * PARTS]), DType::F32);
        let mut tensors = tensors.into_iter().map(gpu::rows);
        for start in (0..count).step_by(room) {
            let taken: Vec<_> = tensors.by_ref().take(room).collect();
            let addresses = gpu::addresses(&taken.iter().collect::<Vec<_>>());
            // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
            #[allow(unsafe_code)]
            unsafe {
                squares_kernel::launch_unchecked(
                    &first.client,
                    CubeCount::Static(PARTS as u32, taken.len() as u32, 1),
                    CubeDim::new_1d(UNITS),
                    addresses,
                    taken.into_iter().map(CubeTensor::into_tensor_arg).collect(),
                    parts.clone().into_tensor_arg(),
                    start,
                )
            };
        }
        let sum = gpu::empty(&first, Shape::from([1]), DType::F32);
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            sum_kernel::launch_unchecked(
                &first.client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(UNITS),
                gpu::addresses(&[&parts]),
                parts.into_tensor_arg(),
                sum.clone().into_tensor_arg(),
                count * PARTS,
            )
        };
        sum
    }

    fn adam_w(
        parameters: Vec<CubeTensor>,
        gradients: Vec<CubeTensor>,
        first: Vec<CubeTensor>,
        second: Vec<CubeTensor>,
        factor: CubeTensor,
        step: AdamWStep,
    ) -> Vec<CubeTensor> {
        let all: Vec<_> = [&parameters, &gradients, &first, &second].into_iter().flatten().cloned().collect();
        let room = room(&all, 5);
        drop(all);
        let Some(room) = room else {
            return composed::adam_w::<Self>(parameters, [gradients, first, second], factor, &step);
        };
        let own = |t: CubeTensor| if t.can_mut() && t.is_contiguous() { t } else { gpu::rows(t).copy() };
        let (parameters, gradients): (Vec<_>, Vec<_>) =
            (parameters.into_iter().map(gpu::rows).collect(), gradients.into_iter().map(gpu::rows).collect());
        let (first, second): (Vec<_>, Vec<_>) =
            (first.into_iter().map(own).collect(), second.into_iter().map(own).collect());
        let results: Vec<_> = parameters.iter().map(|p| gpu::empty(p, p.shape(), p.dtype)).collect();
        let client = factor.client.clone();
        let seen = step.seen();
        for start in (0..parameters.len()).step_by(room) {
            let taken = start..(start + room).min(parameters.len());
            let args =
                |tensors: &[CubeTensor]| tensors[taken.clone()].iter().map(|t| t.clone().into_tensor_arg()).collect();
            let largest = parameters[taken.clone()].iter().map(|t| t.shape().num_elements()).max().unwrap_or(1);
            // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
            #[allow(unsafe_code)]
            unsafe {
                adam_w_kernel::launch_unchecked(
                    &client,
                    CubeCount::Static(largest.div_ceil(UNITS as usize).clamp(1, CUBES) as u32, taken.len() as u32, 1),
                    CubeDim::new_1d(UNITS),
                    gpu::addresses(&parameters[taken.clone()].iter().collect::<Vec<_>>()),
                    args(&parameters),
                    args(&gradients),
                    args(&first),
                    args(&second),
                    args(&results),
                    factor.clone().into_tensor_arg(),
                    step.betas[0],
                    step.betas[1],
                    1.0 / seen[0],
                    1.0 / seen[1],
                    step.epsilon,
                    step.kept(),
                    step.lr as f32,
                )
            };
        }
        results.into_iter().chain(first).chain(second).collect()
    }
}

/// How many tensors' parts, `each` bindings of a tensor, go into a launch. `None` where there is no kernel for them.
fn room(tensors: &[CubeTensor], each: usize) -> Option<usize> {
    let one = &tensors[0];
    let shared = UNITS as usize * size_of::<f32>();
    // A binding is for sizes and numbers, one for what all have in common.
    let bindings = (one.client.properties().hardware.max_bindings as usize).saturating_sub(2);
    let takes = tensors.iter().all(|t| t.dtype == DType::F32 && t.shape().num_elements() > 0)
        && gpu::has_room(one, UNITS, shared, each as u32 + 1);
    if !takes {
        gpu::composed_instead(&COMPOSED, "adam_w", one);
    }
    takes.then_some((bindings / each).clamp(1, TENSORS))
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn squares_kernel(tensors: &Sequence<OwnedTensor<f32>>, parts: &mut Tensor<f32>, start: usize) {
    let units = comptime!(UNITS as usize);
    let mut shared = Shared::<[f32]>::new_slice(units);
    let mut sum = f32::new(0.0);
    let step = comptime!(PARTS * UNITS as usize);
    #[unroll]
    for t in 0..tensors.len() {
        if CUBE_POS_Y == t as u32 {
            let tensor = tensors.index(t);
            let mut i = CUBE_POS_X as usize * units + UNIT_POS as usize;
            while i < tensor.len() {
                sum += tensor[i] * tensor[i];
                i += step;
            }
        }
    }
    let total = sum_of_cube(sum, &mut shared, units);
    if UNIT_POS == 0 {
        parts[(start + CUBE_POS_Y as usize) * PARTS + CUBE_POS_X as usize] = total;
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn sum_kernel(parts: &Tensor<f32>, out: &mut Tensor<f32>, count: usize) {
    let units = comptime!(UNITS as usize);
    let mut shared = Shared::<[f32]>::new_slice(units);
    let mut sum = f32::new(0.0);
    let mut i = UNIT_POS as usize;
    while i < count {
        sum += parts[i];
        i += units;
    }
    let total = sum_of_cube(sum, &mut shared, units);
    if UNIT_POS == 0 {
        out[0] = total;
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn adam_w_kernel(
    parameters: &Sequence<OwnedTensor<f32>>,
    gradients: &Sequence<OwnedTensor<f32>>,
    first: &mut Sequence<OwnedTensor<f32>>,
    second: &mut Sequence<OwnedTensor<f32>>,
    results: &mut Sequence<OwnedTensor<f32>>,
    factor: &Tensor<f32>,
    beta_1: f32,
    beta_2: f32,
    unbias_1: f32,
    unbias_2: f32,
    epsilon: f32,
    kept: f32,
    lr: f32,
) {
    let step = CUBE_COUNT_X as usize * comptime!(UNITS as usize);
    let scale = factor[0];
    #[unroll]
    for t in 0..parameters.len() {
        if CUBE_POS_Y == t as u32 {
            let parameter = parameters.index(t);
            let gradient = gradients.index(t);
            let mut i = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS as usize;
            while i < parameter.len() {
                let g = gradient[i] * scale;
                let m = first.index(t)[i] * beta_1 + g * (1.0f32 - beta_1);
                let v = second.index(t)[i] * beta_2 + g * g * (1.0f32 - beta_2);
                first.index_mut(t)[i] = m;
                second.index_mut(t)[i] = v;
                let delta = m * unbias_1 / ((v * unbias_2).sqrt() + epsilon);
                results.index_mut(t)[i] = parameter[i] * kept - delta * lr;
                i += step;
            }
        }
    }
}
