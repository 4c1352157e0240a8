//! On the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

use super::{AttentionOps, AttentionShape, blocks, composed};
use crate::flex::{self, all_bf16, all_f32, contiguous, narrowed, values, widened};

impl AttentionOps for Flex {
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&q, &k, &v]) {
            let (out, logs) = Self::causal_attention(widened(q), widened(k), widened(v), shape);
            return (narrowed(out), logs);
        }
        if !all_f32(&[&q, &k, &v]) {
            return composed::forward::<Self>(q, k, v, &shape);
        }
        let (size, rows) = (q.shape(), [shape.batch * shape.seq, shape.heads]);
        let (q, k, v) = (contiguous(q), contiguous(k), contiguous(v));
        let [out, logs] = blocks::forward(values(&q), values(&k), values(&v), &shape);
        (flex::tensor(out, size), flex::tensor(logs, rows))
    }

    fn causal_attention_backward(
        grad: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&grad, &q, &k, &v, &out]) {
            let [grad, q, k, v, out] = [grad, q, k, v, out].map(widened);
            let (dq, dk, dv) = Self::causal_attention_backward(grad, q, k, v, out, logs, shape);
            return (narrowed(dq), narrowed(dk), narrowed(dv));
        }
        if !all_f32(&[&grad, &q, &k, &v, &out, &logs]) {
            return composed::backward::<Self>(grad, [q, k, v, out, logs], &shape);
        }
        let (size, kv_size) = (q.shape(), k.shape());
        let [grad, q, k, v, out, logs] = [grad, q, k, v, out, logs].map(contiguous);
        let [q, k, v, out, logs] = [&q, &k, &v, &out, &logs].map(values);
        let [dq, dk, dv] = blocks::backward(values(&grad), blocks::Forward { q, k, v, out, logs }, &shape);
        (flex::tensor(dq, size), flex::tensor(dk, kv_size.clone()), flex::tensor(dv, kv_size))
    }
}
