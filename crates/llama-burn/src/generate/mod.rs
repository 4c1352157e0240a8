//! Text generation with a key-value cache, for a batch of prompts at once.

mod defaults;
mod logprobs;
mod options;
mod sampling;
mod sampling_config;
mod text_decoder;

use std::ops::{ControlFlow, Deref};

use burn::tensor::{DType, Int, Tensor, TensorData};
use fused_burn::on_workers;
use peft_burn::PeftModel;

use crate::error::{LlamaError, PromptError, Result, SamplingError};
use crate::model::{AttentionMask, CausalModel, Input};
use crate::text::Tokenizer;
pub use defaults::GenerationDefaults;
pub use logprobs::TokenLogprob;
pub use options::GenerateOptions;
pub use sampling::Sampler;
pub use sampling_config::SamplingConfig;
pub use text_decoder::{Finish, Piece, TextDecoder};

/// Text from a model. Implemented for every [`CausalModel`].
pub trait Generate: CausalModel {
    /// Continues each of `prompts`. Returns the new tokens of each. `on_token(row, id)` sees every token as it is made
    /// and can end the whole call with `ControlFlow::Break`.
    ///
    /// A batch gives the same texts as one prompt at a time: shorter prompts are padded on the right, and no token sees
    /// the padding.
    ///
    /// # Errors
    /// An empty prompt, an id outside the vocabulary, sampling options out of range, a mixed batch with another number
    /// of adapter names than prompts, and stop strings: those take [`Self::decode`] with a tokenizer.
    fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>> {
        if !options.stop_strings.is_empty() {
            return Err(SamplingError::StopStrings.into());
        }
        let decoder = |(row, prompt): (usize, &Vec<u32>)| {
            TextDecoder::<&Tokenizer>::new(prompt.clone(), options.clone(), None, row as u64)
        };
        let mut decoders = prompts.iter().enumerate().map(decoder).collect::<Result<Vec<_>>>()?;
        let mut new = vec![Vec::new(); prompts.len()];
        self.decode(&mut decoders, |row, piece| {
            piece.ids.into_iter().try_for_each(|id| {
                new[row].push(id);
                on_token(row, id)
            })
        })?;
        Ok(new)
    }

    /// Makes the text of each of `decoders`, as one batch. Returns why each ended: none for those that had not when
    /// `on_piece(row, piece)`, which sees each as far as it is certain, ended the call with `ControlFlow::Break`.
    ///
    /// # Errors
    /// As [`Self::generate`], and tokens that a tokenizer does not know.
    fn decode<T: Deref<Target = Tokenizer>>(
        &self,
        decoders: &mut [TextDecoder<T>],
        on_piece: impl FnMut(usize, Piece) -> ControlFlow<()>,
    ) -> Result<Vec<Option<Finish>>> {
        // Without gradients and dropout, whatever mode the caller's model is in.
        decode(&self.valid(), decoders, on_piece)
    }
}

impl<M: CausalModel> Generate for M {}

fn decode<M: CausalModel, T: Deref<Target = Tokenizer>>(
    model: &M,
    decoders: &mut [TextDecoder<T>],
    mut on_piece: impl FnMut(usize, Piece) -> ControlFlow<()>,
) -> Result<Vec<Option<Finish>>> {
    let prompts: Vec<Vec<u32>> = decoders.iter().map(|decoder| decoder.prompt().to_vec()).collect();
    check(&prompts, model.spec().vocab_size)?;
    let names = model.adapters_by_row().len();
    if names != 0 && names != prompts.len() {
        return Err(LlamaError::MixedBatch { names, prompts: prompts.len() });
    }
    let mut ended: Vec<Option<Finish>> =
        decoders.iter().map(|d| (d.options().max_new_tokens == 0).then_some(Finish::Length)).collect();
    let columns = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if ended.iter().all(Option::is_some) {
        return Ok(ended);
    }
    let device = model.device();
    let mask = padding(&prompts, columns);
    let rows: Vec<Vec<u32>> = prompts.iter().map(|p| padded(p, columns)).collect();
    let mut cache = model.new_cache();
    let input = Input::from_rows(&rows, &device).with_mask(mask.clone());
    let last: Vec<i32> = prompts.iter().enumerate().map(|(b, p)| (b * columns + p.len() - 1) as i32).collect();
    let last = Tensor::<1, Int>::from_data(TensorData::new(last, [prompts.len()]), &device);
    let mut logits = on_workers(&device, || model.logits(model.hidden(&input, Some(&mut cache)).select(0, last)));
    for step in 0.. {
        let vocab = logits.dims()[1];
        let scores = logits.cast(DType::F32).into_data();
        let scores = scores.as_slice::<f32>().unwrap_or_default();
        for (row, scores) in scores.chunks(vocab).enumerate() {
            if ended[row].is_some() {
                continue;
            }
            let (piece, finish) = decoders[row].advance(scores, usize::MAX)?;
            ended[row] = finish;
            if piece.is_some_and(|piece| on_piece(row, piece).is_break()) {
                return Ok(ended);
            }
        }
        if ended.iter().all(Option::is_some) {
            break;
        }
        let next: Vec<Vec<u32>> = decoders.iter().map(|d| d.tokens().last().copied().into_iter().collect()).collect();
        let positions = prompts.iter().map(|p| vec![p.len() + step]).collect();
        let input = Input::from_rows(&next, &device).with_mask(mask.clone()).with_positions(positions);
        logits = on_workers(&device, || model.logits(model.hidden(&input, Some(&mut cache))));
    }
    Ok(ended)
}

fn check(prompts: &[Vec<u32>], vocabulary: usize) -> Result<()> {
    for (row, prompt) in prompts.iter().enumerate() {
        let cause = match prompt.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&id) => PromptError::UnknownToken { id, vocabulary },
            None if prompt.is_empty() => PromptError::Empty,
            None => continue,
        };
        return Err(LlamaError::Prompt { row, cause });
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
