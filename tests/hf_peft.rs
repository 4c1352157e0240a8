//! Saved adapters, opened by Hugging Face PEFT itself. Needs a Python with `peft`: `PEFT_PYTHON`, or `python3`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use llama_burn::{BaseQuantization, Format, Llama, merge_into, quantize_into};
use peft_burn::targets::ModuleInfo;
use peft_burn::{
    AdaptableModel, AdapterFiles, Combination, LayerMut, LayerRef, PeftLinear, PeftModel, PeftState, Weighting,
    add_weighted_adapter, convert_to_lora,
};
use peft_burn_workspace::{
    Inputs, adapted, as_labels, assert_close, device, fixtures, golden, goldens, json, loss, meta, orthogonal,
    python_with, relative_error, run_script, tensors,
};
use peft_learner::base::Base;
use peft_learner::config::RunConfig;
use peft_learner::evaluate::evaluate;
use peft_learner::from_config::ConfiguredRun;
use peft_learner::train::Existing;
use serde_json::json;

/// A Python that can import peft.
fn python() -> Option<PathBuf> {
    python_with(&["peft", "torch", "transformers"])
}

fn run(python: &Path, dir: &Path, jobs: &serde_json::Value) {
    std::fs::copy(golden("inputs.safetensors"), dir.join("inputs.safetensors")).unwrap();
    std::fs::write(dir.join("jobs.json"), jobs.to_string()).unwrap();
    run_script(python, "open_with_peft.py", &dir.join("jobs.json"));
}

/// Adapters of every kind, trained here for three steps, saved, and opened there: the logits are equal. So are those of
/// the merged models as plain Transformers models.
#[test]
fn peft_opens_what_we_save() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::load();
    let mut starts: Vec<_> = goldens().into_iter().map(|name| (name, "adapter")).collect();
    starts.push(("adalora".into(), "adapter_final"));
    let mut jobs = Vec::new();
    let mut ours = Vec::new();
    for (name, folder) in &starts {
        let meta = meta(name);
        let base_name = meta["base"].as_str().unwrap();
        let mut model = adapted(name, folder).train();
        let name = &format!("{name}-{folder}");
        let mut optimizer = AdamWConfig::new().init();
        for ids in &inputs.train[..3] {
            let loss = loss(&model, ids, &as_labels(ids)) + orthogonal(&model);
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(1e-2, model, grads);
        }
        let mut model = model.valid();
        let adapter = dir.path().join(name);
        model.save_adapter("default", &adapter).unwrap();
        let logits = model.forward(&inputs.input()).into_data();
        jobs.push(
            json!({"base": golden(base_name), "adapter": adapter, "out": dir.path().join(format!("{name}.out"))}),
        );
        ours.push((name.to_owned(), logits.clone()));
        model.merge_and_unload(true).unwrap();
        let merged = dir.path().join(format!("{name}-merged"));
        model.save(&merged, None).unwrap();
        let out = dir.path().join(format!("{name}-merged.out"));
        jobs.push(json!({"base": merged, "adapter": null, "out": out}));
        ours.push((format!("{name}-merged"), logits));
    }
    run(&python, dir.path(), &json!(jobs));
    for (name, logits) in ours {
        let theirs = tensors(&dir.path().join(format!("{name}.out")));
        assert_close(&name, &logits, &theirs["logits"], 1e-5);
    }
}

/// An adapter that was loaded and saved on a bf16 base: PEFT computes with it, on that base, what we do, as far as
/// rounding goes.
#[test]
fn peft_opens_adapters_of_a_bf16_base() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::load();
    let methods = ["lora", "dora", "vera", "adalora", "ia3", "loha"];
    let mut jobs = Vec::new();
    let mut ours = Vec::new();
    for name in methods {
        let mut model = Llama::from_dir(golden("base"), Some(FloatDType::BF16), &device()).unwrap();
        model.load_adapter(golden(name).join("adapter"), "default", false).unwrap();
        let (adapter, out) = (dir.path().join(name), dir.path().join(format!("{name}.out")));
        model.save_adapter("default", &adapter).unwrap();
        jobs.push(json!({"base": golden("base"), "adapter": adapter, "out": out, "dtype": "bfloat16"}));
        ours.push(model.forward(&inputs.input()).into_data());
    }
    run(&python, dir.path(), &json!(jobs));
    // The fused operations round at fewer places than PyTorch does, so the two errors are independent: two such errors of
    // one size lie its square root of two apart, and ours must not be the larger one.
    let mut errors = [0.0, 0.0];
    for (name, ours) in methods.into_iter().zip(ours) {
        let theirs = &tensors(&dir.path().join(format!("{name}.out")))["logits"];
        let exact = &tensors(&golden(name).join("forward.safetensors"))["logits"];
        let (difference, rounding) = (relative_error(&ours, theirs), relative_error(theirs, exact));
        assert!(
            difference <= rounding * std::f64::consts::SQRT_2,
            "{name}: {difference:.2e} from PEFT, which is {rounding:.2e} from exact"
        );
        errors[0] += relative_error(&ours, exact);
        errors[1] += rounding;
    }
    assert!(errors[0] <= errors[1], "further from exact than PEFT, over all methods: {errors:?}");
}

/// Adapters of every method converted to LoRA, and a combination: PEFT computes with them what we do.
#[test]
fn peft_opens_what_we_convert_and_combine() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::load();
    let (mut jobs, mut ours) = (Vec::new(), Vec::new());
    let mut finish = |model: &mut Llama, base: &str, name: &str| {
        model.set_adapter(&["new"]).unwrap();
        let adapter = dir.path().join(name);
        model.save_adapter("new", &adapter).unwrap();
        jobs.push(json!({"base": golden(base), "adapter": adapter, "out": dir.path().join(format!("{name}.out"))}));
        ours.push((name.to_owned(), model.forward(&inputs.input()).into_data()));
    };
    for (name, folder, rank) in [
        ("vera", "adapter", None),
        ("adalora", "adapter_final", None),
        ("x_lora_biasall", "adapter", None),
        ("loha", "adapter", None),
        ("x_loha_pattern", "adapter", Some(8)),
        ("dora", "adapter", Some(8)),
        ("x_dora_emb", "adapter", Some(8)),
        ("ia3", "adapter", Some(8)),
        ("x_ia3_bias", "adapter", Some(8)),
    ] {
        let mut model = adapted(name, folder);
        convert_to_lora(&mut model, "default", "new", rank).unwrap();
        finish(&mut model, meta(name)["base"].as_str().unwrap(), name);
    }
    for (name, combination) in [("dora", Combination::Linear), ("ia3", Combination::Linear), ("vera", Combination::Cat)]
    {
        let mut model = adapted(name, "adapter");
        model.load_adapter(golden(name).join("adapter_final"), "other", false).unwrap();
        let parts = [("default", 0.7), ("other", 0.4)];
        add_weighted_adapter(&mut model, "new", &parts, Weighting::new(combination)).unwrap();
        finish(&mut model, "base", &format!("{name}-combined"));
    }
    run(&python, dir.path(), &json!(jobs));
    for (name, logits) in ours {
        let theirs = tensors(&dir.path().join(format!("{name}.out")));
        assert_close(&name, &logits, &theirs["logits"], 1e-5);
    }
}

/// Directories that we quantise, opened by Transformers over bitsandbytes: alone, and with an adapter that was trained here on the
/// same weights.
#[test]
fn bitsandbytes_opens_what_we_quantise() {
    let Some(python) = python_with(&["peft", "torch", "transformers", "bitsandbytes"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::load();
    let (mut jobs, mut ours) = (Vec::new(), Vec::new());
    for (format, double_quantization) in [(Format::Nf4, true), (Format::Nf4, false), (Format::Fp4, true)] {
        let name = format!("{}-{double_quantization}", format.name());
        let folder = dir.path().join(&name);
        let how = BaseQuantization { double_quantization, ..BaseQuantization::new(format) };
        quantize_into(golden("base"), &folder, &how, None, &device()).unwrap();
        let mut model = Llama::from_dir(&folder, None, &device()).unwrap();
        jobs.push(json!({"base": folder, "adapter": null, "out": dir.path().join(format!("{name}.out"))}));
        ours.push((name.clone(), model.forward(&inputs.input()).into_data()));
        model.load_adapter(golden("dora").join("adapter"), "default", true).unwrap();
        let mut model = model.train();
        let mut optimizer = AdamWConfig::new().init();
        for ids in &inputs.train[..3] {
            let grads = GradientsParams::from_grads(loss(&model, ids, &as_labels(ids)).backward(), &model);
            model = optimizer.step(1e-2, model, grads);
        }
        let (model, adapter) = (model.valid(), dir.path().join(format!("{name}-adapter")));
        model.save_adapter("default", &adapter).unwrap();
        let out = dir.path().join(format!("{name}-adapted.out"));
        jobs.push(json!({"base": folder, "adapter": adapter, "out": out}));
        ours.push((format!("{name}-adapted"), model.forward(&inputs.input()).into_data()));
    }
    run(&python, dir.path(), &json!(jobs));
    for (name, logits) in ours {
        assert_close(&name, &logits, &tensors(&dir.path().join(format!("{name}.out")))["logits"], 1e-5);
    }
}

/// Transformers' `LlamaForSequenceClassification`: the last token's hidden state, scored.
#[derive(Module, Debug)]
struct Classifier {
    llama: Llama,
    score: PeftLinear,
    #[module(skip)]
    adapters: PeftState,
}

impl AdaptableModel for Classifier {
    fn model_type(&self) -> &str {
        "llama"
    }

    fn layers(&self) -> Vec<(String, LayerRef<'_>)> {
        let mut all = self.llama.layers();
        all.retain(|(path, _)| path != "lm_head");
        all.push(("score".to_owned(), LayerRef::Linear(&self.score)));
        all
    }

    fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)> {
        let mut all = self.llama.layers_mut();
        all.retain(|(path, _)| path != "lm_head");
        all.push(("score".to_owned(), LayerMut::Linear(&mut self.score)));
        all
    }

    fn modules(&self) -> Vec<ModuleInfo> {
        let mut all = self.llama.modules();
        all.retain(|module| module.path != "lm_head");
        all.push(ModuleInfo::output_head("score", self.score.dims()[0], self.score.dims()[1]));
        all
    }

    fn peft_state(&self) -> &PeftState {
        &self.adapters
    }

    fn peft_state_mut(&mut self) -> &mut PeftState {
        &mut self.adapters
    }
}

impl Classifier {
    fn new(labels: usize) -> Self {
        let llama = Llama::from_dir(golden("base"), None, &device()).unwrap();
        let score = PeftLinear::new(Tensor::zeros([labels, llama.config().hidden_size], &device()), None);
        Self { llama, score, adapters: PeftState::default() }
    }

    fn forward(&self, inputs: &Inputs) -> Tensor<2> {
        let (rows, seq) = (inputs.ids.len(), inputs.ids[0].len());
        let last: Vec<i32> = (1..=rows).map(|row| (row * seq - 1) as i32).collect();
        let last = Tensor::<1, Int>::from_data(TensorData::new(last, [rows]), &device());
        self.score.forward(self.llama.hidden(&inputs.input(), None).select(0, last))
    }
}

/// A classifier that PEFT saved scores here as it does there, and so does what we train of it and save.
#[test]
fn peft_and_we_open_each_others_classifiers() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::load();
    let theirs = golden("x_seq_cls").join("adapter");
    let mut model = Classifier::new(3);
    let plain = model.forward(&inputs).into_data();
    model.load_adapter(&theirs, "default", true).unwrap();
    let mut scores = vec![("theirs", theirs, model.forward(&inputs).into_data())];
    assert_ne!(scores[0].2, plain);
    let mut model = model.train();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..3 {
        let loss = model.forward(&inputs).powi_scalar(2).mean();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-2, model, grads);
    }
    let model = model.valid();
    model.save_adapter("default", dir.path().join("ours")).unwrap();
    scores.push(("ours", dir.path().join("ours"), model.forward(&inputs).into_data()));
    assert_ne!(scores[1].2, scores[0].2);
    let job = |(name, adapter, _): &(&str, PathBuf, TensorData)| json!({"base": golden("base"), "adapter": adapter, "out": dir.path().join(format!("{name}.out")), "labels": 3});
    run(&python, dir.path(), &json!(scores.iter().map(job).collect::<Vec<_>>()));
    for (name, _, scores) in scores {
        let expected = tensors(&dir.path().join(format!("{name}.out")));
        assert_close(name, &scores, &expected["logits"], 1e-5);
    }
}

/// A checkpoint in a `.bin` and an adapter that PEFT trained with a larger vocabulary: trained on here, merged, and opened by
/// Transformers, which computes the same loss.
#[test]
fn a_bin_and_a_resized_adapter_are_trained_on_and_merged_for_transformers() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| fixtures().join("adapters").join(name);
    let (base, adapter, rows, output) =
        (of("base_bin"), of("resized"), of("rows_resized.jsonl"), dir.path().join("run"));
    let text = format!(
        "output = {output:?}\n[model]\npath = {base:?}\n[adapter]\nfrom = {adapter:?}\n[data]\ntrain = {rows:?}\n[training]\n\
         max_steps = 3\nlearning_rate = 1e-2\nper_device_train_batch_size = 3\n"
    );
    let config = RunConfig::parse("run.toml", &text, &[]).unwrap();
    let run = ConfiguredRun::load(&config, Existing::Refuse, &[device()], |_| {}).unwrap();
    let (_, report) = run.finetune.run(&config.output).unwrap();
    let measured = |base: &Base| {
        let (examples, _) = base.examples(&rows, usize::MAX).unwrap();
        evaluate(&base.model, &examples, 3, base.pad_id(), |_| {}).unwrap().loss
    };
    let mut trained = Base::load(base.to_str().unwrap(), None, &device()).unwrap();
    trained.model.load_adapter(report.adapter.unwrap(), "default", false).unwrap();
    let before: f64 = json(&of("expected.json"))["resized"].as_f64().unwrap();
    let ours = measured(&trained);
    assert!(ours < before - 0.05, "{before} to {ours}");

    let merged = dir.path().join("merged");
    merge_into(&base, output.join("adapter"), &merged, &device()).unwrap();
    let plain = measured(&Base::load(merged.to_str().unwrap(), None, &device()).unwrap());
    assert!((plain - ours).abs() < 1e-5, "{plain} and {ours}");
    let jobs = dir.path().join("jobs.json");
    std::fs::write(&jobs, json!([{"model": merged, "rows": rows}]).to_string()).unwrap();
    run_script(&python, "losses.py", &jobs);
    let theirs = json(&dir.path().join("losses.json"))[0].as_f64().unwrap();
    assert!((theirs - ours).abs() < 1e-5, "{theirs} and {ours}");
}
