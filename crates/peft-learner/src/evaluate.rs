//! The loss of a file, and how many answers a model gets exactly right.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::Module;
use llama_burn::{GenerateOptions, Llama};
use serde::Serialize;

use crate::data::{Example, IGNORE_INDEX, eval_batches};
use crate::error::Result;
use crate::step::batch_loss;

/// What `peft eval` prints.
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

/// The loss of `model` over all of `examples`.
pub fn evaluate(model: &Llama, examples: &[Example], batch_size: usize, pad_id: u32) -> Evaluation {
    let started = Instant::now();
    let model = model.valid();
    let loss: f64 =
        eval_batches(examples, batch_size, pad_id).map(|b| batch_loss(&model, &b).into_scalar::<f64>()).sum();
    Evaluation {
        loss,
        perplexity: loss.exp(),
        tokens: examples.iter().map(Example::num_targets).sum(),
        examples: examples.len(),
        seconds: started.elapsed().as_secs_f64(),
        exact_match: None,
    }
}

/// A prompt, what should follow, and what the model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Tokens up to the first target.
    pub prompt: Vec<u32>,
    /// The target tokens after it, without the token that ends the text.
    pub expected: Vec<u32>,
    /// As many tokens as the model wrote until it ended the text, one more than expected at most.
    pub written: Vec<u32>,
}

impl Answer {
    /// Whether the two are the same.
    pub fn is_right(&self) -> bool {
        self.expected == self.written
    }
}

/// Lets the model answer each example's prompt greedily. Right is an answer that is the expected one and ends there.
///
/// # Errors
/// An example whose first token is a target already: there is nothing to prompt with.
pub fn answer(model: &Llama, examples: &[Example], batch_size: usize, eos: &[u32]) -> Result<Vec<Answer>> {
    let model = model.valid();
    let mut answers: Vec<Answer> = examples.iter().map(|e| split(e, eos)).collect();
    // Rows of one length need no padding and no mask.
    let mut order: Vec<usize> = (0..answers.len()).collect();
    order.sort_by_key(|&i| (answers[i].prompt.len(), answers[i].expected.len()));
    for rows in order.chunks(batch_size.max(1)) {
        let prompts: Vec<_> = rows.iter().map(|&i| answers[i].prompt.clone()).collect();
        let longest = rows.iter().map(|&i| answers[i].expected.len()).max().unwrap_or(0);
        let options = GenerateOptions { max_new_tokens: longest + 1, stop: eos.to_vec(), ..GenerateOptions::default() };
        let written = model.generate(&prompts, &options, |_, _| ControlFlow::Continue(()))?;
        for (&i, mut written) in rows.iter().zip(written) {
            written.truncate(answers[i].expected.len() + 1);
            answers[i].written = written;
        }
    }
    Ok(answers)
}

fn split(example: &Example, eos: &[u32]) -> Answer {
    let first = example.labels.iter().position(|&l| l != IGNORE_INDEX).unwrap_or(example.len());
    let mut expected = example.input_ids[first..].to_vec();
    while expected.last().is_some_and(|id| eos.contains(id)) {
        expected.pop();
    }
    Answer { prompt: example.input_ids[..first].to_vec(), expected, written: Vec::new() }
}
