//! One pass over the next tokens of a batch.

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorData};
use fused_burn::{BlockRows, on_workers};
use llama_burn::{Llama, Step};
use peft_burn::Plan;

use crate::sequence::Sequence;

/// Runs the next tokens of each sequence of a batch. Returns the logits of each: of the last token, if it has no other to run
/// after it, and of all tokens whose log-probabilities are wanted.
pub(super) fn forward(model: &Llama, batch: &mut [(Box<Sequence>, usize)]) -> Vec<Vec<Vec<f32>>> {
    let (mut ids, mut wanted, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let mut sequences = Vec::with_capacity(batch.len());
    for (sequence, count) in batch.iter_mut() {
        let start = ids.len();
        let tokens = &sequence.tokens()[sequence.cached..sequence.cached + *count];
        ids.extend_from_slice(tokens);
        let rows = start..ids.len();
        let ends = sequence.left_to_run() == *count;
        let first = if sequence.wants_prompt_logprobs() { rows.start } else { rows.end - usize::from(ends) };
        wanted.extend(first..rows.end);
        counts.push(rows.end - first);
        let blocks = std::mem::take(&mut sequence.blocks);
        sequences.push(BlockRows { rows, past: sequence.cached, blocks });
    }
    let packs = batch.iter().map(|(sequence, count)| {
        let pack = sequence.lease.as_ref().map(|lease| Arc::clone(lease.pack()));
        (pack, *count)
    });
    let plan = Arc::new(Plan::new(packs));
    let n = ids.len();
    let device = model.device();
    let logits = on_workers(&device, || {
        let hidden = model.serve(Step { ids, plan: Arc::clone(&plan), sequences: &mut sequences });
        if wanted.is_empty() {
            return Vec::new();
        }
        let plan = plan.select(&wanted);
        let hidden = if wanted.len() == n {
            hidden
        } else {
            let rows: Vec<i32> = wanted.iter().map(|&row| row as i32).collect();
            let len = rows.len();
            hidden.select(0, Tensor::<1, Int>::from_data(TensorData::new(rows, [len]), &device))
        };
        let mut all = Vec::with_capacity(wanted.len());
        for (_, part) in model.serve_logits(hidden, &plan) {
            let width = part.dims()[1];
            let values = part.cast(DType::F32).into_data();
            all.extend(values.as_slice::<f32>().unwrap_or_default().chunks(width.max(1)).map(<[f32]>::to_vec));
        }
        all
    });
    for ((sequence, _), rows) in batch.iter_mut().zip(sequences) {
        sequence.blocks = rows.blocks;
    }
    let mut logits = logits.into_iter();
    counts.into_iter().map(|count| logits.by_ref().take(count).collect()).collect()
}
