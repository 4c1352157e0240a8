//! `section.key=value`: changes to a configuration, as `peft train --set` makes them.

use toml::{Table, Value};

/// Merges one `section.key=value` into `root`. The value is read as TOML, and where it is none, as a string, so that
/// neither `training.max_steps=10` nor `output=runs/a` needs quotes.
pub(super) fn apply(root: &mut Table, text: &str) -> Result<(), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!("the change `{text}` has no `=`; write `section.key=value`"));
    };
    let quoted = || toml::from_str(&format!("{key} = {}", Value::String(value.trim().to_string())));
    let parsed: Table = match toml::from_str(text) {
        // A bare date is far likelier to be a folder's name.
        Ok(table) if !holds_datetime(&table) => table,
        _ => quoted().map_err(|_| format!("the change `{text}`: `{key}` is not a key such as `training.max_steps`"))?,
    };
    merge(root, parsed);
    Ok(())
}

fn holds_datetime(table: &Table) -> bool {
    table.values().any(|value| match value {
        Value::Datetime(_) => true,
        Value::Table(inner) => holds_datetime(inner),
        _ => false,
    })
}

/// Tables merge key by key; anything else is replaced.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(overrides: &[&str]) -> Table {
        let mut root: Table = toml::from_str("output = 'a'\n[training]\nmax_steps = 1\nlearning_rate = 0.1").unwrap();
        overrides.iter().for_each(|text| apply(&mut root, text).unwrap());
        root
    }

    #[test]
    fn a_value_is_toml_or_else_a_string() {
        let root = with(&[
            "training.max_steps=10",
            "output=runs/a=b",
            "model.path=2026-01-01",
            "adapter.target_modules=['q_proj']",
            "adapter.rank_pattern.'model.layers.0'=4",
        ]);
        assert_eq!(root["training"]["max_steps"].as_integer(), Some(10));
        assert_eq!(root["training"]["learning_rate"].as_float(), Some(0.1), "its neighbours stay");
        assert_eq!(root["output"].as_str(), Some("runs/a=b"));
        assert_eq!(root["model"]["path"].as_str(), Some("2026-01-01"));
        assert_eq!(root["adapter"]["target_modules"][0].as_str(), Some("q_proj"));
        assert_eq!(root["adapter"]["rank_pattern"]["model.layers.0"].as_integer(), Some(4));
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        let error = apply(&mut Table::new(), "training.max_steps").unwrap_err();
        assert!(error.contains("has no `=`"), "{error}");
        let error = apply(&mut Table::new(), "max steps=3").unwrap_err();
        assert!(error.contains("`max steps` is not a key"), "{error}");
    }
}
