//! `peft eval`

use std::path::PathBuf;

use clap::Args;
use peft_learner::config::RunConfig;
use peft_learner::data::{Part, Prepared, RowOptions};
use peft_learner::evaluate::{answer, evaluate, exact_match};
use serde_json::{Map, Value};

use crate::failure::Result;
use crate::model_args::{ModelArgs, object};
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
    /// A file, folder, pattern or data set of the hub, in any of the shapes that `peft train` reads
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Read rows as this run's configuration says: the columns, roles, template, chat_template_kwargs
    #[arg(long, value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    /// Change a key of that file, such as data.columns.prompt=question
    #[arg(long, value_name = "SECTION.KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Variables of the chat template as JSON, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    chat_template_kwargs: Option<Map<String, Value>>,
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
        let mut rows = match &self.config {
            Some(config) => RunConfig::load(config, &self.set)?.data.rows,
            None => RowOptions::default(),
        };
        rows.chat_template_kwargs.extend(self.chat_template_kwargs.unwrap_or_default());
        let preparation = base.preparation(self.max_length.unwrap_or(usize::MAX)).rows(rows);
        let Prepared { examples, report, .. } = preparation.sources(&[self.data.clone().into()], Part::Valid)?;
        output::note(report.describe(&self.data));
        let context = base.model.config().max_position_embeddings;
        let mut beyond = 0;
        for example in examples.iter() {
            beyond += usize::from(example?.len() > context);
        }
        if beyond > 0 {
            output::warn(format_args!("{beyond} rows are longer than the {context} tokens the model is made for"));
        }
        let bar = output::bar(examples.len(), "loss");
        let done = |rows: usize| bar.set_position(rows as u64);
        let mut evaluation = evaluate(&base.model, &examples, self.batch_size, base.pad_id(), done)?;
        bar.finish_and_clear();
        if !evaluation.loss.is_finite() {
            output::warn(
                "the loss is no number: weights of the model or the adapter are not finite, or become too large for --dtype f16",
            );
        }
        if self.exact_match {
            let bar = output::bar(examples.len(), "answers");
            let done = |rows: usize| bar.set_position(rows as u64);
            let answers = answer(&base.model, &examples.to_vec()?, self.batch_size, &base.eos_ids(), done)?;
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
