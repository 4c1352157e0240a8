//! Targets, stored configurations and parameter counts against what PEFT makes of the same configurations
//! (`fixtures/make_resolutions.py`).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use peft_burn::targets::{ModuleInfo, ModuleKind, Resolution, resolve, resolve_saved};
use peft_burn::{
    AdaLoraConfig, Ia3Config, LoraConfig, ModuleNames, Object, PeftConfig, PeftError, TargetModules, VeraConfig,
    count_parameters,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Oracle {
    models: BTreeMap<String, Model>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Model {
    parameters: usize,
    modules: Vec<(String, String, usize, usize, bool)>,
}

impl Model {
    fn infos(&self) -> Vec<ModuleInfo> {
        let info = |(path, kind, in_features, out_features, bias): &(String, String, usize, usize, bool)| ModuleInfo {
            path: path.clone(),
            kind: match kind.as_str() {
                "linear" => ModuleKind::Linear,
                "head" => ModuleKind::OutputHead,
                "embedding" => ModuleKind::Embedding,
                _ => ModuleKind::Other,
            },
            in_features: *in_features,
            out_features: *out_features,
            bias: *bias,
        };
        self.modules.iter().map(info).collect()
    }
}

#[derive(Deserialize)]
struct Case {
    model: String,
    config: Object,
    /// PEFT's exception.
    error: Option<String>,
    /// The warnings expected where PEFT is silent.
    unmatched: Option<Vec<String>>,
    #[serde(default)]
    adapted: Vec<String>,
    #[serde(default)]
    saved: Vec<String>,
    /// The keys of the stored configuration that differ from the defaults.
    #[serde(default)]
    stored: Object,
    #[serde(default)]
    report: String,
}

fn oracle() -> Oracle {
    serde_json::from_str(include_str!("fixtures/resolutions.json")).unwrap()
}

fn paths(modules: &[ModuleInfo]) -> Vec<&str> {
    modules.iter().map(|module| module.path.as_str()).collect()
}

#[test]
fn every_configuration_means_what_it_means_to_peft() {
    let oracle = oracle();
    assert!(oracle.cases.len() > 200);
    for case in &oracle.cases {
        let told = Value::Object(case.config.clone()).to_string();
        let model = &oracle.models[&case.model];
        let modules = model.infos();
        let result = PeftConfig::from_map(case.config.clone()).and_then(|config| resolve(&config, &modules, "llama"));
        if let Some(unmatched) = &case.unmatched {
            let Err(PeftError::UnmatchedTargets { unmatched: lines, .. }) = &result else {
                panic!("{told}: {unmatched:?} not reported: {result:?}");
            };
            assert_eq!(lines.len(), unmatched.len(), "{told}: {lines:?}");
            let named = |name: &String| lines.iter().any(|line| line.contains(name.as_str()));
            assert!(unmatched.iter().all(named), "{told}: {lines:?}");
        } else if let Some(error) = &case.error {
            let Err(ours) = &result else { panic!("{told}: PEFT refuses with {error}") };
            let nothing = error == "NoMatchingPeftModuleError";
            assert!(!nothing || matches!(ours, PeftError::NoMatchingModule { .. }), "{told}: {error}, ours: {ours}");
        } else {
            let resolution = result.unwrap_or_else(|error| panic!("{told}: {error}"));
            assert_eq!(paths(&resolution.adapted), case.adapted, "{told}");
            assert_eq!(paths(&resolution.modules_to_save), case.saved, "{told}");
            let report = count_parameters(&resolution, &modules, model.parameters).to_string();
            assert_eq!(report, case.report, "{told}");
            assert_stored(&resolution, &case.stored, &told);
        }
    }
}

/// The stored configuration is PEFT's.
fn assert_stored(resolution: &Resolution, stored: &Object, told: &str) {
    let default = match &resolution.config {
        PeftConfig::AdaLora(_) => AdaLoraConfig { total_step: Some(10), ..Default::default() }.into(),
        PeftConfig::Ia3(_) => Ia3Config::default().into(),
        PeftConfig::Vera(_) => VeraConfig::default().into(),
        other => PeftConfig::from_map(Object::from_iter([("peft_type".into(), other.peft_type().into())])).unwrap(),
    };
    let mut expected = default.to_json();
    expected.extend(stored.clone());
    let mut ours = resolution.config.to_json();
    if let PeftConfig::Ia3(config) = &resolution.config {
        // The names may be others, for PEFT's own may be unreadable to it; what they mean may not.
        let names = expected.remove("feedforward_modules").unwrap();
        ours.remove("feedforward_modules");
        let theirs = Ia3Config { feedforward_modules: serde_json::from_value(names).unwrap(), ..Default::default() };
        for module in &resolution.adapted {
            assert_eq!(config.is_feedforward(&module.path), theirs.is_feedforward(&module.path), "{told}");
        }
        if let (TargetModules::List(targets), Some(ModuleNames::List(names))) =
            (&config.target_modules, &config.feedforward_modules)
        {
            assert!(names.iter().all(|name| targets.contains(name)), "PEFT refuses to read {names:?} of {targets:?}");
        }
    }
    assert_eq!(Value::Object(ours), Value::Object(expected), "{told}");
}

/// A resolved and stored configuration resolves to the same again.
#[test]
fn a_stored_configuration_selects_the_same_modules() {
    let oracle = oracle();
    for case in oracle.cases.iter().filter(|case| case.error.is_none() && case.unmatched.is_none()) {
        let modules = oracle.models[&case.model].infos();
        let first = resolve(&PeftConfig::from_map(case.config.clone()).unwrap(), &modules, "llama").unwrap();
        let again = resolve_saved(&first.config, &modules, "another").unwrap();
        assert_eq!(again, first, "{:?}", case.config);
    }
}

fn config(value: Value) -> PeftConfig {
    let Value::Object(object) = value else { panic!("{value} is no object") };
    PeftConfig::from_map(object).unwrap()
}

#[test]
fn everything_that_matches_nothing_is_in_one_error() {
    let modules = oracle().models["tiny"].infos();
    let config = config(json!({
        "peft_type": "LORA",
        "target_modules": ["q_proj", "vproj", "model.layers.7.self_attn.k_proj"],
        "modules_to_save": ["lm_haed"],
        "exclude_modules": ["dwon_proj"],
        "layers_to_transform": [0, 5],
        "rank_pattern": {"k_proj": 2},
        "alpha_pattern": {"q_porj": 2},
    }));
    let message = resolve(&config, &modules, "llama").unwrap_err().to_string();
    assert_eq!(
        message,
        "these match nothing in this model:\n  \
           target_modules: `vproj`, did you mean `v_proj`?\n  \
           target_modules: `model.layers.7.self_attn.k_proj`, did you mean `model.layers.1.self_attn.k_proj`?\n  \
           modules_to_save: `lm_haed`, did you mean `lm_head`?\n  \
           exclude_modules: `dwon_proj`, did you mean `down_proj`?\n  \
           layers_to_transform: 5\n  \
           rank_pattern: `k_proj`\n  \
           alpha_pattern: `q_porj`\n\
         this model has: embed_tokens, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"
    );
}

#[test]
fn a_saved_adapter_may_name_what_is_not_there() {
    let modules = oracle().models["tiny"].infos();
    let refined = config(json!({
        "peft_type": "LORA", "target_modules": ["q_proj"], "exclude_modules": ["fc"], "rank_pattern": {"k_proj": 2},
    }));
    let warnings = resolve_saved(&refined, &modules, "llama").unwrap().warnings;
    assert_eq!(
        warnings,
        ["matches nothing, ignored: exclude_modules: `fc`", "matches nothing, ignored: rank_pattern: `k_proj`"]
    );

    let targeted = config(json!({"peft_type": "LORA", "target_modules": ["q_proj", "fc"]}));
    let resolution = resolve_saved(&targeted, &modules, "llama").unwrap();
    assert_eq!(resolution.warnings, ["matches nothing, ignored: target_modules: `fc`"]);
    assert!(resolution.adapted.iter().all(|module| module.path.ends_with("q_proj")));
    assert!(matches!(resolve(&targeted, &modules, "llama"), Err(PeftError::UnmatchedTargets { .. })));
}

#[test]
fn a_name_given_as_a_string_is_explained() {
    let modules = oracle().models["tiny"].infos();
    let error = resolve(&config(json!({"peft_type": "VERA", "target_modules": "q_proj"})), &modules, "llama");
    let message = error.unwrap_err().to_string();
    assert!(message.contains("regular expression over the whole path"), "{message}");
    assert!(message.contains(r#"["q_proj"]"#), "{message}");
}

#[test]
fn modules_that_the_method_cannot_adapt_are_all_named() {
    let modules = oracle().models["tiny"].infos();
    let config = config(json!({"peft_type": "IA3", "target_modules": ["embed_tokens", "k_proj", "norm"]}));
    let message = resolve(&config, &modules, "llama").unwrap_err().to_string();
    assert_eq!(
        message,
        "not supported: IA3 adapts linear modules only; take these out of the targets: model.embed_tokens, model.norm"
    );
}

#[test]
fn a_model_type_without_defaults_asks_for_targets() {
    let modules = oracle().models["tiny"].infos();
    let message = resolve(&LoraConfig::default().into(), &modules, "rwkv").unwrap_err().to_string();
    assert_eq!(message, "LORA configuration: target_modules has no default for models of type `rwkv`; set it");
}

#[test]
fn trained_tokens_are_of_the_vocabulary_and_of_one_kind() {
    let modules = oracle().models["tiny"].infos();
    let tokens = |more: Value| {
        let mut object = json!({"peft_type": "LORA", "trainable_token_indices": [3, 32]});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        resolve(&config(object), &modules, "llama").unwrap_err().to_string()
    };
    let message = tokens(json!({"modules_to_save": ["embed_tokens"]}));
    assert!(message.contains("token 32, and model.embed_tokens has 32: 0 to 31"), "{message}");
    assert!(message.contains("modules_to_save and in trainable_token_indices"), "{message}");
}

#[test]
fn the_shared_pair_is_as_large_as_the_largest_adapted_module() {
    let modules = oracle().models["tiny"].infos();
    let config = config(json!({"peft_type": "VERA", "target_modules": ["k_proj", "up_proj", "down_proj"]}));
    assert_eq!(resolve(&config, &modules, "llama").unwrap().largest_features(), (24, 24));
}

/// Lines that PEFT printed for the adapters in `fixtures/adapter_configs`.
#[test]
fn parameters_of_saved_adapters_are_counted_as_peft_counts_them() {
    let lines: BTreeMap<String, (String, String)> =
        serde_json::from_str(include_str!("fixtures/trainable_parameters.json")).unwrap();
    assert_eq!(lines.len(), 22);
    for (name, (base, line)) in lines {
        let path = format!("{}/tests/fixtures/adapter_configs/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(&path, dir.path().join("adapter_config.json")).unwrap();
        let (config, _) = PeftConfig::from_dir(dir.path()).unwrap();
        let modules = llama(base == "base_bias");
        let parameters = modules.iter().map(ModuleInfo::parameters).sum();
        let resolution = resolve_saved(&config, &modules, "llama").unwrap();
        assert_eq!(resolution.warnings, [""; 0], "{name}");
        assert_eq!(count_parameters(&resolution, &modules, parameters).to_string(), line, "{name}");
    }
}

/// The base model of those adapters.
fn llama(bias: bool) -> Vec<ModuleInfo> {
    let (hidden, key_value, intermediate, vocabulary) = (64, 32, 128, 128);
    let mut modules = vec![ModuleInfo::embedding("model.embed_tokens", vocabulary, hidden)];
    for layer in 0..2 {
        let path = |name: &str| format!("model.layers.{layer}.{name}");
        let linear = |name, inputs, outputs| ModuleInfo::linear(path(name), inputs, outputs).with_bias(bias);
        modules.extend([
            linear("self_attn.q_proj", hidden, hidden),
            linear("self_attn.k_proj", hidden, key_value),
            linear("self_attn.v_proj", hidden, key_value),
            linear("self_attn.o_proj", hidden, hidden),
            linear("mlp.gate_proj", hidden, intermediate),
            linear("mlp.up_proj", hidden, intermediate),
            linear("mlp.down_proj", intermediate, hidden),
            ModuleInfo::other(path("input_layernorm"), hidden),
            ModuleInfo::other(path("post_attention_layernorm"), hidden),
        ]);
    }
    modules.push(ModuleInfo::other("model.norm", hidden));
    modules.push(ModuleInfo::output_head("lm_head", hidden, vocabulary));
    modules
}
