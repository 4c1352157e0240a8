//! Progress on stderr where there is no dashboard: a bar in a terminal, some lines in a log.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};
use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};

use super::metrics::{EvalReport, StepReport};

/// A run has at most about this many lines in a log.
const LINES: usize = 20;

const BAR: &str = "{bar:32.cyan/dim} {pos}/{len} · {msg}";

/// Shows how a run goes. Clones show the same run: one is given to Burn as its renderer, one is told the steps.
///
/// Burn's own notices of epochs and splits are not shown (an epoch is no unit a user knows here), and nothing is written
/// to stdout.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

struct State {
    output: Output,
    started: Instant,
    /// Steps that were done before this run was resumed.
    behind: usize,
    total: usize,
}

enum Output {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Progress {
    /// Progress of a run of `total` steps, of which `done` lie behind it: a bar where stderr is a terminal, lines
    /// elsewhere.
    pub fn new(total: usize, done: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::to_writer(total, done, Box::new(std::io::stderr()));
        }
        let bar = ProgressBar::new(total as u64).with_position(done as u64);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        Self::with(Output::Bar(bar), total, done)
    }

    /// The same, as lines to `writer`.
    pub fn to_writer(total: usize, done: usize, writer: Box<dyn Write + Send>) -> Self {
        Self::with(Output::Lines(writer), total, done)
    }

    fn with(output: Output, total: usize, behind: usize) -> Self {
        Self(Arc::new(Mutex::new(State { output, started: Instant::now(), behind, total })))
    }

    /// Tells of a step that is done.
    pub fn update(&self, report: &StepReport) {
        let mut state = self.state();
        let left = state.time_left(report.step);
        let message = format!(
            "loss {:.4} · {:.0} tokens/s · {} left",
            report.loss,
            report.tokens_per_second,
            FormattedDuration(left)
        );
        let every = state.total.div_ceil(LINES).max(1);
        let due = report.step.is_multiple_of(every) || report.step == state.total;
        let line = format!("step {}/{} · {message}", report.step, state.total);
        match &mut state.output {
            Output::Bar(bar) => {
                bar.set_position(report.step as u64);
                bar.set_message(message);
            }
            Output::Lines(writer) if due => print(writer, &line),
            Output::Lines(_) => {}
        }
    }

    /// Tells of an evaluation.
    pub fn evaluated(&self, report: &EvalReport) {
        self.note(&format!(
            "step {} · validation loss {:.4} · perplexity {:.2}",
            report.step, report.loss, report.perplexity
        ));
    }

    /// Writes a line above the bar.
    pub fn note(&self, line: &str) {
        match &mut self.state().output {
            Output::Bar(bar) => bar.println(line),
            Output::Lines(writer) => print(writer, line),
        }
    }

    /// Leaves the bar as it is.
    pub fn finish(&self) {
        if let Output::Bar(bar) = &self.state().output {
            bar.abandon();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn time_left(&self, step: usize) -> Duration {
        let done = step.saturating_sub(self.behind).max(1);
        let left = self.total.saturating_sub(step);
        Duration::from_secs_f64((self.started.elapsed().as_secs_f64() / done as f64 * left as f64).round())
    }
}

/// A log that cannot be written is no reason to stop a run.
fn print(writer: &mut impl Write, line: &str) {
    let _ = writeln!(writer, "{line}").and_then(|()| writer.flush());
}

impl MetricsRendererTraining for Progress {
    fn update_train(&mut self, _state: MetricState) {}

    fn update_valid(&mut self, _state: MetricState) {}

    /// Burn's own summary would go to stdout.
    fn on_train_end(&mut self, _summary: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        self.finish();
        Ok(())
    }
}

impl MetricsRendererEvaluation for Progress {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}

    fn on_test_end(&mut self, _summary: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        Ok(())
    }
}

impl TrainingProgressLogger for Progress {
    fn start(&mut self, _epochs: usize, _starting_epoch: usize, _items: Option<usize>, _label: Option<&str>) {}

    fn update_epoch(&mut self, _epoch: usize) {}

    fn start_split(&mut self, _split: &str, _items: usize) {}

    fn update_split(&mut self, _items: usize) {}

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl EvaluationProgressLogger for Progress {
    fn start_global_progress(&mut self, _tests: usize) {}

    fn start_test(&mut self, _name: &str, _items: usize) {}

    fn update_test_progress(&mut self, _items: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRenderer for Progress {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _definition: MetricDefinition) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines of a run that goes from `done` to `total`.
    fn lines(total: usize, done: usize) -> Vec<String> {
        let log = Log::default();
        let progress = Progress::to_writer(total, done, Box::new(log.clone()));
        for step in done + 1..=total {
            progress.update(&StepReport { step, loss: 2.0, tokens_per_second: 123.4, ..StepReport::default() });
        }
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn a_log_gets_about_twenty_lines_and_the_last_step() {
        assert_eq!(lines(7, 0).len(), 7);
        let long = lines(1003, 0);
        assert!((15..=21).contains(&long.len()), "{} lines", long.len());
        let last = long.last().unwrap();
        assert!(last.starts_with("step 1003/1003 · loss 2.0000 · 123 tokens/s · "), "{last}");
        assert!(last.ends_with("00:00:00 left"), "{last}");
        assert_eq!(lines(1000, 950).len(), 1, "steps of an earlier run are not told again");
    }

    #[test]
    fn the_time_left_counts_this_runs_steps_only() {
        let state = State {
            output: Output::Lines(Box::new(Log::default())),
            started: Instant::now() - Duration::from_secs(10),
            behind: 90,
            total: 100,
        };
        assert_eq!(state.time_left(95), Duration::from_secs(10), "5 steps took 10 s, 5 are left");
    }

    #[test]
    fn the_bar_can_be_styled() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }

    #[test]
    fn evaluations_are_told_and_burns_notices_are_not() {
        let log = Log::default();
        let mut renderer = Progress::to_writer(10, 0, Box::new(log.clone()));
        renderer.evaluated(&EvalReport { step: 5, loss: 1.0, perplexity: 2.7, tokens: 3, ..EvalReport::default() });
        TrainingProgressLogger::start(&mut renderer, 3, 1, None, None);
        renderer.update_split(4);
        renderer.on_train_end(None).unwrap();
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "step 5 · validation loss 1.0000 · perplexity 2.70\n");
    }
}
