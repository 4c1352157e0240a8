//! Training a model on a stream, through Burn's `SupervisedTraining`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::{CustomLearningStrategy, Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use llama_burn::Llama;
use peft_burn::PeftModel;
use peft_burn::adalora::kept_ranks;

use crate::adalora::plan;
use crate::checkpoint::Checkpoints;
use crate::config::TrainingConfig;
use crate::data::{Batch, Example, Stream, eval_batches};
use crate::error::{LearnerError, Result};
use crate::loader::{EvalLoader, StepLoader};
use crate::loraplus::learning_rates;
use crate::memory::keep_freed_memory;
use crate::metrics::{Metrics, MetricsWriter, read_metrics, truncate_after};
use crate::plot::{loss_panel, triplets_panel, write_plot};
use crate::progress::Progress;
use crate::rank_plot::write_rank_plot;
use crate::replicas::{Replicas, check, strategy};
use crate::schedule::Schedule;
use crate::step::{CausalLm, Evaluation, Numbers, Run, RunState};

/// How a model is trained.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// The run's folder: `metrics.jsonl`, `loss.svg`, `checkpoints` and AdaLoRA's `ranks.svg` go there.
    pub output: PathBuf,
    /// Optimiser, schedule and intervals.
    pub training: TrainingConfig,
    /// Optimiser steps of the whole run.
    pub total_steps: usize,
    /// Seeds dropout.
    pub seed: u64,
    /// The adapter that is trained and saved; `None` when the base itself is.
    pub adapter: Option<String>,
    /// Go on from the newest checkpoint in `output`, if there is one.
    pub resume: bool,
    /// Burn's dashboard where stdout is a terminal and the device a single one.
    pub dashboard: bool,
    /// Devices that each train on a part of every step's rows; none or one: where the model is. The stream's steps then
    /// have `gradient_accumulation_steps` micro-batches for each of them.
    pub devices: Vec<Device>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct FitReport {
    /// Optimiser steps of the whole run.
    pub steps: usize,
    /// The step that this call began after; above 0 when resumed.
    pub resumed_from: usize,
    /// Everything in `metrics.jsonl`.
    pub metrics: Vec<Metrics>,
    /// AdaLoRA: the picture of the rank that each module kept.
    pub ranks: Option<PathBuf>,
    /// Wall-clock time of this call, in seconds.
    pub seconds: f64,
}

/// Trains `model` on `stream`, evaluating on `valid`, and returns it in validation mode.
///
/// # Errors
/// AdaLoRA's phases that do not fit the run, and devices that cannot train together, before anything is written; a file
/// that cannot be written, or a loss that is not finite: the last checkpoint is kept then, and named.
pub fn fit(
    model: Llama,
    stream: Stream,
    valid: &[Example],
    pad_id: u32,
    options: &FitOptions,
) -> Result<(Llama, FitReport)> {
    check(&options.devices)?;
    launch(model, stream, valid, pad_id, options, strategy(&options.devices))
}

/// As [`fit`], through a strategy other than Burn's own. It drives one replica for each of `options.devices`, each on a
/// thread of its own as Burn's distributed strategy does, and hands every one the sum of all their gradients.
///
/// # Errors
/// As [`fit`].
pub fn fit_with(
    model: Llama,
    stream: Stream,
    valid: &[Example],
    pad_id: u32,
    options: &FitOptions,
    strategy: CustomLearningStrategy<CausalLm>,
) -> Result<(Llama, FitReport)> {
    launch(model, stream, valid, pad_id, options, Some(TrainingStrategy::Custom(strategy)))
}

fn launch(
    mut model: Llama,
    stream: Stream,
    valid: &[Example],
    pad_id: u32,
    options: &FitOptions,
    strategy: Option<TrainingStrategy<CausalLm>>,
) -> Result<(Llama, FitReport)> {
    let training = &options.training;
    let replicas = Replicas::new(options.devices.len().max(1));
    if replicas.count > 1 && training.gradient_checkpointing {
        return Err(LearnerError::CheckpointedReplicas);
    }
    keep_freed_memory();
    let total_steps = options.total_steps;
    let started = Instant::now();
    let pruning = plan(&mut model, options.adapter.as_deref(), total_steps, training.shrink_after_pruning)?;
    std::fs::create_dir_all(&options.output).map_err(LearnerError::io("create", &options.output))?;
    let metrics_path = options.output.join("metrics.jsonl");
    let checkpoints =
        Checkpoints::new(options.output.join("checkpoints"), training.save_total_limit).of_devices(replicas.count);
    checkpoints.clear_unfinished();
    let batches: Vec<Batch> = eval_batches(valid, training.per_device_train_batch_size, pad_id).collect();
    let interrupter = Interrupter::new();
    let schedule = Schedule::new(training, total_steps);
    // The dashboard stops a run between any two replicas: the others would wait for ever.
    let dashboard = options.dashboard && replicas.count == 1 && std::io::stdout().is_terminal();
    let progress = |done: usize| match dashboard {
        // Burn's dashboard takes the whole terminal.
        true => Progress::to_writer(total_steps, done, Box::new(std::io::sink())),
        false => Progress::new(total_steps, done),
    };
    let run = Run::new(RunState {
        step: 0,
        total_steps,
        seed: options.seed,
        schedule,
        learning_rate: training.learning_rate,
        max_grad_norm: training.max_grad_norm,
        dropout: match &options.adapter {
            Some(name) => model.adapter_config(name)?.dropout() > 0.0,
            None => false,
        },
        save_steps: training.save_steps,
        metrics: MetricsWriter::append(&metrics_path)?,
        progress: progress(0),
        checkpoints: checkpoints.clone(),
        interrupter: interrupter.clone(),
        replicas: replicas.clone(),
        loss: BTreeMap::new(),
        orthogonal: BTreeMap::new(),
        numbers: Numbers::default(),
        mask: None,
        tokens: 0,
        started,
        evaluation: Evaluation { batches: batches.len(), ..Evaluation::default() },
        error: None,
        adapter: options.adapter.clone(),
        pruning: pruning.clone(),
    });
    let mut lm = CausalLm { model: model.train(), run: run.clone() };
    let mut optim = AdamWConfig::new()
        .with_beta_1(training.adam_beta1 as f32)
        .with_beta_2(training.adam_beta2 as f32)
        .with_epsilon(training.adam_epsilon as f32)
        .with_weight_decay(training.weight_decay as f32)
        .init();
    let mut done = 0;
    if options.resume
        && let Some((restored, optimizer, state)) =
            checkpoints.restore(lm.clone(), optim.clone(), options.adapter.as_deref())?
    {
        (lm, optim, done) = (restored.train(), optimizer, state.global_step.min(total_steps));
    }
    truncate_after(&metrics_path, done)?;
    {
        let mut state = run.state();
        (state.step, state.metrics, state.progress) = (done, MetricsWriter::append(&metrics_path)?, progress(done));
    }
    let loader = StepLoader {
        stream: Arc::new(stream),
        run: run.clone(),
        total_steps,
        eval_steps: if training.eval_steps == 0 { total_steps.max(1) } else { training.eval_steps },
        accumulation: training.gradient_accumulation_steps,
        replica: 0,
        replicas: replicas.count,
    };
    let epochs = loader.epochs(done);
    let mut trained = lm.model.clone();
    if epochs > 0 {
        let scheduler = learning_rates(training, &lm.model, options.adapter.as_deref(), schedule, done)?;
        let progress = run.state().progress.clone();
        let mut supervised = SupervisedTraining::<CausalLm>::new(
            &options.output,
            Arc::new(loader),
            Arc::new(EvalLoader(Arc::new(batches))),
        )
        .num_epochs(epochs)
        .grads_accumulation(training.gradient_accumulation_steps)
        .with_interrupter(interrupter)
        .with_application_logger(None)
        .with_metric_logger(InMemoryMetricLogger::default());
        supervised = match dashboard {
            // Burn's metric reads the loss of every micro-batch from the device, which nothing else needs.
            true => supervised.metrics((LossMetric::new(),)),
            false => supervised.renderer(Box::new(progress.clone())),
        };
        if let Some(strategy) = strategy {
            supervised = supervised.with_training_strategy(strategy);
        }
        let result = supervised.launch(Learner::new(lm, optim, scheduler));
        progress.finish();
        let mut state = run.state();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if let Some(error) = result.error {
            return Err(LearnerError::Training(error.to_string()));
        }
        if state.step < total_steps {
            return Err(LearnerError::Interrupted { step: state.step, checkpoint: checkpoints.latest() });
        }
        trained = result.model.model;
    }
    let metrics = read_metrics(&metrics_path)?;
    plot(&options.output, &metrics)?;
    let trained = trained.valid();
    let ranks = match pruning.and(options.adapter.as_deref()) {
        Some(name) => {
            let path = options.output.join("ranks.svg");
            write_rank_plot(&path, &kept_ranks(&trained, name)?)?;
            Some(path)
        }
        None => None,
    };
    let seconds = started.elapsed().as_secs_f64();
    Ok((trained, FitReport { steps: total_steps, resumed_from: done, metrics, ranks, seconds }))
}

/// Draws `loss.svg` from the metrics: the losses, and AdaLoRA's triplets.
fn plot(output: &Path, metrics: &[Metrics]) -> Result<()> {
    let triplets = triplets_panel(metrics);
    let panels: Vec<_> = std::iter::once(loss_panel(metrics)).chain(triplets).collect();
    write_plot(output.join("loss.svg"), "Loss", &panels)
}
