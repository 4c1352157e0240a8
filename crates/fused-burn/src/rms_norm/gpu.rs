//! On GPUs: a cube for each row.

use std::sync::Once;

use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{RmsNormOps, composed};
use crate::gpu::{self, UNITS, sum_of_cube};

static COMPOSED: Once = Once::new();

impl RmsNormOps for CubeBackend {
    fn rms_norm(x: CubeTensor, gain: CubeTensor, eps: f64, offset: f64) -> CubeTensor {
        if !takes(&x, &gain) {
            return composed::rms_norm::<Self>(x, gain, eps, offset);
        }
        let row = Row::of(&x);
        let (x, gain) = (gpu::rows(x), gpu::rows(gain));
        let out = gpu::empty(&x, x.shape(), x.dtype);
        let (client, addresses, element) = (x.client.clone(), gpu::addresses(&[&x]), gpu::element(x.dtype));
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            rms_norm_kernel::launch_unchecked(
                &client,
                gpu::cubes(row.count),
                CubeDim::new_1d(UNITS),
                addresses,
                row.vector,
                x.into_tensor_arg(),
                gain.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                row.count,
                row.vectors,
                row.inverse,
                eps as f32,
                offset as f32,
                offset == 0.0,
                element,
            )
        };
        out
    }

    fn rms_norm_backward(grad: CubeTensor, x: CubeTensor, gain: CubeTensor, eps: f64, offset: f64) -> CubeTensor {
        if !takes(&x, &gain) || grad.dtype != x.dtype {
            return composed::rms_norm_backward::<Self>(grad, x, gain, eps, offset);
        }
        let row = Row::of(&x);
        let (grad, x, gain) = (gpu::rows(grad), gpu::rows(x), gpu::rows(gain));
        let out = gpu::empty(&x, x.shape(), x.dtype);
        let (client, addresses, element) = (x.client.clone(), gpu::addresses(&[&x]), gpu::element(x.dtype));
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            rms_norm_backward_kernel::launch_unchecked(
                &client,
                gpu::cubes(row.count),
                CubeDim::new_1d(UNITS),
                addresses,
                row.vector,
                grad.into_tensor_arg(),
                x.into_tensor_arg(),
                gain.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                row.count,
                row.vectors,
                row.inverse,
                eps as f32,
                offset as f32,
                element,
            )
        };
        out
    }
}

fn takes(x: &CubeTensor, gain: &CubeTensor) -> bool {
    let shared = UNITS as usize * size_of::<f32>();
    let takes = gpu::is_common(x.dtype) && gain.dtype == x.dtype && gpu::has_room(x, UNITS, shared, 4);
    if !takes {
        gpu::composed_instead(&COMPOSED, "rms_norm", x);
    }
    takes && x.shape().num_elements() > 0
}

/// How rows are shared out.
struct Row {
    /// How many there are.
    count: usize,
    /// Numbers that a unit takes at once.
    vector: usize,
    /// How many of these a row has.
    vectors: usize,
    /// 1 over its width.
    inverse: f32,
}

impl Row {
    fn of(x: &CubeTensor) -> Self {
        let width = gpu::width(x);
        let vector = gpu::vector(x, width);
        Self { count: x.shape()[0], vector, vectors: width / vector, inverse: 1.0 / width as f32 }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn rms_norm_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    gain: &Tensor<Vector<F, N>>,
    out: &mut Tensor<Vector<F, N>>,
    rows: usize,
    width: usize,
    inverse_width: f32,
    eps: f32,
    offset: f32,
    #[comptime] plain: bool,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let units = comptime!(UNITS as usize);
    let mut parts = Shared::<[f32]>::new_slice(units);
    let start = row * width;
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = Vector::<f32, N>::cast_from(x[start + i]);
        squares += value * value;
        i += units;
    }
    let total = sum_of_cube(squares.vector_sum(), &mut parts, units);
    let inverse = Vector::<f32, N>::new((total * inverse_width + eps).inverse_sqrt());
    let mut i = UNIT_POS as usize;
    while i < width {
        let normed = Vector::<f32, N>::cast_from(x[start + i]) * inverse;
        let factor = Vector::<f32, N>::cast_from(gain[i]);
        if comptime!(plain) {
            // Rounded before the gain, as Transformers does.
            let normed = Vector::<F, N>::cast_from(normed);
            out[start + i] = Vector::<F, N>::cast_from(Vector::<f32, N>::cast_from(normed) * factor);
        } else {
            out[start + i] = Vector::<F, N>::cast_from(normed * (factor + Vector::<f32, N>::new(offset)));
        }
        i += units;
    }
}

/// With u = g·dy and i the inverse: dx = i·u − x·i³·mean(u·x).
#[cube(launch_unchecked, address_type = "dynamic")]
fn rms_norm_backward_kernel<F: Float, N: Size>(
    grad: &Tensor<Vector<F, N>>,
    x: &Tensor<Vector<F, N>>,
    gain: &Tensor<Vector<F, N>>,
    out: &mut Tensor<Vector<F, N>>,
    rows: usize,
    width: usize,
    inverse_width: f32,
    eps: f32,
    offset: f32,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let units = comptime!(UNITS as usize);
    let mut parts = Shared::<[f32]>::new_slice(units);
    let start = row * width;
    let offset = Vector::<f32, N>::new(offset);
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut products = Vector::<f32, N>::new(0.0f32);
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = Vector::<f32, N>::cast_from(x[start + i]);
        let factor = Vector::<f32, N>::cast_from(gain[i]) + offset;
        squares += value * value;
        products += value * factor * Vector::<f32, N>::cast_from(grad[start + i]);
        i += units;
    }
    let square = sum_of_cube(squares.vector_sum(), &mut parts, units);
    let product = sum_of_cube(products.vector_sum(), &mut parts, units);
    let inverse = (square * inverse_width + eps).inverse_sqrt();
    let back = Vector::<f32, N>::new(product * inverse_width * inverse * inverse);
    let inverse = Vector::<f32, N>::new(inverse);
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = Vector::<f32, N>::cast_from(x[start + i]);
        let factor = Vector::<f32, N>::cast_from(gain[i]) + offset;
        let u = factor * Vector::<f32, N>::cast_from(grad[start + i]);
        out[start + i] = Vector::<F, N>::cast_from((u - value * back) * inverse);
        i += units;
    }
}
