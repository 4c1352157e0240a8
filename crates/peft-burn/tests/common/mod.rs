//! A small classifier that takes adapters, for tests.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_burn::targets::ModuleInfo;
use peft_burn::{AdaptableModel, LayerMut, LayerRef, PeftEmbedding, PeftLinear, PeftState, TensorRng};

/// Two layers of projections named as Llama's, between an embedding and a classification head.
#[derive(Module, Debug)]
pub struct Classifier {
    embed_tokens: PeftEmbedding,
    q_proj: Vec<PeftLinear>,
    down_proj: Vec<PeftLinear>,
    score: PeftLinear,
    #[module(skip)]
    peft: PeftState,
}

pub const VOCAB: usize = 11;

impl Classifier {
    /// Random weights; `sizes` are those of the hidden state and of the inner one.
    pub fn random(seed: u64, [hidden, inner]: [usize; 2], classes: usize, bias: bool) -> Self {
        let device = Device::flex();
        let matrix = |name: &str, rows: usize, columns: usize| {
            let values = TensorRng::new(seed, name).normal(rows * columns, (columns as f32).powf(-0.5));
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device)
        };
        let linear = |name: String, out: usize, inp: usize| {
            let values = TensorRng::new(seed, &format!("{name}.bias")).normal(out, 0.3);
            let bias = bias.then(|| Tensor::<1>::from_data(TensorData::new(values, [out]), &device));
            PeftLinear::new(matrix(&name, out, inp), bias)
        };
        Self {
            embed_tokens: PeftEmbedding::new(matrix("embed", VOCAB, hidden)),
            q_proj: (0..2).map(|i| linear(format!("q{i}"), inner, hidden)).collect(),
            down_proj: (0..2).map(|i| linear(format!("d{i}"), hidden, inner)).collect(),
            score: PeftLinear::new(matrix("score", classes, hidden), None),
            peft: PeftState::default(),
        }
    }

    /// Scores of each token: `[n, classes]`.
    pub fn forward(&self, ids: &[i32]) -> Tensor<2> {
        let device = self.devices().remove(0);
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids.to_vec(), [ids.len()]), &device);
        let x = self.embed_tokens.forward(ids);
        let layers = self.q_proj.iter().zip(&self.down_proj);
        let x = layers.fold(x, |x, (q, down)| x.clone() + down.forward(q.forward(x).tanh()));
        self.score.forward(x)
    }

    /// The base's weights and biases as they are, with what is merged into them.
    pub fn base_weights(&self) -> Vec<TensorData> {
        let mut all = Vec::new();
        for (_, layer) in self.layers() {
            match layer {
                LayerRef::Linear(l) => {
                    all.push(l.base().weight.val().dense().into_data());
                    all.extend(l.base().bias.iter().map(|b| b.val().into_data()));
                }
                LayerRef::Embedding(e) => all.push(e.base().val().dense().into_data()),
                LayerRef::Norm(norm) => all.push(norm.base().val().into_data()),
                other => panic!("a kind of layer that this model has not: {other:?}"),
            }
        }
        all
    }
}

impl AdaptableModel for Classifier {
    fn model_type(&self) -> &str {
        "llama"
    }

    fn layers(&self) -> Vec<(String, LayerRef<'_>)> {
        let mut all = vec![("model.embed_tokens".to_owned(), LayerRef::Embedding(&self.embed_tokens))];
        for (i, (q, down)) in self.q_proj.iter().zip(&self.down_proj).enumerate() {
            all.push((format!("model.layers.{i}.self_attn.q_proj"), LayerRef::Linear(q)));
            all.push((format!("model.layers.{i}.mlp.down_proj"), LayerRef::Linear(down)));
        }
        all.push(("score".to_owned(), LayerRef::Linear(&self.score)));
        all
    }

    fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)> {
        let mut all = vec![("model.embed_tokens".to_owned(), LayerMut::Embedding(&mut self.embed_tokens))];
        for (i, (q, down)) in self.q_proj.iter_mut().zip(&mut self.down_proj).enumerate() {
            all.push((format!("model.layers.{i}.self_attn.q_proj"), LayerMut::Linear(q)));
            all.push((format!("model.layers.{i}.mlp.down_proj"), LayerMut::Linear(down)));
        }
        all.push(("score".to_owned(), LayerMut::Linear(&mut self.score)));
        all
    }

    fn modules(&self) -> Vec<ModuleInfo> {
        let info = |(path, layer): (String, LayerRef<'_>)| match layer {
            LayerRef::Embedding(e) => ModuleInfo::embedding(path, e.dims()[0], e.dims()[1]),
            LayerRef::Norm(norm) => ModuleInfo::other(path, norm.base().val().dims()[0]),
            LayerRef::Linear(l) => {
                let ([inp, out], bias) = (l.dims(), l.base().bias.is_some());
                let head = path == "score";
                let info = if head { ModuleInfo::output_head } else { ModuleInfo::linear };
                info(path, inp, out).with_bias(bias)
            }
            other => panic!("a kind of layer that this model has not: {other:?}"),
        };
        self.layers().into_iter().map(info).collect()
    }

    fn peft_state(&self) -> &PeftState {
        &self.peft
    }

    fn peft_state_mut(&mut self) -> &mut PeftState {
        &mut self.peft
    }
}
