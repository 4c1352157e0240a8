//! Attention whose weights are dropped at random, as Transformers trains a model with `attention_dropout`.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Distribution, Tensor, TensorData};
use fused_burn::Scores;

use super::pattern::Pattern;

/// Attention of q (`[batch·queries, heads·d]`) to k and v (`[batch, kv_heads, keys, d]`), each weight zeroed with probability
/// `p` after the softmax and the others scaled by 1/(1−p): `[batch·queries, heads·d]`. Weights are held whole.
pub(super) fn dropped_attention(
    q: Tensor<2>,
    k: Tensor<4>,
    v: Tensor<4>,
    pattern: &Pattern,
    p: f64,
    window: Option<usize>,
    rule: Scores,
) -> Tensor<2> {
    let dtype = q.dtype();
    let [batch, kv_heads, keys, d] = k.dims();
    let [rows, width] = q.dims();
    let (queries, heads) = (rows / batch, width / d);
    let group = heads / kv_heads;
    let folded = [batch, kv_heads, group * queries, d];
    let q = q.reshape([batch, queries, kv_heads, group, d]).permute([0, 2, 3, 1, 4]).reshape(folded);
    let [q, k, v] = [q, k, v].map(|t| t.cast(DType::F32));
    let products = q.matmul(k.swap_dims(2, 3));
    let scores = match rule.scale {
        Some(scale) => products.mul_scalar(scale),
        None => products.div_scalar((d as f64).sqrt()),
    };
    let scores = match rule.softcap {
        Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
        None => scores,
    };
    let scores = scores.reshape([batch, heads, queries, keys]);
    let hidden = hidden(pattern, window, batch, queries, &scores);
    // Not −∞: a query that sees nothing, which is padding, would be NaN.
    let weights = softmax(scores.mask_fill(hidden.expand([batch, heads, queries, keys]), -1e30), 3);
    let drop: Tensor<4, Bool> = weights.random_like(Distribution::Bernoulli(p)).bool();
    let weights = weights.mask_fill(drop, 0.0).mul_scalar(1.0 / (1.0 - p));
    let out = weights.reshape([batch, kv_heads, group * queries, keys]).matmul(v);
    let out = out.reshape([batch, kv_heads, group, queries, d]).permute([0, 3, 1, 2, 4]);
    out.reshape([rows, width]).cast(dtype)
}

/// Whom nobody sees: `[1 or batch, 1, queries, keys]`.
fn hidden(pattern: &Pattern, window: Option<usize>, batch: usize, seq: usize, like: &Tensor<4>) -> Tensor<4, Bool> {
    let starts = match pattern {
        Pattern::Masked(mask) => return mask.clone(),
        Pattern::Causal(starts) => starts.as_ref(),
    };
    let rows = if starts.is_some() { batch } else { 1 };
    let mut hidden = Vec::with_capacity(rows * seq * seq);
    for row in 0..rows {
        for query in 0..seq {
            let first = starts.map_or(0, |starts| starts[row * seq + query]);
            let first = first.max(window.map_or(0, |window| (query + 1).saturating_sub(window)));
            hidden.extend((0..seq).map(|key| key < first || key > query));
        }
    }
    Tensor::from_data(TensorData::new(hidden, [rows, 1, seq, seq]), &like.device())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use burn::module::Module;
    use burn::tensor::Device;
    use fused_burn::{AttentionShape, causal_attention};
    use peft_burn::TensorRng;

    use super::*;
    use crate::model::CausalModel;
    use crate::{AttentionMask, Input, Llama, LlamaConfig};

    fn random<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        let values = TensorRng::new(2, name).normal(shape.iter().product(), 1.0);
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    #[test]
    fn without_dropout_it_is_the_fused_attention() {
        let (batch, seq, heads, kv_heads, head_dim) = (2, 5, 4, 2, 6);
        let rules = [(None, Scores::default()), (Some(2), Scores { scale: Some(0.7), softcap: Some(1.2) })];
        let packed = Some(Arc::new(vec![0usize, 0, 2, 2, 2, 0, 1, 1, 3, 3].into()));
        for (starts, (window, scores)) in [None, packed].into_iter().flat_map(|s| rules.map(|rule| (s.clone(), rule))) {
            let q = random("q", [batch * seq, heads * head_dim]);
            let [k, v] = ["k", "v"].map(|name| random(name, [batch * seq, kv_heads * head_dim]));
            let shape =
                AttentionShape { batch, seq, heads, kv_heads, head_dim, starts: starts.clone(), window, scores };
            let expected = causal_attention(q.clone(), k.clone(), v.clone(), shape);
            let [k, v] = [k, v].map(|t| t.reshape([batch, seq, kv_heads, head_dim]).swap_dims(1, 2));
            let found = dropped_attention(q, k, v, &Pattern::Causal(starts), 0.0, window, scores);
            assert!((found - expected).abs().max().into_scalar::<f32>() < 1e-5);
        }
    }

    #[test]
    fn a_model_drops_in_training_alone_and_as_often_as_it_says() {
        let config = r#"{"model_type": "llama", "vocab_size": 24, "hidden_size": 16, "intermediate_size": 20,
            "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5, "attention_dropout": 0.3}"#;
        let config = LlamaConfig::from_json(config, Path::new("config.json")).unwrap();
        let model = Llama::random(config, 1, &Device::flex());
        assert_eq!(model.dropout(), 0.3);
        let logits = |model: &Llama, mask: AttentionMask| {
            let input = Input::from_rows(&[vec![1, 2, 3, 4], vec![5, 6, 7, 8]], &model.device()).with_mask(mask);
            model.forward(&input).into_data()
        };
        let hidden = AttentionMask::Hidden(vec![vec![true, false, false, false], vec![false; 4]]);
        for mask in [AttentionMask::Causal, hidden] {
            assert_eq!(logits(&model, mask.clone()), logits(&model, mask.clone()));
            let trained = model.clone().train();
            assert_ne!(logits(&trained, mask.clone()), logits(&trained, mask.clone()));
            assert_eq!(logits(&trained.valid(), mask.clone()), logits(&model, mask));
        }
        // Of ones behind even weights the mean stays one, and 0.3 of the weights are gone.
        let (batch, seq) = (64, 16);
        let zeros = |heads| Tensor::<4>::zeros([batch, heads, seq, 4], &Device::flex());
        let q = Tensor::zeros([batch * seq, 8], &Device::flex());
        let mask =
            Tensor::<4, Bool>::from_data(TensorData::new(vec![false; seq * seq], [1, 1, seq, seq]), &Device::flex());
        let out = dropped_attention(
            q,
            zeros(2),
            zeros(2).add_scalar(1.0),
            &Pattern::Masked(mask),
            0.3,
            None,
            Scores::default(),
        );
        let values: Vec<f32> = out.slice([0..batch * seq, 0..1]).into_data().iter::<f32>().collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let spread = values.iter().map(|v| (v - 1.0).powi(2)).sum::<f32>() / values.len() as f32;
        // The variance of a mean of 16 values that are 0 with probability p and 1/(1−p) else.
        let expected = 0.3 / 0.7 / seq as f32;
        assert!((mean - 1.0).abs() < 0.02 && (spread / expected - 1.0).abs() < 0.2, "{mean} {spread} {expected}");
    }
}
