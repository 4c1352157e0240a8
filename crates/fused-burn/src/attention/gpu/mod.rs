//! On GPUs, in the way of FlashAttention (Dao 2023): a cube for each tile of queries, or of keys, that goes through the tiles
//! of the other kind. No scores are kept, no heads are repeated, nothing is added up atomically.

use std::sync::{Once, PoisonError};

use burn::backend::TensorMetadata;
use burn::backend::ops::IntTensorOps;
use burn::tensor::{DType, Shape, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{AttentionOps, AttentionShape, Starts, composed};
use crate::gpu;

mod backward;
mod forward;
mod tile;

use tile::{Look, SHARED, SIDE, SizesLaunch, TILE};

/// Widths of heads up to which a unit's sums are in registers, or near them.
const WIDEST: usize = 256;

static COMPOSED: Once = Once::new();

impl AttentionOps for CubeBackend {
    fn causal_attention(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        shape: AttentionShape,
    ) -> (CubeTensor, CubeTensor) {
        if !takes(&[&q, &k, &v], &shape, 7) {
            return composed::forward::<Self>(q, k, v, &shape);
        }
        let (q, k, v) = (gpu::rows(q), gpu::rows(k), gpu::rows(v));
        let out = gpu::empty(&q, q.shape(), q.dtype);
        let logs = gpu::empty(&q, Shape::from([shape.batch * shape.seq, shape.heads]), DType::F32);
        let starts = starts(&q, &shape);
        let (client, addresses, element) = (q.client.clone(), gpu::addresses(&[&q, &k]), gpu::element(q.dtype));
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            forward::attention_kernel::launch_unchecked(
                &client,
                cubes(&shape, shape.heads),
                CubeDim::new_2d(SIDE as u32, SIDE as u32),
                addresses,
                q.into_tensor_arg(),
                k.into_tensor_arg(),
                v.into_tensor_arg(),
                starts.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                logs.clone().into_tensor_arg(),
                sizes(&shape),
                look(&shape),
                element,
            )
        };
        (out, logs)
    }

    fn causal_attention_backward(
        grad: CubeTensor,
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        out: CubeTensor,
        logs: CubeTensor,
        shape: AttentionShape,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        if !takes(&[&grad, &q, &k, &v, &out], &shape, 10) || logs.dtype != DType::F32 {
            return composed::backward::<Self>(grad, [q, k, v, out, logs], &shape);
        }
        let [grad, q, k, v, out, logs] = [grad, q, k, v, out, logs].map(gpu::rows);
        let [dq, dk, dv] = [&q, &k, &v].map(|like| gpu::empty(like, like.shape(), like.dtype));
        let dots = gpu::empty(&q, logs.shape(), DType::F32);
        let starts = starts(&q, &shape);
        let (client, addresses, element) = (q.client.clone(), gpu::addresses(&[&q, &k]), gpu::element(q.dtype));
        let units = CubeDim::new_2d(SIDE as u32, SIDE as u32);
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            backward::attention_query_kernel::launch_unchecked(
                &client,
                cubes(&shape, shape.heads),
                units,
                addresses,
                q.clone().into_tensor_arg(),
                k.clone().into_tensor_arg(),
                v.clone().into_tensor_arg(),
                grad.clone().into_tensor_arg(),
                out.into_tensor_arg(),
                logs.clone().into_tensor_arg(),
                starts.clone().into_tensor_arg(),
                dq.clone().into_tensor_arg(),
                dots.clone().into_tensor_arg(),
                sizes(&shape),
                look(&shape),
                element,
            )
        };
        // SAFETY: the kernel leaves out what lies behind the sizes that it is given, which are the tensors'.
        #[allow(unsafe_code)]
        unsafe {
            backward::attention_key_kernel::launch_unchecked(
                &client,
                cubes(&shape, shape.kv_heads),
                units,
                addresses,
                q.into_tensor_arg(),
                k.into_tensor_arg(),
                v.into_tensor_arg(),
                grad.into_tensor_arg(),
                logs.into_tensor_arg(),
                dots.into_tensor_arg(),
                starts.into_tensor_arg(),
                dk.clone().into_tensor_arg(),
                dv.clone().into_tensor_arg(),
                sizes(&shape),
                look(&shape),
                element,
            )
        };
        (dq, dk, dv)
    }
}

fn takes(tensors: &[&CubeTensor], shape: &AttentionShape, count: u32) -> bool {
    let one = tensors[0];
    let takes = gpu::is_common(one.dtype)
        && tensors.iter().all(|t| t.dtype == one.dtype)
        && shape.head_dim <= WIDEST
        && gpu::has_room(one, (SIDE * SIDE) as u32, SHARED, count);
    if !takes {
        gpu::composed_instead(&COMPOSED, "causal_attention", one);
    }
    takes && one.shape().num_elements() > 0
}

fn cubes(shape: &AttentionShape, heads: usize) -> CubeCount {
    CubeCount::Static(shape.seq.div_ceil(TILE) as u32, heads as u32, shape.batch as u32)
}

fn sizes(shape: &AttentionShape) -> SizesLaunch {
    let cap = shape.scores.softcap.unwrap_or(1.0);
    SizesLaunch::new(shape.seq, shape.heads, shape.kv_heads, shape.window.unwrap_or(0), shape.scale(), cap)
}

fn look(shape: &AttentionShape) -> Look {
    let chunk = shape.head_dim.next_power_of_two().clamp(SIDE, TILE);
    Look {
        head_dim: shape.head_dim,
        chunk,
        chunks: shape.head_dim.div_ceil(chunk),
        packed: shape.starts.is_some(),
        windowed: shape.window.is_some(),
        capped: shape.scores.softcap.is_some(),
    }
}

/// The starts on the device of `like`; where rows are not packed, something that nothing reads.
fn starts(like: &CubeTensor, shape: &AttentionShape) -> CubeTensor {
    let Some(starts) = &shape.starts else { return gpu::empty(like, Shape::from([1]), DType::I32) };
    copy(starts, like)
}

fn copy(starts: &Starts, like: &CubeTensor) -> CubeTensor {
    let mut copies = starts.copies.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = copies.iter().find(|copy| copy.device == like.device) {
        return found.clone();
    }
    let columns: Vec<i32> = starts.iter().map(|&start| start as i32).collect();
    let length = columns.len();
    let copy = CubeBackend::int_from_data(TensorData::new(columns, [length]), &like.device);
    copies.push(copy.clone());
    copy
}
