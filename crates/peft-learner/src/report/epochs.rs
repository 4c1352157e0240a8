//! A line for each epoch, for programs that train in Burn's own loop.

use std::collections::BTreeMap;
use std::io::Write;

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};
use burn::train::{Interrupter, LearnerModel, LearnerSummary, SupervisedTraining};

use super::dashboard;

/// Writes a line for each epoch with its metrics, where Burn's own renderer writes several for each batch.
///
/// ```text
/// epoch 3/30 · train: Loss 0.4127 · Live Triplets 18 · valid: Loss 0.4310
/// ```
pub struct EpochLines {
    writer: Box<dyn Write + Send + Sync>,
    epochs: usize,
    names: BTreeMap<String, String>,
    train: Vec<(String, f64)>,
    valid: Vec<(String, f64)>,
}

impl EpochLines {
    /// Lines to `writer`.
    pub fn to_writer(writer: Box<dyn Write + Send + Sync>) -> Self {
        Self { writer, epochs: 0, names: BTreeMap::new(), train: Vec::new(), valid: Vec::new() }
    }

    /// A renderer for `SupervisedTraining::renderer`: Burn's dashboard where stdout is a terminal (with the feature `tui`),
    /// and lines to stderr elsewhere. The dashboard stops the run through `interrupter`, which is the training's own.
    pub fn or_dashboard(interrupter: Interrupter) -> Box<dyn MetricsRenderer> {
        dashboard(&interrupter).unwrap_or_else(|| Box::new(Self::to_writer(Box::new(std::io::stderr()))))
    }

    fn name(&self, id: &MetricId) -> String {
        let key = format!("{id:?}");
        self.names.get(&key).cloned().unwrap_or(key)
    }

    /// A metric and its value so far in the epoch.
    fn value(&self, state: &MetricState) -> Option<(String, f64)> {
        match state {
            MetricState::Numeric(entry, Some(value)) if !entry.serialized_entry.is_not_available() => {
                Some((self.name(&entry.metric_id), NumericEntry::current(value)))
            }
            _ => None,
        }
    }
}

/// Shows what Burn's training loop does, in the place of Burn's several lines for each batch.
pub trait ShowEpochs {
    /// Shows Burn's dashboard where stdout is a terminal, and a line for each epoch on stderr elsewhere
    /// ([`EpochLines::or_dashboard`]). Writes no `experiment.log`.
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use burn::data::dataloader::DataLoader;
    /// # use burn::train::{InferenceStep, Learner, LearnerModel, SupervisedTraining, TrainStep};
    /// use peft_learner::report::ShowEpochs;
    ///
    /// # fn train<M: LearnerModel>(
    /// #     learner: Learner<M>,
    /// #     train: Arc<dyn DataLoader<<M as TrainStep>::Input>>,
    /// #     valid: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
    /// # ) {
    /// SupervisedTraining::new("runs/mine", train, valid).num_epochs(5).show_epochs().launch(learner);
    /// # }
    /// ```
    fn show_epochs(self) -> Self;
}

impl<M: LearnerModel> ShowEpochs for SupervisedTraining<M> {
    fn show_epochs(self) -> Self {
        let renderer = EpochLines::or_dashboard(self.interrupter());
        self.renderer(renderer).with_application_logger(None)
    }
}

fn put(values: &mut Vec<(String, f64)>, new: Option<(String, f64)>) {
    let Some((name, value)) = new else { return };
    match values.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => values.push((name, value)),
    }
}

fn list(split: &str, values: &mut Vec<(String, f64)>) -> String {
    let texts = std::mem::take(values).into_iter().map(|(name, value)| match value.fract() {
        0.0 => format!("{name} {value}"),
        _ => format!("{name} {value:.4}"),
    });
    let texts = texts.collect::<Vec<_>>().join(" · ");
    if texts.is_empty() { texts } else { format!(" · {split}: {texts}") }
}

impl MetricsRendererTraining for EpochLines {
    fn update_train(&mut self, state: MetricState) {
        let new = self.value(&state);
        put(&mut self.train, new);
    }

    fn update_valid(&mut self, state: MetricState) {
        let new = self.value(&state);
        put(&mut self.valid, new);
    }

    fn on_train_end(&mut self, summary: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(summary) = summary {
            writeln!(self.writer, "{summary}")?;
        }
        Ok(())
    }
}

impl TrainingProgressLogger for EpochLines {
    fn start(&mut self, epochs: usize, _starting_epoch: usize, _items: Option<usize>, _label: Option<&str>) {
        self.epochs = epochs;
    }

    fn update_epoch(&mut self, epoch: usize) {
        let (train, valid) = (list("train", &mut self.train), list("valid", &mut self.valid));
        // A log that cannot be written is no reason to stop a run.
        let _ = writeln!(self.writer, "epoch {epoch}/{}{train}{valid}", self.epochs);
    }

    fn start_split(&mut self, _split: &str, _items: usize) {}

    fn update_split(&mut self, _items: usize) {}

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRendererEvaluation for EpochLines {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl EvaluationProgressLogger for EpochLines {
    fn start_global_progress(&mut self, _tests: usize) {}

    fn start_test(&mut self, _name: &str, _items: usize) {}

    fn update_test_progress(&mut self, _items: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRenderer for EpochLines {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.insert(format!("{:?}", definition.metric_id), definition.name.to_string());
    }
}
