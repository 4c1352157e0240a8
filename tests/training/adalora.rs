//! AdaLoRA in a run: phases, budget, the regulariser, resuming in every phase, the cut after the last mask.

use std::path::Path;

use burn::module::Module;
use burn::optim::{AdafactorConfig, AdamWConfig, GradientsParams};
use llama_burn::Llama;
use peft_burn::adalora::{
    BudgetSchedule, keep_gradients, kept_ranks, live_triplets, orthogonal_regularization, shrink, update_and_allocate,
};
use peft_burn::{AdaLoraConfig, AdapterFiles, PeftConfig, PeftModel, TargetModules};
use peft_burn_workspace::{Inputs, assert_close, base, tensors};
use peft_learner::config::LrSchedulerType;
use peft_learner::evaluate::evaluate;
use peft_learner::report::{EvalReport, Metrics, StepReport};
use peft_learner::train::{Report, batch_loss, clip};
use peft_learner::{AdaLoraError, LearnerError};
use rstest::rstest;

use super::{Options, bytes_of, examples, finetune, options, stream};

const NAME: &str = "default";
const STEPS: usize = 12;
/// Two layers of three projections.
const MODULES: usize = 6;

/// Full rank in steps 1 to 3, pruning until step 8, then final ranks.
fn config() -> AdaLoraConfig {
    AdaLoraConfig {
        init_r: 3,
        target_r: 1,
        tinit: 3,
        tfinal: 4,
        delta_t: 2,
        target_modules: TargetModules::list(["q_proj", "v_proj", "down_proj"]),
        ..AdaLoraConfig::default()
    }
}

fn adapted(config: AdaLoraConfig) -> Llama {
    let mut model = base("base");
    model.add_adapter(NAME, &config.into(), 7).unwrap();
    model
}

fn run(config: AdaLoraConfig, options: &Options) -> (Llama, Report) {
    finetune(adapted(config), stream(2, 2, false), options).run(&options.output).unwrap()
}

fn steps(report: &Report) -> Vec<StepReport> {
    let train = |m: &Metrics| if let Metrics::Train(r) = m { Some(r.clone()) } else { None };
    report.metrics.iter().filter_map(train).map(|r| StepReport { tokens_per_second: 0.0, ..r }).collect()
}

fn evaluations(report: &Report) -> Vec<EvalReport> {
    report.metrics.iter().filter_map(|m| if let Metrics::Valid(r) = m { Some(r.clone()) } else { None }).collect()
}

fn logits(model: &Llama) -> burn::tensor::TensorData {
    model.forward(&Inputs::load().input()).into_data()
}

/// The saved adapter of a checkpoint.
fn saved(options: &Options, step: usize) -> Vec<u8> {
    std::fs::read(options.output.join(format!("checkpoints/step-{step}/adapter/adapter_model.safetensors"))).unwrap()
}

#[test]
fn budget_triplets_and_both_parts_of_the_loss_are_reported_and_evaluation_has_no_regulariser() {
    let dir = tempfile::tempdir().unwrap();
    let (model, report) = run(config(), &options(dir.path(), STEPS));
    let PeftConfig::AdaLora(filled) = model.adapter_config(NAME).unwrap() else { panic!("AdaLoRA") };
    assert_eq!(filled.total_step, Some(STEPS), "taken from the run");
    let schedule = BudgetSchedule::new(filled, 3 * MODULES, MODULES).unwrap();
    for step in steps(&report) {
        let (task, orthogonal) = (step.task_loss.unwrap(), step.orthogonal_loss.unwrap());
        assert!(orthogonal > 0.0 && (step.loss - task - orthogonal).abs() < 1e-9, "{step:?}");
        assert_eq!(step.budget, Some(schedule.budget(step.step)));
        assert!(step.step < 8 || step.live_triplets == Some(MODULES), "{step:?}");
    }
    assert_eq!(steps(&report)[1].live_triplets, Some(3 * MODULES), "all live once the learning rate is not 0");
    // Between two masks pruned triplets come back to life: what counts is E after the step.
    assert!(steps(&report).iter().any(|step| step.live_triplets > step.budget), "{:?}", steps(&report));
    let last = evaluations(&report).pop().unwrap();
    assert_eq!(last.step, STEPS);
    assert!((last.loss - evaluate(&model, examples(), 4, 0, |_| {}).unwrap().loss).abs() < 1e-6);

    let picture = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    for text in ["triplets", "budget", "live"] {
        assert!(picture("loss.svg").lines().any(|line| line.trim() == text), "no `{text}` in loss.svg");
    }
    assert_eq!(report.ranks.as_deref(), Some(dir.path().join("ranks.svg").as_path()));
    assert!(picture("ranks.svg").contains("Rank that each module kept: 6 of 18 triplets"));
}

/// The same run by hand, with one gradient over both micro-batches.
#[test]
fn accumulated_steps_are_one_step_with_one_allocation() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), STEPS);
    (options.training.lr_scheduler_type, options.training.warmup_steps) = (LrSchedulerType::Constant, 0);
    let (trained, report) = run(config(), &options);
    let training = &options.training;
    let mut optim = AdamWConfig::new()
        .with_epsilon(training.adam_epsilon as f32)
        .with_weight_decay(training.weight_decay as f32)
        .init();
    let stream = stream(2, 2, false);
    let mut model = adapted(AdaLoraConfig { total_step: Some(STEPS), ..config() }).train();
    for (at, reported) in steps(&report).iter().enumerate() {
        let orthogonal = orthogonal_regularization(&model, NAME).unwrap();
        let batches = stream.step(at).unwrap();
        assert_eq!(batches.len(), 2);
        let task = batches.iter().map(|batch| batch_loss(&model, batch)).reduce(|a, b| a + b).unwrap();
        let values = [task.clone(), orthogonal.clone()].map(|t| t.into_scalar::<f64>());
        let grads = GradientsParams::from_grads((task + orthogonal).backward(), &model);
        let (grads, _) = clip(&model, grads, training.max_grad_norm);
        let kept = keep_gradients(&model, NAME, &grads).unwrap();
        model = optim.step(training.learning_rate, model, grads);
        let allocation = update_and_allocate(&mut model, NAME, &kept, at + 1).unwrap();
        assert_eq!(reported.budget, Some(allocation.budget));
        let live = live_triplets(&model, NAME).unwrap().into_scalar::<f64>();
        assert_eq!(reported.live_triplets, Some(live as usize), "non-zero entries of E after step {}", at + 1);
        assert!((reported.task_loss.unwrap() - values[0]).abs() < 1e-4, "task loss of step {}", at + 1);
        assert!((reported.orthogonal_loss.unwrap() - values[1]).abs() < 1e-4, "term of step {}", at + 1);
    }
    assert_eq!(kept_ranks(&trained, NAME).unwrap(), kept_ranks(&model, NAME).unwrap());
    assert_close("logits", &logits(&trained), &logits(&model.valid()), 1e-3);
}

/// In the warm-up, at its end, in the pruning phase between two masks and at one, at the last mask, and after it.
#[rstest]
fn a_run_resumed_in_any_phase_continues_bit_for_bit(
    #[values(2, 3, 5, 6, 8, 10)] stop: usize,
    #[values(false, true)] shrink: bool,
) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), STEPS);
    (options.training.save_steps, options.training.save_total_limit) = (stop, 0);
    options.training.shrink_after_pruning = shrink;
    let (straight, straight_report) = run(config(), &options);
    let last = saved(&options, STEPS);
    for entry in std::fs::read_dir(dir.path().join("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with(format!("step-{stop}")) {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    let (resumed, report) = run(config(), &Options { resume: true, ..options.clone() });
    assert_eq!(report.resumed_from, stop);
    assert_eq!(steps(&report), steps(&straight_report));
    assert_eq!(evaluations(&report), evaluations(&straight_report));
    assert!(bytes_of(&resumed) == bytes_of(&straight));
    assert!(saved(&options, STEPS) == last);
    assert_eq!(resumed.trainable_parameters(), straight.trainable_parameters());
}

#[test]
fn the_saved_adapter_holds_the_kept_triplets_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = run(config(), &options(dir.path(), STEPS));
    let ranks = kept_ranks(&model, NAME).unwrap();
    assert_eq!(ranks.iter().map(|kept| kept.rank).sum::<usize>(), MODULES);
    assert!(ranks.iter().any(|kept| kept.rank == 0), "a module of rank 0 belongs to this test: {ranks:?}");
    model.save_adapter(NAME, dir.path()).unwrap();
    let tensors = tensors(&dir.path().join("adapter_model.safetensors"));
    for kept in &ranks {
        let shape = |suffix: &str| tensors[&format!("base_model.model.{}.{suffix}", kept.path)].shape().to_vec();
        assert_eq!(
            (shape("lora_A")[0], shape("lora_E"), shape("lora_B")[1]),
            (kept.rank, vec![kept.rank, 1], kept.rank)
        );
    }
    let mut loaded = base("base");
    assert!(loaded.load_adapter(dir.path(), NAME, false).unwrap().is_empty());
    assert_close("loaded", &logits(&loaded), &logits(&model), 1e-6);
}

/// The last step is that of the last mask.
#[test]
fn a_model_right_after_the_cut_is_the_masked_one_with_fewer_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let config = AdaLoraConfig { tfinal: 0, ..config() };
    let trained = |shrink: bool| {
        let mut options = options(&dir.path().join(shrink.to_string()), 8);
        options.training.shrink_after_pruning = shrink;
        run(config.clone(), &options)
    };
    let ((masked, masked_report), (cut, cut_report)) = (trained(false), trained(true));
    assert_eq!(steps(&masked_report), steps(&cut_report), "until then nothing differs");
    assert_close("logits", &logits(&cut), &logits(&masked), 1e-6);
    assert!(bytes_of(&masked) == bytes_of(&cut));
    let count = |model: &Llama| model.trainable_parameters().trainable;
    let numbers = |model: &Llama| tensors_of(model).values().map(|data| data.num_elements()).sum::<usize>();
    assert_eq!(count(&masked), count(&adapted(config.clone())), "masking frees nothing");
    assert_eq!(count(&cut), numbers(&cut), "what is in memory is what is saved");
    assert!(count(&cut) < count(&masked) / 2);
}

fn tensors_of(model: &Llama) -> std::collections::BTreeMap<String, burn::tensor::TensorData> {
    model.adapter_contents(NAME).unwrap().1
}

/// Without the orthogonality term and without clipping, pruned rows have no influence on kept ones: the steps after the
/// cut must be those of the masked run, which they are only with the moments of the kept rows in their places.
#[test]
fn the_optimiser_goes_on_with_the_moments_of_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let config = AdaLoraConfig { orth_reg_weight: 0.0, ..config() };
    let trained = |shrink: bool| {
        let mut options = options(&dir.path().join(shrink.to_string()), STEPS);
        (options.training.shrink_after_pruning, options.training.max_grad_norm) = (shrink, 0.0);
        run(config.clone(), &options).0
    };
    let (masked, cut) = (tensors_of(&trained(false)), tensors_of(&trained(true)));
    assert_eq!(masked.keys().collect::<Vec<_>>(), cut.keys().collect::<Vec<_>>());
    for (key, data) in masked.iter().filter(|(_, data)| data.num_elements() > 0) {
        assert_close(key, &cut[key], data, 1e-4);
    }
}

/// The article's own snippet: tinit 200, tfinal 1000 and no total_step.
#[test]
fn phases_that_do_not_fit_are_laid_out_before_anything_changes() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("run");
    let attempt = |config: AdaLoraConfig| {
        finetune(adapted(config), stream(2, 2, false), &options(&output, 300)).run(&output).unwrap_err()
    };
    let article = AdaLoraConfig { init_r: 24, target_r: 8, tinit: 200, tfinal: 1000, delta_t: 10, ..config() };
    let error = attempt(article);
    assert!(matches!(error, LearnerError::AdaLora(AdaLoraError::Phases { steps: 300, .. })), "{error}");
    for part in [
        "this run of 300 steps",
        "training.max_steps",
        "full rank    steps 1 to 200",
        "pruning      from step 201",
        "final ranks  the 1000 steps",
        "raise total_step to 1201",
        "lower tinit + tfinal below 300, for example to tinit = 30 and tfinal = 90",
    ] {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
    let error = attempt(AdaLoraConfig { total_step: Some(1000), ..config() }).to_string();
    assert!(error.contains("total_step is 1000 and the run has 300 steps"), "{error}");
    assert!(!output.exists());
}

#[test]
fn only_what_is_pruned_can_be_cut() {
    let mut options = options(Path::new("nowhere"), 4);
    options.training.shrink_after_pruning = true;
    let error = finetune(super::adapted(0.0), stream(2, 2, false), &options).run("nowhere").unwrap_err();
    assert!(matches!(error, LearnerError::AdaLora(AdaLoraError::NothingToShrink)), "{error}");
    assert!(!Path::new("nowhere").exists());
}

/// Adafactor keeps a number for each row and each column, not for each entry.
#[test]
fn an_optimiser_whose_state_cannot_be_cut_is_refused_and_nothing_changes() {
    let config = AdaLoraConfig { tinit: 0, tfinal: 0, delta_t: 5, total_step: Some(3), ..config() };
    let (mut model, mut optim) = (adapted(config).train(), AdafactorConfig::new().init());
    for step in 1..=3 {
        let loss = batch_loss(&model, &stream(4, 1, false).step(step).unwrap()[0]);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let kept = keep_gradients(&model, NAME, &grads).unwrap();
        model = optim.step(1e-2, model, grads);
        update_and_allocate(&mut model, NAME, &kept, step).unwrap();
    }
    assert_eq!(kept_ranks(&model, NAME).unwrap().iter().map(|kept| kept.rank).sum::<usize>(), MODULES);
    let before = model.trainable_parameters();
    let error = shrink(&mut model, NAME, &mut optim).unwrap_err().to_string();
    assert!(error.contains("use AdamW"), "{error}");
    assert_eq!(model.trainable_parameters(), before);
}
