//! Data parallel on the CPU: two replicas, each on a thread of its own, as Burn's distributed strategy runs them on GPUs.
//!
//! Burn has no collective for the CPU. [`Summed`] takes the place of its strategy: the same loop over the same calls of
//! `Learner`, with gradients added up on the host. Burn's mark on the parameters whose gradients its own strategy adds up
//! cannot be set on the CPU.

use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use burn::train::{
    InferenceStep, Learner, SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainLoader,
    TrainingComponents, ValidLoader,
};
use llama_burn::Llama;
use peft_burn::adalora::kept_ranks;
use peft_burn::{AdaLoraConfig, AdapterFiles, PeftConfig, PeftModel, TargetModules};
use peft_burn_workspace::{assert_close, base};
use peft_learner::data::{Stream, StreamConfig};
use peft_learner::report::Metrics;
use peft_learner::train::{CausalLm, Report};
use peft_learner::{LearnerError, ResumeError};

use super::{Options, bytes_of, examples, finetune, lora, losses, options, stream};

const NAME: &str = "default";
const STEPS: usize = 12;

fn devices() -> Vec<Device> {
    vec![Device::flex().autodiff(), Device::flex().autodiff()]
}

/// Burn's distributed loop with a sum of its own; keeps what became of each replica.
#[derive(Default)]
struct Summed(Mutex<Vec<CausalLm<Llama>>>);

impl SupervisedLearningStrategy<CausalLm<Llama>> for Summed {
    fn fit(
        &self,
        components: TrainingComponents<CausalLm<Llama>>,
        learner: Learner<CausalLm<Llama>>,
        train: TrainLoader<CausalLm<Llama>>,
        valid: ValidLoader<CausalLm<Llama>>,
        starting_epoch: usize,
    ) -> (CausalLm<Llama>, SupervisedTrainingEventProcessor<CausalLm<Llama>>) {
        let devices = devices();
        let loaders = burn::data::dataloader::split::split_dataloader(train, &devices);
        let sum = Sum { parts: Mutex::default(), barrier: Barrier::new(devices.len()) };
        let accumulation = components.grad_accumulation.unwrap_or(1);
        let (epochs, interrupter) = (components.num_epochs, &components.interrupter);
        let replica = |at: usize, mut learner: Learner<CausalLm<Llama>>| {
            learner.fork(&devices[at]);
            for _ in starting_epoch..=epochs {
                let mut accumulator = GradientsAccumulator::new();
                for (i, batch) in loaders[at].iter().enumerate() {
                    let grads = learner.train_step(batch.unwrap()).grads;
                    accumulator.accumulate(&learner.model(), sum.of_all(at, &learner.model(), grads));
                    if (i + 1) % accumulation == 0 {
                        learner.lr_step();
                        learner.optimizer_step(accumulator.grads());
                    }
                    if interrupter.should_stop() {
                        return learner.model();
                    }
                }
                if at == 0 {
                    let model = learner.model().valid();
                    valid.iter().for_each(|batch| drop(InferenceStep::step(&model, batch.unwrap())));
                }
            }
            learner.model()
        };
        let models: Vec<CausalLm<Llama>> = std::thread::scope(|scope| {
            let replica = &replica;
            let threads: Vec<_> = (0..devices.len())
                .map(|at| {
                    let learner = learner.clone();
                    scope.spawn(move || replica(at, learner))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let first = models[0].clone();
        *self.0.lock().unwrap() = models;
        (first, components.event_processor)
    }
}

/// Adds up the gradients of all replicas, in one order for each of them.
struct Sum {
    parts: Mutex<[Option<GradientsParams>; 2]>,
    barrier: Barrier,
}

impl Sum {
    fn of_all(&self, at: usize, model: &CausalLm<Llama>, grads: GradientsParams) -> GradientsParams {
        struct Add<'a>(Vec<&'a GradientsParams>, GradientsParams);
        impl ModuleVisitor for Add<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let parts = self.0.iter().filter_map(|grads| grads.get::<D>(param.id));
                if let Some(sum) = parts.reduce(|a, b| a + b) {
                    self.1.register(param.id, sum);
                }
            }
        }
        self.parts.lock().unwrap()[at] = Some(grads);
        self.barrier.wait();
        let sum = {
            let parts = self.parts.lock().unwrap();
            let mut add = Add(parts.iter().flatten().collect(), GradientsParams::new());
            assert!(add.0.iter().all(|part| part.len() == add.0[0].len()), "a gradient that one replica alone has");
            model.visit(&mut add);
            add.1
        };
        self.barrier.wait();
        sum
    }
}

fn adalora() -> PeftConfig {
    PeftConfig::AdaLora(AdaLoraConfig {
        init_r: 3,
        target_r: 1,
        tinit: 3,
        tfinal: 3,
        delta_t: 2,
        target_modules: TargetModules::list(["q_proj", "v_proj", "down_proj"]),
        ..AdaLoraConfig::default()
    })
}

fn adapted(config: &PeftConfig) -> Llama {
    let mut model = base("base");
    model.add_adapter(NAME, config, 7).unwrap();
    model
}

/// On two replicas, whose models come last.
fn together(config: &PeftConfig, options: &Options) -> (Llama, Report, Vec<Llama>) {
    let strategy = Arc::new(Summed::default());
    // Two micro-batches of two rows for each replica.
    let stream = stream(2, 4, false);
    let run = finetune(adapted(config), stream, options).devices(devices()).strategy(strategy.clone());
    let (model, report) = run.run(&options.output).unwrap();
    let replicas = strategy.0.lock().unwrap().iter().map(|replica| replica.model.valid()).collect();
    (model, report, replicas)
}

/// On one, with batches of twice the rows: the same rows a step.
fn alone(config: &PeftConfig, options: &Options) -> (Llama, Report) {
    finetune(adapted(config), stream(4, 2, false), options).run(&options.output).unwrap()
}

fn assert_same_run(config: &PeftConfig, options: impl Fn(&Path) -> Options) -> Vec<Llama> {
    let dir = tempfile::tempdir().unwrap();
    // Adam divides a gradient by its own size, also one that is all rounding: with the usual epsilon two single-device runs
    // that cut a step's rows into other micro-batches differ by 1.1e-5 themselves.
    let options = |name: &str| {
        let mut options = options(&dir.path().join(name));
        options.training.adam_epsilon = 1e-4;
        options
    };
    let (two, two_report, replicas) = together(config, &options("two"));
    let (one, one_report) = alone(config, &options("one"));
    for (a, b) in losses(&two_report).iter().zip(losses(&one_report)) {
        assert_eq!(a.0, b.0, "one line a step");
        assert!((a.1 - b.1).abs() < 1e-5 && (a.2 - b.2).abs() < 1e-4 * b.2.max(1.0), "{a:?} {b:?}");
    }
    let tokens = |report: &Report| -> Vec<usize> {
        report.metrics.iter().map(|m| if let Metrics::Train(r) = m { r.tokens } else { 0 }).collect()
    };
    assert_eq!(tokens(&two_report), tokens(&one_report));
    let (two, one) = (two.adapter_contents(NAME).unwrap().1, one.adapter_contents(NAME).unwrap().1);
    assert_eq!(two.keys().collect::<Vec<_>>(), one.keys().collect::<Vec<_>>());
    for (key, data) in one.iter().filter(|(_, data)| data.num_elements() > 0) {
        assert_close(key, &two[key], data, 1e-5);
    }
    let [a, b] = [&replicas[0], &replicas[1]].map(bytes_of);
    assert!(a == b, "the replicas are the same to the bit");
    replicas
}

#[test]
fn two_replicas_train_what_one_device_trains_with_twice_the_rows() {
    assert_same_run(&lora(0.0), |output| options(output, STEPS));
}

#[test]
fn adalora_prunes_the_same_triplets_on_every_replica() {
    for shrink in [false, true] {
        let replicas = assert_same_run(&adalora(), |output| {
            let mut options = options(output, STEPS);
            options.training.shrink_after_pruning = shrink;
            options
        });
        let kept = replicas.iter().map(|replica| kept_ranks(replica, NAME).unwrap()).collect::<Vec<_>>();
        assert_eq!(format!("{:?}", kept[0]), format!("{:?}", kept[1]));
        assert_eq!(kept[0].iter().map(|kept| kept.rank).sum::<usize>(), 6, "of 18");
    }
}

#[test]
fn a_run_on_two_replicas_is_resumed_on_two() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), STEPS);
    (options.training.save_steps, options.training.save_total_limit) = (7, 0);
    let (straight, straight_report, _) = together(&adalora(), &options);
    std::fs::remove_dir_all(dir.path().join("checkpoints/step-12")).unwrap();
    options.resume = true;
    let error = finetune(adapted(&adalora()), stream(4, 2, false), &options).run(dir.path()).unwrap_err();
    assert!(matches!(error, LearnerError::Resume(ResumeError::DevicesChanged { were: 2, are: 1 })), "{error}");
    let (resumed, report, _) = together(&adalora(), &options);
    assert_eq!(report.resumed_from, 7);
    assert_eq!(losses(&report), losses(&straight_report));
    assert!(bytes_of(&resumed) == bytes_of(&straight));
}

/// The others wait for its gradients.
#[test]
fn a_replica_whose_rows_have_no_target_takes_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut examples = examples();
    // In file order the second micro-batch of two rows is the second replica's.
    examples[2..4].iter_mut().for_each(|example| example.labels.fill(-100));
    let config = StreamConfig {
        batch_size: 2,
        accumulation: 2,
        shuffle: false,
        group_by_length: false,
        packing: false,
        max_length: 40,
        pad_id: 0,
        seed: 5,
    };
    let stream = Stream::new(Arc::new(examples), config).unwrap();
    assert_eq!(stream.step(0).unwrap()[1].num_targets(), 0);
    let mut options = options(dir.path(), 2);
    options.training.gradient_accumulation_steps = 1;
    let run = finetune(adapted(&lora(0.0)), stream, &options).valid([]).devices(devices());
    let (_, report) = run.strategy(Arc::new(Summed::default())).run(dir.path()).unwrap();
    assert_eq!(report.metrics.len(), 2);
}

#[test]
fn a_replica_that_fails_ends_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = adapted(&lora(0.0));
    for (key, mut param) in model.adapter_params_mut(NAME).unwrap() {
        if key.contains("layers.1.mlp.down_proj.lora_B") {
            param.set(burn::tensor::TensorData::new(vec![f32::INFINITY; 64 * 4], [64, 4]));
        }
    }
    let run = finetune(model, stream(2, 4, false), &options(dir.path(), 4)).devices(devices());
    let error = run.strategy(Arc::new(Summed::default())).run(dir.path()).unwrap_err();
    assert!(matches!(error, LearnerError::NotFinite { step: 1, .. }), "{error}");
}

#[test]
fn devices_that_cannot_train_together_are_refused_before_anything_is_written() {
    let output = Path::new("nowhere");
    let mut options = options(output, 4);
    let attempt = |options: &Options| finetune(adapted(&lora(0.0)), stream(2, 4, false), options).devices(devices());
    let error = attempt(&options).run(output).unwrap_err();
    assert!(matches!(error, LearnerError::NoCollective { devices: 2 }), "{error}");
    options.training.gradient_checkpointing = true;
    let error = attempt(&options).strategy(Arc::new(Summed::default())).run(output).unwrap_err();
    assert!(matches!(error, LearnerError::CheckpointedReplicas), "{error}");
    assert!(!output.exists());
}
