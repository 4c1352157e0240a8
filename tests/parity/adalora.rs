//! AdaLoRA's training: budget, scores, masks and averages at every step, the pruned file, and resuming.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::store::ModuleRecord;
use burn::tensor::TensorData;
use llama_burn::Llama;
use peft_burn::adalora::{
    Allocation, keep_gradients, live_triplets, orthogonal_regularization, rank_pattern, update_and_allocate,
};
use peft_burn::methods::{AdaLora, Method, MethodLayer};
use peft_burn::{AdaptableModel, AdapterFiles, LayerRef, PeftConfig, PeftModel};
use peft_burn_workspace::{Inputs, adapted, as_labels, assert_close, base, golden, json, loss, meta, tensors};
use rstest::rstest;

const NAME: &str = "default";

fn optimizer() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.01).with_epsilon(1e-8).init()
}

/// One optimiser step and its allocation. Also the task's loss and the orthogonality term before it.
fn step(model: Llama, optimizer: &mut ModuleOptimizer, inputs: &Inputs, step: usize) -> (Llama, Allocation, [f64; 2]) {
    let ids = &inputs.train[step - 1];
    let task = loss(&model, ids, &as_labels(ids));
    let orthogonal = orthogonal_regularization(&model, NAME).unwrap();
    let values = [task.clone().into_scalar::<f64>(), orthogonal.clone().into_scalar::<f64>()];
    let grads = GradientsParams::from_grads((task + orthogonal).backward(), &model);
    let kept = keep_gradients(&model, NAME, &grads).unwrap();
    let mut model = optimizer.step(1e-2, model, grads);
    let allocation = update_and_allocate(&mut model, NAME, &kept, step).unwrap();
    (model, allocation, values)
}

fn layers(model: &Llama) -> Vec<(String, &AdaLora)> {
    let found = model.layers().into_iter().filter_map(|(path, layer)| match layer {
        LayerRef::Linear(linear) => match linear.adapters().get(NAME)?.method.as_ref()? {
            Method::AdaLora(adalora) => Some((path, adalora)),
            _ => None,
        },
        _ => None,
    });
    found.collect()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn flags(value: &serde_json::Value) -> Vec<bool> {
    value.as_array().unwrap().iter().map(|v| v.as_bool().unwrap()).collect()
}

fn assert_near(what: &str, found: f64, expected: f64, relative: f64) {
    let allowed = relative * expected.abs();
    assert!((found - expected).abs() <= allowed, "{what} is {found:e}, PEFT's {expected:e}");
}

#[rstest]
fn thirty_steps_and_the_pruned_file(#[values("adalora", "x_adalora_default")] name: &str) {
    let inputs = Inputs::load();
    let trajectory = json(&golden(name).join("trajectory.json"));
    let snapshots = tensors(&golden(name).join("train_snapshots.safetensors"));
    let mut events = trajectory["mask_events"].as_array().unwrap().iter();
    let mut model = adapted(name, "adapter_init").train();
    let mut optimizer = optimizer();
    for expected in trajectory["steps"].as_array().unwrap() {
        let i = expected["step"].as_u64().unwrap() as usize;
        let (next, allocation, [task, orthogonal]) = step(model, &mut optimizer, &inputs, i);
        model = next;
        let number = |key: &str| expected[key].as_f64().unwrap();
        assert!((task + orthogonal - number("loss")).abs() <= 1e-3, "{name}: loss of step {i}");
        assert!((task - number("task_loss")).abs() <= 1e-3, "{name}: task loss of step {i}");
        assert!((orthogonal - number("orth_term")).abs() <= 1e-3, "{name}: orthogonality term of step {i}");
        assert_eq!(allocation.budget as u64, expected["budget"].as_u64().unwrap(), "{name}: budget of step {i}");
        assert_eq!(allocation.mask.is_some(), expected["masked_by_score"].as_bool().unwrap(), "{name}: step {i}");
        if let Some(mask) = &allocation.mask {
            let event = events.next().unwrap();
            let threshold = f64::from(mask.threshold.unwrap());
            assert_near(
                &format!("{name}: threshold of step {i}"),
                threshold,
                event["threshold"].as_f64().unwrap(),
                1e-3,
            );
            for (path, kept) in &mask.kept {
                let key = format!("{path}.lora_E");
                for (found, expected) in mask.scores[path].iter().zip(numbers(&event["scores"][&key])) {
                    assert_near(&format!("{name}: a score of {path} at step {i}"), f64::from(*found), expected, 1e-3);
                }
                assert_eq!(kept, &flags(&event["rank_pattern"][&key]), "{name}: mask of {path} at step {i}");
            }
        }
        let (mut ipt_sum, mut unc_sum, mut live) = (0.0, 0.0, 0);
        for (path, layer) in layers(&model) {
            let e = layer.lora_e.val().into_data();
            let nonzero = e.iter::<f32>().filter(|v| *v != 0.0).count();
            let expected = expected["nonzero_E"][format!("base_model.model.{path}.lora_E")].as_u64().unwrap();
            assert_eq!(nonzero as u64, expected, "{name}: live triplets of {path} after step {i}");
            live += nonzero;
            for (suffix, ipt, unc) in layer.importance().unwrap().averages() {
                let (ipt, unc) = (ipt.into_data(), unc.into_data());
                ipt_sum += ipt.iter::<f64>().sum::<f64>();
                unc_sum += unc.iter::<f64>().sum::<f64>();
                for (kind, data) in [("ipt", ipt), ("unc", unc)] {
                    if let Some(expected) = snapshots.get(&format!("{kind}.{i}.{path}.{suffix}")) {
                        assert_close(&format!("{kind} of {path}.{suffix} after step {i}"), &data, expected, 1e-3);
                    }
                }
            }
        }
        assert_near(&format!("{name}: sensitivities of step {i}"), ipt_sum, number("sum_exp_avg_ipt"), 1e-3);
        assert_near(&format!("{name}: uncertainties of step {i}"), unc_sum, number("sum_exp_avg_unc"), 1e-3);
        assert_eq!(live_triplets(&model, NAME).unwrap().into_scalar::<f64>() as usize, live);
    }
    assert!(events.next().is_none());

    let full = tensors(&golden(name).join("final_full.safetensors"));
    for (key, param) in model.adapter_params(NAME).unwrap() {
        assert_close(&format!("final {key}"), &param.to_data(), &full[&key], 1e-3);
    }
    let trained = model.valid().forward(&inputs.input()).into_data();
    let expected = tensors(&golden(name).join("final_forward.safetensors"));
    assert_close("final logits", &trained, &expected["logits"], 1e-3);

    let dir = tempfile::tempdir().unwrap();
    model.save_adapter(NAME, dir.path()).unwrap();
    let (ours, theirs) = (dir.path(), golden(name).join("adapter_final"));
    let pattern = |dir: &std::path::Path| json(&dir.join("adapter_config.json"))["rank_pattern"].clone();
    assert_eq!(pattern(ours), pattern(&theirs));
    let weights = "adapter_model.safetensors";
    let (found, expected_file) = (tensors(&ours.join(weights)), tensors(&theirs.join(weights)));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected_file.keys().collect::<Vec<_>>());
    for (key, data) in &found {
        assert_eq!(data.shape(), expected_file[key].shape(), "{key}");
    }
    let mut reloaded = base(meta(name)["base"].as_str().unwrap());
    reloaded.load_adapter(ours, NAME, false).unwrap();
    assert_close("reloaded", &reloaded.forward(&inputs.input()).into_data(), &trained, 1e-5);
    let mut from_peft = base(meta(name)["base"].as_str().unwrap());
    let warnings = from_peft.load_adapter(&theirs, NAME, false).unwrap();
    assert!(warnings.is_empty(), "rank 0 is no reason to warn: {warnings:?}");
    let logits = from_peft.forward(&inputs.input()).into_data();
    assert_close("PEFT's pruned adapter", &logits, &expected["logits_reloaded"], 1e-5);
    from_peft.merge_adapters(&[NAME], true).unwrap();
    assert_close("merged", &from_peft.forward(&inputs.input()).into_data(), &logits, 1e-5);
}

/// Everything that a checkpoint holds, as bytes in f32.
fn state(model: &Llama) -> BTreeMap<String, TensorData> {
    let mut all: BTreeMap<_, _> =
        model.adapter_params(NAME).unwrap().into_iter().map(|(key, p)| (key, p.to_data())).collect();
    for (path, layer) in layers(model) {
        for (suffix, ipt, unc) in layer.importance().unwrap().averages() {
            all.insert(format!("{path}.{suffix}.ipt"), ipt.into_data());
            all.insert(format!("{path}.{suffix}.unc"), unc.into_data());
        }
    }
    all
}

/// PEFT wipes every live triplet of an adapter resumed from a pruned save, and never saves the averages.
#[rstest]
fn a_resumed_run_continues_bit_for_bit(#[values(3, 9, 12, 20, 24)] stop: usize) {
    let inputs = Inputs::load();
    let mut model = adapted("adalora", "adapter_init").train();
    let mut optim = optimizer();
    let mut saved = None;
    for i in 1..=30 {
        model = step(model, &mut optim, &inputs, i).0;
        if i == stop {
            let record = model.valid().into_record().into_bytes().unwrap();
            saved = Some((record, optim.to_record().into_bytes().unwrap()));
        }
    }
    let (record, optim_record) = saved.unwrap();
    let mut resumed = base("base");
    let config = model.adapter_config(NAME).unwrap().clone();
    resumed.add_adapter(NAME, &config, 99).unwrap();
    let mut resumed = resumed.train().load_record(ModuleRecord::from_bytes(record).unwrap());
    let mut optim = optimizer().load_record(burn::optim::OptimizerRecord::from_bytes(optim_record).unwrap());
    for i in stop + 1..=30 {
        resumed = step(resumed, &mut optim, &inputs, i).0;
    }
    let (straight, resumed) = (state(&model), state(&resumed));
    for (key, data) in straight {
        assert_eq!(data.as_bytes(), resumed[&key].as_bytes(), "{key} differs after resuming from step {stop}");
    }
}

/// PEFT saves the last mask's triplets, and the others have come alive since.
#[rstest]
fn what_is_saved_between_masks_is_what_ran(#[values(5, 6, 9, 13, 19, 20, 23)] stop: usize) {
    let inputs = Inputs::load();
    let mut model = adapted("adalora", "adapter_init").train();
    let mut optim = optimizer();
    for i in 1..=stop {
        model = step(model, &mut optim, &inputs, i).0;
    }
    let trained = model.valid().forward(&inputs.input()).into_data();
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter(NAME, dir.path()).unwrap();
    let mut reloaded = base("base");
    reloaded.load_adapter(dir.path(), NAME, false).unwrap();
    assert_close("reloaded", &reloaded.forward(&inputs.input()).into_data(), &trained, 1e-6);
    // Saving what was loaded changes nothing.
    let again = tempfile::tempdir().unwrap();
    reloaded.save_adapter(NAME, again.path()).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(file)).unwrap();
        assert!(read(&dir) == read(&again), "{file} changed by loading and saving");
    }
}

#[test]
fn a_pruned_adapter_can_be_trained_further() {
    let inputs = Inputs::load();
    let mut model = adapted("adalora", "adapter_final").train();
    let before = rank_pattern(&model, NAME).unwrap().unwrap();
    let mut optim = optimizer();
    for i in 1..=30 {
        model = step(model, &mut optim, &inputs, i).0;
    }
    assert_eq!(rank_pattern(&model, NAME).unwrap().unwrap(), before, "it is at its target: nothing more is pruned");
    assert_eq!(live_triplets(&model, NAME).unwrap().into_scalar::<f64>(), 24.0);
}

#[test]
fn equal_ranks_train_without_pruning() {
    let inputs = Inputs::load();
    let PeftConfig::AdaLora(mut config) = PeftConfig::from_dir(golden("adalora/adapter")).unwrap().0 else {
        panic!("an AdaLoRA golden")
    };
    (config.init_r, config.target_r, config.tinit, config.tfinal, config.delta_t) = (4, 4, 0, 0, 1);
    let mut model = base("base");
    model.add_adapter(NAME, &config.into(), 1).unwrap();
    let (mut model, mut optim) = (model.train(), optimizer());
    for i in 1..=30 {
        let (next, allocation, _) = step(model, &mut optim, &inputs, i);
        model = next;
        assert_eq!(allocation.budget, 32);
        assert!(allocation.mask.is_none_or(|m| m.threshold.is_none() && m.kept.values().flatten().all(|k| *k)));
    }
    assert_eq!(live_triplets(&model, NAME).unwrap().into_scalar::<f64>(), 32.0);
    assert!(rank_pattern(&model, NAME).unwrap().is_none());
}

#[test]
fn missing_gradients_and_frozen_adapters_are_errors_that_change_nothing() {
    let mut model = adapted("adalora", "adapter").train();
    let before = state(&model);
    let error = update_and_allocate(&mut model, NAME, &GradientsParams::new(), 6).unwrap_err().to_string();
    assert!(error.contains("gradients of model.layers.0.self_attn.q_proj"), "{error}");
    assert_eq!(state(&model), before);
    let mut frozen = base("base");
    frozen.load_adapter(golden("adalora/adapter"), NAME, false).unwrap();
    let error = update_and_allocate(&mut frozen, NAME, &GradientsParams::new(), 6).unwrap_err().to_string();
    assert!(error.contains("frozen"), "{error}");
    let mut lora = adapted("lora", "adapter");
    let error = update_and_allocate(&mut lora, NAME, &GradientsParams::new(), 6).unwrap_err().to_string();
    assert!(error.contains("is LORA, not ADALORA"), "{error}");
}
