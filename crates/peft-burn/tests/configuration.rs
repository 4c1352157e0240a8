//! `adapter_config.json` and run configurations.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use peft_burn::{
    AdaLoraConfig, CONFIG_NAME, Ia3Config, InitLoraWeights, LoraConfig, ModuleNames, OneOrMany, PeftConfig, PeftError,
    TargetModules, VeraConfig,
};
use serde_json::{Value, json};

/// Configurations that PEFT 0.21.2 wrote.
fn written_by_peft() -> Vec<(String, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapter_configs");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path)).collect()
}

fn dir_with(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CONFIG_NAME), text).unwrap();
    dir
}

/// PEFT writes these lists in the order of a hash set.
fn sort_sets(config: &mut Value) {
    for key in ["target_modules", "exclude_modules", "feedforward_modules"] {
        if let Some(Value::Array(names)) = config.get_mut(key) {
            names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
}

#[test]
fn what_peft_wrote_is_written_again_to_the_byte() {
    let files = written_by_peft();
    assert!(files.len() >= 29);
    for (name, path) in files {
        let text = fs::read_to_string(path).unwrap();
        let (config, warnings) = PeftConfig::from_dir(dir_with(&text)).unwrap();
        assert_eq!(warnings, [""; 0], "{name}");
        config.validate().unwrap();
        let out = tempfile::tempdir().unwrap();
        config.save(out.path().join("new")).unwrap();
        let written = fs::read_to_string(out.path().join("new").join(CONFIG_NAME)).unwrap();

        let mut expected: Value = serde_json::from_str(&text).unwrap();
        sort_sets(&mut expected);
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), expected, "{name}");
        assert_eq!(written, format!("{expected:#}"), "{name}");
        let entries: Vec<_> = fs::read_dir(out.path().join("new")).unwrap().collect();
        assert_eq!(entries.len(), 1, "nothing but the file is left: {entries:?}");
    }
}

#[test]
fn keys_of_each_kind_are_read() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/adapter_configs/{name}.json"));
        PeftConfig::from_dir(dir_with(&fs::read_to_string(path).unwrap())).unwrap().0
    };
    let PeftConfig::Lora(config) = read("x_lora_pattern") else { panic!() };
    assert_eq!(config.rank_for("model.layers.0.self_attn.q_proj"), 8);
    assert_eq!(config.rank_for("model.layers.1.self_attn.q_proj"), 4);
    assert_eq!(config.scaling_for("model.layers.0.self_attn.q_proj"), 2.0);
    assert_eq!(config.scaling_for("model.layers.1.mlp.up_proj"), 0.5);
    assert_eq!(config.scaling_for("model.layers.0.mlp.down_proj"), 4.0);

    let PeftConfig::Lora(config) = read("rslora") else { panic!() };
    assert_eq!(config.scaling_for("model.layers.0.self_attn.q_proj"), 4.0);

    // PEFT's scalings of these patterns: a module's own alpha over the root of its own rank.
    let patterned = |use_rslora| {
        let json = json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": use_rslora,
            "rank_pattern": {"q_proj": 9, "k_proj": 2}, "alpha_pattern": {"q_proj": 3, "v_proj": 5},
        });
        let PeftConfig::Lora(config) = strict(json).unwrap() else { panic!() };
        ["q_proj", "v_proj", "k_proj"].map(|name| config.scaling_for(name))
    };
    assert_eq!(patterned(true), [1.0, 2.5, 4.242640687119285]);
    assert_eq!(patterned(false), [0.3333333333333333, 1.25, 3.0]);

    let PeftConfig::Lora(config) = read("x_lora_layers") else { panic!() };
    assert_eq!(config.layers_to_transform, Some(OneOrMany::Many(vec![1])));
    assert_eq!(config.layers_pattern, Some(OneOrMany::One("layers".into())));

    let PeftConfig::Lora(config) = read("x_lora_regex") else { panic!() };
    assert!(matches!(config.target_modules, TargetModules::Regex(_)));
    assert!(matches!(config.exclude_modules, Some(ModuleNames::Regex(_))));

    let PeftConfig::AdaLora(config) = read("adalora_pruned") else { panic!() };
    let mask = config.mask_for("model.layers.0.self_attn.k_proj").unwrap();
    assert_eq!(mask, [false, true, true, true, true, false]);
    assert_eq!(config.mask_for("model.layers.0.mlp.up_proj"), None);

    let PeftConfig::Vera(config) = read("x_vera_noproj") else { panic!() };
    assert_eq!((config.r, config.projection_prng_key, config.save_projection), (16, 42, false));
}

#[test]
fn defaults_are_pefts() {
    for (config, r) in [
        (PeftConfig::from(LoraConfig::default()), json!(8)),
        (AdaLoraConfig::default().into(), json!(8)),
        (VeraConfig::default().into(), json!(256)),
        (Ia3Config::default().into(), Value::Null),
    ] {
        let json = config.to_json();
        assert_eq!(json.get("r").cloned().unwrap_or_default(), r);
        assert_eq!(json["target_modules"], Value::Null);
        let (again, _) = PeftConfig::from_dir(dir_with(&json!({"peft_type": config.peft_type()}).to_string())).unwrap();
        assert_eq!(again, config);
        // `default_configs`: what PEFT 0.21.2's own classes are made with, key by key.
        let name = config.peft_type().to_lowercase();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/default_configs/{name}.json"));
        let Value::Object(mut pefts) = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() else {
            panic!("{name}")
        };
        // A run's own number, and what says that a saved adapter is for inference.
        pefts.extend([("inference_mode".to_owned(), json["inference_mode"].clone())]);
        pefts.entry("total_step").and_modify(|steps| *steps = Value::Null);
        assert_eq!(Value::Object(json), Value::Object(pefts), "{name}");
    }
}

#[test]
fn numbers_keep_their_kind() {
    let alpha = |value: f64| PeftConfig::from(LoraConfig { lora_alpha: value, ..Default::default() }).to_json();
    assert_eq!(alpha(8.0)["lora_alpha"].to_string(), "8");
    assert_eq!(alpha(0.5)["lora_alpha"].to_string(), "0.5");
    assert_eq!(alpha(8.0)["lora_dropout"].to_string(), "0.0");
}

#[test]
fn the_order_of_patterns_survives_a_save() {
    let config = strict(json!({"peft_type": "LORA", "rank_pattern": {"q_proj": 2, ".*": 4}})).unwrap();
    let dir = tempfile::tempdir().unwrap();
    config.save(dir.path()).unwrap();
    let PeftConfig::Lora(again) = PeftConfig::from_dir(dir.path()).unwrap().0 else { panic!() };
    assert_eq!((again.rank_for("a.q_proj"), again.rank_for("a.k_proj")), (2, 4));
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let dir = dir_with("old");
    fs::create_dir(dir.path().join("blocked")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = PeftConfig::from(LoraConfig::default()).save(dir.path().join("file")).unwrap_err();
    assert!(matches!(error, PeftError::Io { .. }), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join(CONFIG_NAME)).unwrap(), "old");
}

#[test]
fn unknown_keys_of_a_file_are_ignored_with_a_warning() {
    let text = json!({"peft_type": "LORA", "r": 4, "invented_later": {"a": 1}}).to_string();
    let (config, warnings) = PeftConfig::from_dir(dir_with(&text)).unwrap();
    assert_eq!(config, LoraConfig { r: 4, ..Default::default() }.into());
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("invented_later") && warnings[0].contains(CONFIG_NAME), "{warnings:?}");
}

#[test]
fn a_broken_file_names_itself_and_every_bad_value() {
    let error = |text: &str| {
        let dir = dir_with(text);
        let message = PeftConfig::from_dir(dir.path()).unwrap_err().to_string();
        assert!(message.contains(CONFIG_NAME), "{message}");
        message
    };
    assert!(error("{\"r\": 4").contains("not valid JSON"));
    assert!(error("[]").contains("not valid JSON"));
    assert!(error("{}").contains("peft_type is missing"));
    assert!(error(r#"{"peft_type": "PROMPT_TUNING"}"#).contains("\"PROMPT_TUNING\" is not supported"));
    assert!(error(r#"{"peft_type": 3}"#).contains("peft_type = 3"));
    let message = error(r#"{"peft_type": "LORA", "r": -1, "lora_alpha": "x", "bias": "some", "target_modules": [1]}"#);
    for key in ["r = -1", "lora_alpha = \"x\"", "bias = \"some\"", "target_modules = [1]"] {
        assert!(message.contains(key), "{key} in {message}");
    }
    let missing = PeftConfig::from_dir("no/such/dir").unwrap_err();
    assert!(matches!(&missing, PeftError::Io { path, .. } if path.ends_with(CONFIG_NAME)), "{missing}");
}

fn strict(value: Value) -> Result<PeftConfig, PeftError> {
    let Value::Object(object) = value else { panic!("{value} is no object") };
    PeftConfig::from_map(object)
}

/// The problems that the configuration is refused for.
fn problems(value: Value) -> Vec<String> {
    match strict(value.clone()) {
        Err(PeftError::Config { problems, .. }) => problems,
        other => panic!("{value}: {other:?}"),
    }
}

/// A program's JSON is read as strictly as a user's.
#[test]
fn what_a_configuration_is_written_as_may_be_a_users_own() {
    for config in [
        PeftConfig::from(LoraConfig::default()),
        AdaLoraConfig::default().into(),
        VeraConfig::default().into(),
        Ia3Config::default().into(),
    ] {
        assert_eq!(strict(Value::Object(config.to_json())).unwrap(), config);
    }
}

#[test]
fn an_unknown_key_names_the_nearest_or_the_method_it_belongs_to() {
    let all = problems(json!({
        "peft_type": "LORA", "lora_alfa": 3, "targetmodules": ["q_proj"], "init_r": 12, "d_initial": 1.0, "zzz": 0,
    }));
    assert_eq!(
        all,
        [
            "unknown key `lora_alfa`; did you mean `lora_alpha`?",
            "unknown key `targetmodules`; did you mean `target_modules`?",
            "`init_r` is a key of ADALORA, not of LORA",
            "`d_initial` is a key of VERA, not of LORA",
            "unknown key `zzz`",
        ]
    );
    assert_eq!(
        problems(json!({"peft_type": "IA3", "r": 8})),
        ["`r` is a key of LORA, ADALORA, VERA, LOHA, not of IA3"]
    );
    assert_eq!(
        problems(json!({"peft_type": "VERA", "exclude_modules": ["q_proj"]})),
        ["`exclude_modules` is a key of LORA, ADALORA, IA3, LOHA, not of VERA"]
    );
    assert_eq!(
        problems(json!({"peft_type": "ADALORA", "r": 16})),
        ["r is not used by ADALORA; set init_r and target_r"]
    );
    assert!(problems(json!({"peft_type": "dora"}))[0].contains("use_dora = true"));
    assert!(problems(json!({"peft_type": "lora"}))[0].contains("\"LORA\""));
}

#[test]
fn every_wrong_value_is_refused_with_its_key() {
    let cases = [
        (json!({"peft_type": "LORA", "r": 0}), "r = 0"),
        (json!({"peft_type": "LORA", "rank_pattern": {"q_proj": 0}}), "rank_pattern.`q_proj` = 0"),
        (json!({"peft_type": "LORA", "rank_pattern": {"(": 1}}), "rank_pattern: `(` is not a regular expression"),
        (json!({"peft_type": "LORA", "lora_dropout": 1.0}), "lora_dropout = 1"),
        (json!({"peft_type": "LORA", "lora_dropout": -0.1}), "lora_dropout = -0.1"),
        (json!({"peft_type": "LORA", "bias": "vera_only"}), "use \"lora_only\""),
        (json!({"peft_type": "LORA", "bias": "lora"}), "bias = \"lora\""),
        (json!({"peft_type": "LORA", "target_modules": []}), "target_modules = []"),
        (json!({"peft_type": "LORA", "target_modules": "("}), "target_modules: `(`"),
        (json!({"peft_type": "LORA", "target_modules": ".*", "layers_to_transform": 1}), "layers_to_transform cannot"),
        (
            json!({"peft_type": "VERA", "target_modules": "all-linear", "layers_to_transform": [1]}),
            "layers_to_transform cannot",
        ),
        (json!({"peft_type": "LORA", "layers_pattern": "layers"}), "layers_pattern without layers_to_transform"),
        (json!({"peft_type": "LORA", "use_dora": true, "lora_bias": true}), "lora_bias = true does not go with"),
        (json!({"peft_type": "LORA", "init_lora_weights": "pissa", "lora_bias": true}), "lora_bias = true needs"),
        (json!({"peft_type": "LORA", "init_lora_weights": "orthogonal", "r": 5}), "r = 5"),
        (
            json!({"peft_type": "LORA", "init_lora_weights": "orthogonal", "rank_pattern": {"q_proj": 3}}),
            "rank_pattern.`q_proj` = 3",
        ),
        (json!({"peft_type": "LORA", "init_lora_weights": "eva"}), "\"eva\" is not supported"),
        (json!({"peft_type": "LORA", "init_lora_weights": "pissa_niter_x"}), "\"pissa_niter_x\" is not supported"),
        (json!({"peft_type": "LORA", "task_type": "CHAT"}), "task_type = \"CHAT\""),
        (json!({"peft_type": "LORA", "trainable_token_indices": [1, 2, 1]}), "token 1 of embed_tokens is there twice"),
        (json!({"peft_type": "ADALORA", "init_r": 4, "target_r": 8}), "init_r = 4 is below target_r = 8"),
        (json!({"peft_type": "ADALORA", "deltaT": 0}), "deltaT = 0"),
        (json!({"peft_type": "ADALORA", "beta1": 1.0}), "beta1 = 1"),
        (json!({"peft_type": "ADALORA", "orth_reg_weight": -0.5}), "orth_reg_weight = -0.5"),
        (json!({"peft_type": "ADALORA", "total_step": 0}), "total_step = 0"),
        (json!({"peft_type": "ADALORA", "use_dora": true}), "use_dora = true is not supported"),
        (json!({"peft_type": "ADALORA", "loftq_config": {"loftq_bits": 4}}), "loftq_config"),
        (json!({"peft_type": "ADALORA", "init_lora_weights": "pissa"}), "true and false only"),
        (json!({"peft_type": "VERA", "r": 0}), "r = 0"),
        (json!({"peft_type": "VERA", "bias": "lora_only"}), "use \"vera_only\""),
        (json!({"peft_type": "VERA", "projection_prng_key": -1}), "projection_prng_key = -1"),
        (
            json!({"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]}),
            "feedforward_modules: `down_proj` is not in target_modules",
        ),
    ];
    for (config, expected) in cases {
        let found = problems(config.clone());
        assert_eq!(found.len(), 1, "{config}: {found:?}");
        assert!(found[0].contains(expected), "{config}: {found:?}");
    }
}

#[test]
fn features_that_are_not_there_are_refused_all_at_once_but_survive_a_round_trip() {
    let object = json!({
        "peft_type": "LORA",
        "use_qalora": true,
        "target_parameters": ["experts.gate_up_proj"],
        "layer_replication": [[0, 2]],
        "eva_config": {"rho": 2.0},
        "megatron_config": {},
        "alora_invocation_tokens": [],
    });
    let mut found = problems(object.clone());
    found.sort();
    assert_eq!(found.len(), 4, "off, as older files write it, is no problem: {found:?}");
    assert!(found[0].starts_with("eva_config = {\"rho\":2.0} is not supported"), "{found:?}");
    assert!(found[3].starts_with("use_qalora = true is not supported; leave it at false"), "{found:?}");

    let (config, warnings) = PeftConfig::from_dir(dir_with(&object.to_string())).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(config.to_json()["layer_replication"], json!([[0, 2]]));
    assert!(matches!(config.validate(), Err(PeftError::Config { problems, .. }) if problems.len() == 4));
}

#[test]
fn adalora_without_a_step_to_prune_in_lays_out_its_phases() {
    let schedule = |tinit: usize, tfinal: usize, total_step: usize| {
        strict(json!({"peft_type": "ADALORA", "tinit": tinit, "tfinal": tfinal, "total_step": total_step}))
    };
    let message = schedule(200, 1000, 1000).unwrap_err().to_string();
    assert_eq!(
        message,
        "adapter: tinit = 200, tfinal = 1000 and total_step = 1000 leave no step to prune in:\n  \
         full rank    steps 1 to 200 (tinit)\n  \
         pruning      from step 201 to step 0 (total_step - tfinal), which is none\n  \
         final ranks  the 1000 steps after that (tfinal counts the steps after pruning)\n\
         raise total_step to 1201 or more, or lower tinit + tfinal below 1000, for example to tinit = 100 and \
         tfinal = 300"
    );
    assert!(schedule(200, 1000, 1200).is_err());
    assert!(schedule(200, 1000, 1201).is_ok());
}

#[test]
fn adaloras_total_step_may_be_filled_in_later() {
    let config = AdaLoraConfig::default();
    assert!(PeftConfig::from(config.clone()).validate().is_ok());
    assert!(config.require_total_step().unwrap_err().to_string().contains("total_step is missing"));
    assert_eq!(AdaLoraConfig { total_step: Some(7), ..config }.require_total_step().unwrap(), 7);
    let equal_ranks = json!({"peft_type": "ADALORA", "init_r": 8, "target_r": 8});
    assert!(strict(equal_ranks).is_ok());
}

#[test]
fn adalora_masks_of_older_files_hold_numbers() {
    let text = json!({"peft_type": "ADALORA", "init_r": 3, "target_r": 1, "rank_pattern": {"a.lora_E": [1, 0, 1]}});
    let (config, _) = PeftConfig::from_dir(dir_with(&text.to_string())).unwrap();
    let PeftConfig::AdaLora(config) = config else { panic!() };
    assert_eq!(config.mask_for("a").unwrap(), [true, false, true]);
}

#[test]
fn every_initialisation_is_read_and_written() {
    for (value, expected) in [
        (json!(true), InitLoraWeights::Default),
        (json!(false), InitLoraWeights::Random),
        (json!("gaussian"), InitLoraWeights::Gaussian),
        (json!("pissa"), InitLoraWeights::Pissa),
        (json!("pissa_niter_16"), InitLoraWeights::PissaNiter(16)),
        (json!("olora"), InitLoraWeights::Olora),
        (json!("orthogonal"), InitLoraWeights::Orthogonal),
    ] {
        let config = strict(json!({"peft_type": "LORA", "init_lora_weights": value})).unwrap();
        assert_eq!(config.to_json()["init_lora_weights"], value);
        assert_eq!(config, LoraConfig { init_lora_weights: expected, ..Default::default() }.into());
    }
}
