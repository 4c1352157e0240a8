//! `peft eval`

use std::path::PathBuf;

use clap::Args;
use peft_learner::evaluate::{answer, evaluate, exact_match};

use crate::failure::Result;
use crate::model_args::ModelArgs;
use crate::output;

const EXAMPLE: &str = "\
Example: what the adapter made of the held-out rows, and how many it answers exactly right
  peft eval --model models/smollm2 --adapter runs/sentiment/adapter --data valid.jsonl --exact-match";

/// Measure the loss of a model on a file
///
/// Prints the mean negative log-likelihood per target token (in nats) over the whole file, and its exponential.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    /// JSON Lines, in any of the shapes that `peft train` reads
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Rows that are computed at a time
    #[arg(long, default_value_t = 8, value_name = "N")]
    batch_size: usize,
    /// Cut longer rows, in tokens; without it rows are read whole
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Also let the model answer each row greedily, and count the answers that are right token for token
    #[arg(long)]
    exact_match: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result {
        let base = self.model.load()?;
        let (examples, report) = base.examples(&self.data, self.max_length.unwrap_or(usize::MAX))?;
        output::note(report.describe(&self.data));
        let context = base.model.config().max_position_embeddings;
        let beyond = examples.iter().filter(|example| example.len() > context).count();
        if beyond > 0 {
            output::warn(format_args!("{beyond} rows are longer than the {context} tokens the model is made for"));
        }
        let bar = output::bar(examples.len(), "loss");
        let done = |rows: usize| bar.set_position(rows as u64);
        let mut evaluation = evaluate(&base.model, &examples, self.batch_size, base.pad_id(), done);
        bar.finish_and_clear();
        if self.exact_match {
            let bar = output::bar(examples.len(), "answers");
            let done = |rows: usize| bar.set_position(rows as u64);
            let answers = answer(&base.model, &examples, self.batch_size, &base.eos_ids(), done)?;
            bar.finish_and_clear();
            evaluation.exact_match = Some(exact_match(&answers));
        }
        if self.json {
            return output::json(&evaluation);
        }
        let (tokens, rows) = (output::count(evaluation.tokens), output::count(evaluation.examples));
        output::line(format_args!("loss         {:.4} nats per target token", evaluation.loss))?;
        output::line(format_args!("perplexity   {:.4}", evaluation.perplexity))?;
        if let Some(share) = evaluation.exact_match {
            output::line(format_args!("exact match  {:.1}%", 100.0 * share))?;
        }
        output::line(format_args!(
            "over         {tokens} target tokens of {rows} examples in {:.1} s",
            evaluation.seconds
        ))
    }
}
