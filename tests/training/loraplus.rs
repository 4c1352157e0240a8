//! LoRA+'s groups, against those of PEFT's `create_loraplus_optimizer` (`tests/python/loraplus_groups.py`).

use std::collections::BTreeMap;

use peft_burn::{PeftConfig, PeftModel, Role};
use peft_burn_workspace::{base, fixtures, json};

#[test]
fn every_parameter_of_every_method_is_in_pefts_group() {
    let table = json(&fixtures().join("loraplus.json"));
    for (method, entry) in table.as_object().unwrap() {
        let config = PeftConfig::from_map(entry["config"].as_object().unwrap().clone()).unwrap();
        let mut model = base("base");
        model.add_adapter("default", &config, 1).unwrap();
        let group = |role| match role {
            Role::Up | Role::Vector => "B",
            Role::Embedding => "embedding",
            _ => "A",
        };
        let roles = model.adapter_roles("default").unwrap();
        let found: BTreeMap<_, _> = roles.into_iter().map(|(key, _, role)| (key, group(role).to_owned())).collect();
        let expected: BTreeMap<String, String> = serde_json::from_value(entry["groups"].clone()).unwrap();
        assert_eq!(found, expected, "{method}");
    }
}
