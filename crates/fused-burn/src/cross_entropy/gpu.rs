//! On GPUs: a cube for each row of logits, which become their gradient where they lie.

use std::sync::Once;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{CrossEntropyOps, LogitRule, composed};
use crate::gpu::{self, UNITS, max_of_cube, sum_of_cube};

static COMPOSED: Once = Once::new();

impl CrossEntropyOps for CubeBackend {
    fn logit_gradients(
        product: CubeTensor,
        targets: CubeTensor,
        scale: f64,
        rule: LogitRule,
        dtype: DType,
    ) -> (CubeTensor, CubeTensor) {
        let shared = UNITS as usize * size_of::<f32>();
        if !(gpu::all_common(&[&product]) && gpu::is_common(dtype) && gpu::has_room(&product, UNITS, shared, 4)) {
            gpu::composed_instead(&COMPOSED, "cross_entropy", &product);
            return composed::logit_gradients::<Self>(product, targets, scale, rule, dtype);
        }
        let (product, targets) = (gpu::rows(product), gpu::rows(targets));
        let (rows, width) = (product.shape()[0], gpu::width(&product));
        let losses = gpu::empty(&product, Shape::from([rows, 1]), DType::F32);
        let vector = gpu::vector(&product, width);
        let in_place = product.dtype == dtype && product.can_mut();
        let grads = if in_place { product.clone() } else { gpu::empty(&product, product.shape(), dtype) };
        let (client, addresses) = (product.client.clone(), gpu::addresses(&[&product, &grads]));
        let elements = [gpu::element(product.dtype), gpu::element(dtype), gpu::element(targets.dtype)];
        let out = if in_place { product.as_tensor_alias(0) } else { grads.clone().into_tensor_arg() };
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            logit_gradients_kernel::launch_unchecked(
                &client,
                gpu::cubes(rows),
                CubeDim::new_1d(UNITS),
                addresses,
                vector,
                product.into_tensor_arg(),
                targets.into_tensor_arg(),
                out,
                losses.clone().into_tensor_arg(),
                rows,
                width / vector,
                vector,
                scale as f32,
                (1.0 / rule.divisor) as f32,
                rule.softcap.unwrap_or(1.0) as f32,
                rule.softcap.is_some(),
                elements,
            )
        };
        (grads, losses)
    }
}

#[cube]
fn logits<F: Float, N: Size>(product: Vector<F, N>, factor: f32, cap: f32, #[comptime] capped: bool) -> Vector<f32, N> {
    let logits = Vector::<f32, N>::cast_from(product) * Vector::<f32, N>::new(factor);
    if comptime!(capped) {
        (logits * Vector::<f32, N>::new(1.0f32 / cap)).tanh() * Vector::<f32, N>::new(cap)
    } else {
        logits
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn logit_gradients_kernel<F: Float, G: Float, I: Numeric, N: Size>(
    product: &Tensor<Vector<F, N>>,
    targets: &Tensor<I>,
    grads: &mut Tensor<Vector<G, N>>,
    losses: &mut Tensor<f32>,
    rows: usize,
    width: usize,
    lanes: usize,
    scale: f32,
    factor: f32,
    cap: f32,
    #[comptime] capped: bool,
    #[define(F, G, I)] _dtypes: [ElemType; 3],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let units = comptime!(UNITS as usize);
    let mut parts = Shared::<[f32]>::new_slice(units);
    let start = row * width;
    let unit = UNIT_POS as usize;
    // Of the numbers that a unit sees: the largest so far, and the sum of the exponentials of all over its own.
    let mut largest = f32::new(-1.0e30);
    let mut sum = f32::new(0.0);
    let mut i = unit;
    while i < width {
        let values = logits::<F, N>(product[start + i], factor, cap, capped);
        let mut top = values.extract(0usize);
        #[unroll]
        for lane in 1..N::value() {
            top = top.max(values.extract(lane));
        }
        let next = largest.max(top);
        let terms = (values - Vector::<f32, N>::new(next)).exp();
        sum = sum * (largest - next).exp() + Vector::vector_sum(terms);
        largest = next;
        i += units;
    }
    let top = max_of_cube(largest, &mut parts, units);
    let total = sum_of_cube(sum * (largest - top).exp(), &mut parts, units);
    let target = u32::cast_from(targets[row]) as usize;
    let share = Vector::<f32, N>::new(scale / total);
    let mut i = unit;
    while i < width {
        let values = logits::<F, N>(product[start + i], factor, cap, capped);
        let mut grad = (values - Vector::<f32, N>::new(top)).exp() * share;
        if i == target / lanes {
            let mut hit = Vector::<f32, N>::new(0.0f32);
            #[unroll]
            for lane in 0..N::value() {
                if lane == target % lanes {
                    hit.insert(lane, scale);
                    losses[row] = top + total.ln() - values.extract(lane);
                }
            }
            grad -= hit;
        }
        if comptime!(capped) {
            let bent = values * Vector::<f32, N>::new(1.0f32 / cap);
            grad *= Vector::<f32, N>::new(1.0f32) - bent * bent;
        }
        grads[start + i] = Vector::<G, N>::cast_from(grad * Vector::<f32, N>::new(factor));
        i += units;
    }
}
