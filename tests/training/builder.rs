//! The builder: what a program is told, how it ends a run, what is refused before anything is written.

use std::sync::{Arc, Mutex};

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::{Interrupter, Learner, SupervisedTraining};
use llama_burn::Llama;
use peft_burn::adalora::kept_ranks;
use peft_burn::{AdaLoraConfig, PeftModel, TargetModules};
use peft_burn_workspace::base;
use peft_learner::data::{Batch, Example};
use peft_learner::evaluate::evaluate;
use peft_learner::report::{Metrics, Progress, StepReportMetric, read_metrics};
use peft_learner::train::{CausalLm, Existing, Finetune, Flow, StepOptions};
use peft_learner::{LearnerError, ResumeError};

use super::{Options, adapted, bytes_of, examples, finetune, losses, options, stream};

/// The notes of several callbacks.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn ready(options: &Options) -> Finetune<Llama> {
    finetune(adapted(0.0), stream(2, 2, false), options)
}

#[test]
fn a_program_is_told_of_steps_evaluations_and_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default();
    let [steps, evaluations, checkpoints] = [log.clone(), log.clone(), log.clone()];
    let (_, report) = ready(&options(dir.path(), 4))
        .metric("weight", |model: &Llama| model.trainable_parameters().trainable as f64)
        .on_step(move |step| steps.add(format!("step {}", step.step)))
        .on_evaluation(move |evaluated| {
            assert_eq!(evaluated.report.loss, evaluate(evaluated.model, examples(), 4, 0, |_| {}).unwrap().loss);
            evaluations.add(format!("evaluation {} {}", evaluated.report.step, evaluated.worse()));
        })
        .on_checkpoint(move |saved| {
            assert!(saved.path.join("trainer_state.json").exists());
            checkpoints.add(format!("checkpoint {}", saved.step));
        })
        .run(dir.path())
        .unwrap();
    let told = [
        "step 1",
        "step 2",
        "checkpoint 2",
        "step 3",
        "evaluation 3 false",
        "step 4",
        "checkpoint 4",
        "evaluation 4 false",
    ];
    assert_eq!(log.lines(), told);
    let own: Vec<_> = (report.metrics.iter())
        .filter_map(|line| if let Metrics::Valid(report) = line { report.own.get("weight").copied() } else { None })
        .collect();
    assert_eq!(own, [report.parameters.trainable as f64; 2]);
    assert_eq!(read_metrics(dir.path().join("metrics.jsonl")).unwrap(), report.metrics);
}

#[test]
fn an_evaluation_can_end_the_run_which_can_still_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (straight, straight_report) = ready(&options(dir.path(), 9)).run(dir.path().join("whole")).unwrap();
    let halves = dir.path().join("halves");
    let once = options(&halves, 9);
    let (model, report) = ready(&once).on_evaluation(|_| Flow::Stop).run(&halves).unwrap();
    assert!(report.stopped_early);
    assert_eq!((report.steps, report.metrics.len()), (3, 4), "three steps and an evaluation");
    assert!(halves.join("checkpoints/step-3").exists(), "also where no checkpoint was due");
    assert!(bytes_of(&model) == std::fs::read(halves.join("adapter/adapter_model.safetensors")).unwrap());
    let (resumed, report) = ready(&Options { resume: true, ..once }).run(&halves).unwrap();
    assert_eq!((report.resumed_from, report.stopped_early), (3, false));
    assert_eq!(losses(&report), losses(&straight_report));
    assert!(bytes_of(&resumed) == bytes_of(&straight));
}

#[test]
fn a_run_that_is_asked_to_end_finishes_its_step_and_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let (straight, straight_report) = ready(&options(dir.path(), 9)).run(dir.path().join("whole")).unwrap();
    let halves = dir.path().join("halves");
    let once = options(&halves, 9);
    let run = ready(&once);
    let handle = run.stop_handle();
    let error = run
        .on_step(move |step| {
            if step.step == 5 {
                handle.stop()
            }
        })
        .run(&halves)
        .unwrap_err();
    let LearnerError::Interrupted { step: 5, checkpoint: Some(path), signal: None } = &error else { panic!("{error}") };
    assert!(path.ends_with("step-5"));
    let (resumed, report) = ready(&Options { resume: true, ..once }).run(&halves).unwrap();
    assert_eq!(report.resumed_from, 5);
    assert_eq!(losses(&report), losses(&straight_report));
    assert!(bytes_of(&resumed) == bytes_of(&straight));
}

/// As a run leaves it that was killed in the evaluation after step 6, and in the last one.
#[test]
fn an_evaluation_that_was_cut_off_is_made_when_the_run_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), 9);
    (options.training.save_steps, options.training.save_total_limit) = (3, 0);
    let (straight, straight_report) = ready(&options).run(dir.path()).unwrap();
    let metrics = dir.path().join("metrics.jsonl");
    let whole = std::fs::read_to_string(&metrics).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    options.resume = true;
    for step in [6, 9] {
        // `step` steps, and the evaluations before.
        let kept = lines[..step + step / 3 - 1].join("\n") + "\n";
        std::fs::write(&metrics, kept).unwrap();
        for later in (step + 1)..=9 {
            let _ = std::fs::remove_dir_all(dir.path().join(format!("checkpoints/step-{later}")));
        }
        let (resumed, report) = ready(&options).run(dir.path()).unwrap();
        assert_eq!(report.resumed_from, step);
        assert_eq!(losses(&report), losses(&straight_report), "cut off at {step}");
        assert!(bytes_of(&resumed) == bytes_of(&straight));
    }
}

#[test]
fn options_that_contradict_each_other_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("run");
    let refused = |run: Finetune<Llama>, parts: &[&str]| {
        let error = run.run(&output).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{part} is not in: {error}"));
        assert!(!output.exists(), "{error}");
    };
    let plain = options(&output, 4);
    refused(finetune(adapted(0.0), stream(2, 4, false), &plain), &["4 micro-batches", "adds up 2"]);
    let mut checkpointed = plain.clone();
    checkpointed.training.gradient_checkpointing = true;
    refused(finetune(adapted(0.1), stream(2, 2, false), &checkpointed), &["gradient_checkpointing", "dropout", "0.1"]);
    refused(ready(&plain).metric("loss", |_| 0.0), &["`loss` has the name of another"]);
    refused(ready(&plain).valid([]).on_evaluation(|_| Flow::Stop), &["no validation rows"]);
    let mut wrong = plain.clone();
    (wrong.training.learning_rate, wrong.training.adam_beta1) = (-1.0, 1.5);
    refused(ready(&wrong), &["`learning_rate` is -1", "`adam_beta1` is 1.5"]);
    let mut frozen = adapted(0.0);
    frozen.set_trainable(false);
    refused(finetune(frozen, stream(2, 2, false), &plain), &["`default` is frozen"]);
    refused(Finetune::new(adapted(0.0), "other", plain.training.clone()).train(examples()), &["other"]);
    refused(Finetune::new(adapted(0.0), "default", plain.training.clone()), &["there are no examples"]);
    let step_options = StepOptions { gradient_checkpointing: true, ..StepOptions::new(4) };
    let error = CausalLm::new(adapted(0.1), "default", &step_options, Interrupter::new()).unwrap_err();
    assert!(matches!(error, LearnerError::CheckpointedDropout { .. }), "{error}");
}

#[test]
fn a_resumed_run_goes_on_with_the_same_rows_and_perhaps_for_longer() {
    let dir = tempfile::tempdir().unwrap();
    let run = |steps: usize, eval_steps: usize, rows: Vec<Example>| {
        let mut options = options(dir.path(), steps);
        (options.training.eval_steps, options.training.gradient_accumulation_steps) = (eval_steps, 1);
        let run = Finetune::new(adapted(0.0), "default", options.training.clone()).train(rows).valid(examples());
        run.existing(Existing::Resume)
    };
    run(4, 3, examples()).run(dir.path()).unwrap();
    let before = std::fs::read(dir.path().join("metrics.jsonl")).unwrap();
    let mut other = examples();
    other[3].labels[5] = -100;
    let error = run(6, 3, other).run(dir.path()).unwrap_err();
    assert!(
        matches!(&error, LearnerError::Resume(ResumeError::ContentsChanged { changed }) if *changed == ["data"]),
        "{error}"
    );
    let error = run(3, 3, examples()).run(dir.path()).unwrap_err();
    assert!(matches!(error, LearnerError::Resume(ResumeError::BeyondTheEnd { done: 4, total_steps: 3 })), "{error}");
    assert!(std::fs::read(dir.path().join("metrics.jsonl")).unwrap() == before, "nothing was written");
    let (_, report) = run(6, 2, examples()).run(dir.path()).unwrap();
    assert_eq!((report.resumed_from, report.steps), (4, 6));
    let said = report.changed.join("\n");
    assert!(said.contains("max_steps was 4 and is 6") && said.contains("eval_steps was 3 and is 2"), "{said}");
}

/// Rows to batches, as a program writes it.
#[derive(Clone)]
struct Collate;

impl Batcher<Example, Batch> for Collate {
    fn batch(&self, items: Vec<Example>, _device: &Device) -> Batch {
        Batch::collate(&items.iter().collect::<Vec<_>>(), 0)
    }
}

#[test]
fn a_causal_lm_goes_into_a_training_loop_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let rows = examples();
    let (steps, epochs) = (rows.len().div_ceil(2), 4);
    let config = AdaLoraConfig {
        init_r: 3,
        target_r: 1,
        tinit: 3,
        tfinal: 3,
        delta_t: 2,
        target_modules: TargetModules::list(["q_proj", "v_proj", "down_proj"]),
        ..AdaLoraConfig::default()
    };
    let mut model = base("base");
    model.add_adapter("default", &config.into(), 7).unwrap();
    let before = evaluate(&model, &rows, 2, 0, |_| {}).unwrap().loss;
    let interrupter = Interrupter::new();
    let lm = CausalLm::new(model, "default", &StepOptions::new(steps * epochs), interrupter.clone()).unwrap();
    let loader = |rows| DataLoaderBuilder::new(Collate).batch_size(2).build(InMemDataset::new(rows));
    let result = SupervisedTraining::new(dir.path(), loader(rows.clone()), loader(rows.clone()))
        .metric_train_numeric(LossMetric::new())
        .metric_train_numeric(StepReportMetric::grad_norm())
        .metric_train_numeric(StepReportMetric::live_triplets())
        .metric_valid_numeric(LossMetric::new())
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_application_logger(None)
        .renderer(Box::new(Progress::to_writer(1, 0, Box::new(std::io::sink()))))
        .with_interrupter(interrupter)
        .num_epochs(epochs)
        .launch(Learner::new(lm, AdamWConfig::new().init(), 5e-2));
    assert!(result.error.is_none() && result.model.error().is_none());
    let model = result.model.model.valid();
    let after = evaluate(&model, &rows, 2, 0, |_| {}).unwrap().loss;
    assert!(after < before - 0.05, "{before} before, {after} after");
    assert_eq!(kept_ranks(&model, "default").unwrap().iter().map(|kept| kept.rank).sum::<usize>(), 6, "pruned");
}

#[test]
fn a_model_trains_with_gradient_checkpointing_exactly_when_it_was_asked_to() {
    for (before, asked) in [(false, false), (false, true), (true, false), (true, true)] {
        let model = || {
            let mut model = adapted(0.0);
            model.set_gradient_checkpointing(before);
            model
        };
        let options = StepOptions { gradient_checkpointing: asked, ..StepOptions::new(4) };
        let lm = CausalLm::new(model(), "default", &options, Interrupter::new()).unwrap();
        assert_eq!(lm.model.gradient_checkpointing(), asked, "in one's own loop, {before} before");
        let dir = tempfile::tempdir().unwrap();
        let mut run = self::options(dir.path(), 2);
        run.training.gradient_checkpointing = asked;
        let (trained, _) = finetune(model(), stream(2, 2, false), &run).run(dir.path()).unwrap();
        assert_eq!(trained.gradient_checkpointing(), asked, "by the builder, {before} before");
    }
}

#[test]
fn a_loop_that_accumulates_another_number_than_its_batches_were_made_for_is_refused() {
    // A batch by itself is a whole step.
    for (accumulation, fits) in [(1, true), (2, false)] {
        let dir = tempfile::tempdir().unwrap();
        let interrupter = Interrupter::new();
        let model = adapted(0.0);
        let before = bytes_of(&model);
        let lm = CausalLm::new(model, "default", &StepOptions::new(4), interrupter.clone()).unwrap();
        let run = lm.clone();
        let loader = || DataLoaderBuilder::new(Collate).batch_size(2).build(InMemDataset::new(examples()));
        let result = SupervisedTraining::new(dir.path(), loader(), loader())
            .with_metric_logger(InMemoryMetricLogger::default())
            .with_application_logger(None)
            .renderer(Box::new(Progress::to_writer(1, 0, Box::new(std::io::sink()))))
            .with_interrupter(interrupter)
            .grads_accumulation(accumulation)
            .launch(Learner::new(lm, AdamWConfig::new().init(), 5e-3));
        match run.error() {
            None => assert!(fits && bytes_of(&result.model.model) != before),
            Some(error) => {
                assert!(!fits && matches!(error, LearnerError::Accumulation { .. }), "{error}");
                assert!(error.to_string().contains("accumulate as many"), "{error}");
                assert!(bytes_of(&result.model.model) == before, "no step was made");
            }
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_ends_ones_own_loop_too() {
    let mut model = adapted(0.0);
    let down = model.layers[1].mlp.down_proj.base_mut();
    down.weight.set(down.weight.val().dense().mul_scalar(f32::INFINITY));
    let dir = tempfile::tempdir().unwrap();
    let interrupter = Interrupter::new();
    let lm = CausalLm::new(model, "default", &StepOptions::new(8), interrupter.clone()).unwrap();
    let run = lm.clone();
    let loader = || DataLoaderBuilder::new(Collate).batch_size(2).build(InMemDataset::new(examples()));
    let _ = SupervisedTraining::new(dir.path(), loader(), loader())
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_application_logger(None)
        .renderer(Box::new(Progress::to_writer(1, 0, Box::new(std::io::sink()))))
        .with_interrupter(interrupter)
        .launch(Learner::new(lm, AdamWConfig::new().init(), 5e-3));
    let error = run.error().unwrap();
    assert!(matches!(error, LearnerError::NotFinite { step: 1, .. }), "{error}");
}
