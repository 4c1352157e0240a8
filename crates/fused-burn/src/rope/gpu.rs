//! On GPUs: a unit for each pair, and for each number that does not turn.

use std::sync::Once;

use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{RopeOps, composed};
use crate::gpu::{self, UNITS};

static COMPOSED: Once = Once::new();

impl RopeOps for CubeBackend {
    fn rope(x: CubeTensor, cos: CubeTensor, sin: CubeTensor, width: usize, inverse: bool) -> CubeTensor {
        if !(gpu::all_common(&[&x, &cos, &sin]) && cos.dtype == sin.dtype && gpu::has_room(&x, UNITS, 0, 4)) {
            gpu::composed_instead(&COMPOSED, "rope", &x);
            return composed::rope::<Self>(x, cos, sin, width, inverse);
        }
        let (n, tables) = (x.shape().num_elements(), cos.shape());
        if n == 0 {
            return x;
        }
        let (x, cos, sin) = (gpu::rows(x), gpu::rows(cos), gpu::rows(sin));
        let out = gpu::empty(&x, x.shape(), x.dtype);
        let (row, half) = (gpu::width(&x), tables[1]);
        // Of each head, the pairs and what does not turn.
        let work = n / width * (width - half);
        let (client, addresses) = (x.client.clone(), gpu::addresses(&[&x]));
        let elements = [gpu::element(x.dtype), gpu::element(cos.dtype)];
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            rope_kernel::launch_unchecked(
                &client,
                gpu::cubes(work.div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                addresses,
                x.into_tensor_arg(),
                cos.into_tensor_arg(),
                sin.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                work,
                row / width,
                tables[0],
                width,
                half,
                if inverse { -1.0 } else { 1.0 },
                elements,
            )
        };
        out
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn rope_kernel<F: Float, T: Float>(
    x: &Tensor<F>,
    cos: &Tensor<T>,
    sin: &Tensor<T>,
    out: &mut Tensor<F>,
    work: usize,
    heads: usize,
    rows: usize,
    width: usize,
    half: usize,
    sign: f32,
    #[define(F, T)] _dtypes: [ElemType; 2],
) {
    let at = ABSOLUTE_POS;
    if at >= work {
        terminate!();
    }
    let of_head = width - half;
    let (head, i) = (at / of_head, at % of_head);
    let first = head * width + i;
    if i < half {
        let angle = (head / heads) % rows * half + i;
        let c = f32::cast_from(cos[angle]);
        let s = f32::cast_from(sin[angle]) * sign;
        let a = f32::cast_from(x[first]);
        let b = f32::cast_from(x[first + half]);
        out[first] = F::cast_from(a * c - b * s);
        out[first + half] = F::cast_from(b * c + a * s);
    } else {
        out[first + half] = x[first + half];
    }
}
