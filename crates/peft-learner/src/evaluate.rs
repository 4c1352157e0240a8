//! The loss of a file, and how many answers a model gets exactly right.

use std::ops::ControlFlow;
use std::time::Instant;

use llama_burn::{CausalModel, Generate, GenerateOptions};
use serde::Serialize;

use crate::data::{EvalBatches, Example, Examples, IGNORE_INDEX};
use crate::error::{LearnerError, Result};
use crate::train::batch_loss;

/// The report that `peft eval` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood per target token, in nats, without any regulariser.
    pub loss: f64,
    /// e to the `loss`.
    pub perplexity: f64,
    /// Target tokens.
    pub tokens: usize,
    /// Examples.
    pub examples: usize,
    /// Wall-clock time.
    pub seconds: f64,
    /// Share of the examples whose completion the model writes token for token, greedily; where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
}

/// The loss of `model` over all of `examples`, which are read batch by batch. `done` is told how many of them are done.
///
/// # Errors
/// [`LearnerError::Dataset`] where an example cannot be read.
pub fn evaluate<M: CausalModel>(
    model: &M,
    examples: impl Into<Examples>,
    batch_size: usize,
    pad_id: u32,
    mut done: impl FnMut(usize),
) -> Result<Evaluation> {
    let started = Instant::now();
    let model = model.valid();
    let batches = EvalBatches::new(examples, batch_size, pad_id)?;
    let (mut loss, mut rows) = (0.0, 0);
    for batch in batches.iter() {
        let batch = batch?;
        loss += batch_loss(&model, &batch).into_scalar::<f64>();
        rows += batch.batch;
        done(rows);
    }
    Ok(Evaluation {
        loss,
        perplexity: loss.exp(),
        tokens: batches.num_targets(),
        examples: rows,
        seconds: started.elapsed().as_secs_f64(),
        exact_match: None,
    })
}

/// A prompt, what should follow, and what the model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Tokens up to the first target.
    pub prompt: Vec<u32>,
    /// The targets that follow it (of a chat, the first assistant turn), without the token that ends the text.
    pub expected: Vec<u32>,
    /// The model's answer up to its end; no more of it than tells right from wrong.
    pub written: Vec<u32>,
    /// Whether the expected text ends there, so that the model's has to end too.
    ends: bool,
}

impl Answer {
    /// Whether the two are the same.
    pub fn is_right(&self) -> bool {
        self.expected == self.written
    }
}

/// The share of right answers.
pub fn exact_match(answers: &[Answer]) -> f64 {
    answers.iter().filter(|answer| answer.is_right()).count() as f64 / answers.len().max(1) as f64
}

/// Lets the model answer each example's prompt greedily. Right is an answer that is the expected one token for token and
/// ends where that does. `eos` are the tokens that end a text; `done` is told how many examples are done.
///
/// # Errors
/// [`LearnerError::NoPrompt`] for an example whose first token is a target already.
pub fn answer<M: CausalModel>(
    model: &M,
    examples: &[Example],
    batch_size: usize,
    eos: &[u32],
    mut done: impl FnMut(usize),
) -> Result<Vec<Answer>> {
    let model = model.valid();
    let mut answers: Vec<Answer> = examples.iter().map(|e| split(e, eos)).collect();
    if let Some(at) = answers.iter().position(|a| a.prompt.is_empty()) {
        return Err(LearnerError::NoPrompt { example: at + 1 });
    }
    // Rows of one length need no padding and no mask.
    let mut order: Vec<usize> = (0..answers.len()).collect();
    order.sort_by_key(|&i| (answers[i].prompt.len(), answers[i].expected.len()));
    let mut rows_done = 0;
    for rows in order.chunks(batch_size.max(1)) {
        let prompts: Vec<_> = rows.iter().map(|&i| answers[i].prompt.clone()).collect();
        let longest = rows.iter().map(|&i| answers[i].expected.len()).max().unwrap_or(0);
        let options = GenerateOptions { max_new_tokens: longest + 1, stop: eos.to_vec(), ..GenerateOptions::default() };
        let written = model.generate(&prompts, &options, |_, _| ControlFlow::Continue(()))?;
        for (&i, mut written) in rows.iter().zip(written) {
            written.truncate(answers[i].expected.len() + usize::from(answers[i].ends));
            answers[i].written = written;
        }
        rows_done += rows.len();
        done(rows_done);
    }
    Ok(answers)
}

fn split(example: &Example, eos: &[u32]) -> Answer {
    let is_target = |&label: &i32| label != IGNORE_INDEX;
    let first = example.labels.iter().position(is_target).unwrap_or(example.len());
    let length = example.labels[first..].iter().take_while(|label| is_target(label)).count();
    let mut expected = example.input_ids[first..first + length].to_vec();
    while expected.last().is_some_and(|id| eos.contains(id)) {
        expected.pop();
    }
    let ends = expected.len() < length;
    Answer { prompt: example.input_ids[..first].to_vec(), expected, written: Vec::new(), ends }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: &[u32] = &[2];

    #[test]
    fn an_answer_is_the_first_stretch_of_targets_without_its_end() {
        // A chat: header, answer, end of turn, line break, the next question and answer.
        let chat = Example {
            input_ids: vec![5, 6, 7, 8, 2, 9, 5, 6, 7, 2],
            labels: vec![-100, -100, 7, 8, 2, -100, -100, -100, 7, 2],
        };
        let answer = split(&chat, EOS);
        assert_eq!((answer.prompt, answer.expected, answer.ends), (vec![5, 6], vec![7, 8], true));
    }

    #[test]
    fn a_cut_completion_need_not_end() {
        let cut = Example { input_ids: vec![5, 6, 7], labels: vec![-100, -100, 7] };
        let answer = split(&cut, EOS);
        assert_eq!((answer.expected, answer.ends), (vec![7], false));
    }
}
