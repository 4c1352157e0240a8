//! AdaLoRA as a plain Burn user drives it: the example program, over its own model and not Llama.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::train::InferenceStep;
use peft_burn::adalora::{BudgetSchedule, kept_ranks, rank_pattern};
use peft_burn::{AdapterFiles, PeftConfig, PeftModel};
use peft_burn_workspace::{assert_close, device, tensors};

#[path = "../../examples/adalora_own_model.rs"]
mod program;

/// A metric's value after each batch, from Burn's own files.
fn numbers(folder: &Path, epochs: usize, metric: &str) -> Vec<usize> {
    let file = |epoch| folder.join(format!("train/epoch-{epoch}/{metric}.log"));
    let text: String = (1..=epochs).map(|epoch| std::fs::read_to_string(file(epoch)).unwrap()).collect();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn adalora_prunes_a_model_of_ones_own_in_burns_training_loop() {
    let dir = tempfile::tempdir().unwrap();
    let (base, net) = program::run(10, dir.path(), &device()).unwrap();
    let unseen = program::points(9, 1000, 0.8);
    let budgets_of_run = numbers(dir.path(), 10, "Rank_Budget");
    let live = numbers(dir.path(), 10, "Live_Triplets");
    let net = net.into_model().unwrap();
    let (before, after) = (program::accuracy(&base, &unseen), program::accuracy(&net, &unseen));
    assert!(after > before + 0.1 && after > 0.85, "{before} before, {after} after");

    let PeftConfig::AdaLora(config) = net.adapter_config("turned").unwrap() else { panic!("AdaLoRA") };
    let (schedule, steps) = (BudgetSchedule::new(config, 18, 3).unwrap(), config.total_step.unwrap());
    let budgets: Vec<_> = (1..=steps).map(|step| schedule.budget(step)).collect();
    assert_eq!(budgets_of_run, budgets, "one call a step");
    assert!(live[steps - config.tfinal - 1..].iter().all(|live| *live == 6), "2 a module in the end");
    let ranks = kept_ranks(&net, "turned").unwrap();
    assert_eq!(ranks.iter().map(|kept| kept.rank).sum::<usize>(), 6);

    net.save_adapter("turned", dir.path()).unwrap();
    let saved = tensors(&dir.path().join("adapter_model.safetensors"));
    for kept in &ranks {
        assert_eq!(saved[&format!("base_model.model.{}.lora_E", kept.path)].shape()[..], [kept.rank, 1]);
    }
    let mut again = base.valid();
    again.load_adapter(dir.path(), "turned", false).unwrap();
    assert_eq!(rank_pattern(&again, "turned").unwrap(), rank_pattern(&net, "turned").unwrap());
    let outputs = |net: &program::Net| {
        let x = Tensor::<2>::from_floats([[0.3, -0.2], [-1.0, 0.4], [0.1, 0.9]], &device());
        InferenceStep::step(net, (x, Tensor::from_ints([0, 1, 0], &device()))).output.into_data()
    };
    assert_close("loaded", &outputs(&again), &outputs(&net), 1e-6);
}
