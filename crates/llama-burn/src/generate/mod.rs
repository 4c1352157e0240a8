//! Text generation with a key-value cache, for a batch of prompts at once.

mod logprobs;
mod sampling;

use std::ops::ControlFlow;

use burn::tensor::{DType, Int, Tensor, TensorData};
use fused_burn::on_workers;
use peft_burn::PeftModel;

use crate::error::{LlamaError, Result};
use crate::model::{AttentionMask, CausalModel, Input};
pub use logprobs::TokenLogprob;
pub use sampling::{Sampler, SamplingConfig};

/// How long to generate and how to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// At most so many tokens for each prompt.
    pub max_new_tokens: usize,
    /// How a token is chosen; greedy by default.
    pub sampling: SamplingConfig,
    /// Tokens that end a text. They are not part of the result.
    pub stop: Vec<u32>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 128, sampling: SamplingConfig::default(), stop: Vec::new() }
    }
}

/// Text from a model. Implemented for every [`CausalModel`].
pub trait Generate: CausalModel {
    /// Continues each of `prompts`. Returns the new tokens of each. `on_token(row, id)` sees every token as it is made
    /// and can end the whole call with `ControlFlow::Break`.
    ///
    /// A batch gives the same texts as one prompt at a time: shorter prompts are padded on the right, and no token sees
    /// the padding.
    ///
    /// # Errors
    /// An empty prompt, an id outside the vocabulary, sampling options out of range, or a mixed batch with another number
    /// of adapter names than prompts.
    fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>> {
        // Without gradients and dropout, whatever mode the caller's model is in.
        generate(&self.valid(), prompts, options, on_token)
    }
}

impl<M: CausalModel> Generate for M {}

fn generate<M: CausalModel>(
    model: &M,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>> {
    check(prompts, model.spec().vocab_size)?;
    let names = model.adapters_by_row().len();
    if names != 0 && names != prompts.len() {
        return Err(LlamaError::MixedBatch { names, prompts: prompts.len() });
    }
    let mut samplers = (0..prompts.len())
        .map(|row| Sampler::for_row(options.sampling.clone(), row as u64))
        .collect::<Result<Vec<_>>>()?;
    let mut new: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let columns = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if columns == 0 || options.max_new_tokens == 0 {
        return Ok(new);
    }
    let device = model.device();
    let mask = padding(prompts, columns);
    let rows: Vec<Vec<u32>> = prompts.iter().map(|p| padded(p, columns)).collect();
    let mut cache = model.new_cache();
    let input = Input::from_rows(&rows, &device).with_mask(mask.clone());
    let last: Vec<i32> = prompts.iter().enumerate().map(|(b, p)| (b * columns + p.len() - 1) as i32).collect();
    let last = Tensor::<1, Int>::from_data(TensorData::new(last, [prompts.len()]), &device);
    let mut logits = on_workers(&device, || model.logits(model.hidden(&input, Some(&mut cache)).select(0, last)));
    let mut history = prompts.to_vec();
    let mut done = vec![false; prompts.len()];
    for step in 0..options.max_new_tokens {
        let vocab = logits.dims()[1];
        let scores = logits.cast(DType::F32).into_data();
        let scores = scores.as_slice::<f32>().unwrap_or_default();
        for (row, scores) in scores.chunks(vocab).enumerate() {
            if done[row] {
                continue;
            }
            let id = samplers[row].sample(scores, &history[row])?;
            if options.stop.contains(&id) {
                done[row] = true;
                continue;
            }
            history[row].push(id);
            new[row].push(id);
            if on_token(row, id).is_break() {
                return Ok(new);
            }
        }
        if step + 1 == options.max_new_tokens || done.iter().all(|d| *d) {
            break;
        }
        let next: Vec<Vec<u32>> = history.iter().map(|h| vec![h[h.len() - 1]]).collect();
        let positions = prompts.iter().map(|p| vec![p.len() + step]).collect();
        let input = Input::from_rows(&next, &device).with_mask(mask.clone()).with_positions(positions);
        logits = on_workers(&device, || model.logits(model.hidden(&input, Some(&mut cache))));
    }
    Ok(new)
}

fn check(prompts: &[Vec<u32>], vocab: usize) -> Result<()> {
    for (row, prompt) in prompts.iter().enumerate() {
        let problem = match prompt.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => format!("token {id} is outside the vocabulary of {vocab}"),
            None if prompt.is_empty() => "it is empty: give at least one token".into(),
            None => continue,
        };
        return Err(LlamaError::Prompt { row, message: problem });
    }
    Ok(())
}

fn padded(prompt: &[u32], columns: usize) -> Vec<u32> {
    let mut row = prompt.to_vec();
    row.resize(columns, 0);
    row
}

/// Hides the padding of shorter prompts from every later column.
fn padding(prompts: &[Vec<u32>], columns: usize) -> AttentionMask {
    if prompts.iter().all(|p| p.len() == columns) {
        return AttentionMask::Causal;
    }
    AttentionMask::Hidden(prompts.iter().map(|p| (0..columns).map(|c| c >= p.len()).collect()).collect())
}
