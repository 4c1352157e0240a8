//! Adapters in memory, and out of it.

use std::sync::Arc;
use std::time::Instant;

use peft_serve::{LoadOptions, ServeError, State, StoreConfig, StoreUse};

use crate::support::{lease, store_over, write_adapters};

#[test]
fn ten_thousand_names_are_registered_in_a_second() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..10_000 {
        let dir = folder.path().join(format!("a{i}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("adapter_config.json"), r#"{"peft_type": "VERA"}"#).unwrap();
    }
    let store = store_over(folder.path(), StoreConfig::default());
    let begun = Instant::now();
    assert_eq!(store.refresh(), 10_000);
    assert!(begun.elapsed().as_secs_f64() < 1.0, "{:?}", begun.elapsed());
}

#[test]
fn who_holds_an_adapter_keeps_it_through_replacing_and_unloading() {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path());
    let store = store_over(folder.path(), StoreConfig::default());
    let held = lease(&store, "lora");
    assert!(Arc::ptr_eq(held.pack(), lease(&store, "lora").pack()));
    let bytes = held.num_bytes();
    assert_eq!((held.generation(), store.used_bytes()), (1, bytes));
    let in_place = LoadOptions { in_place: true, ..LoadOptions::default() };
    let now = store.load("lora", "dora", &in_place).unwrap();
    assert_eq!((now.generation, now.leases), (2, 0));
    assert!(!Arc::ptr_eq(held.pack(), lease(&store, "lora").pack()));
    // Both count until the old one is let go.
    assert_eq!(store.used_bytes(), bytes + now.bytes);
    drop(held);
    assert_eq!(store.used_bytes(), now.bytes);
    let held = lease(&store, "lora");
    store.unload("lora").unwrap();
    assert!(matches!(store.lease("lora", None), StoreUse::Failed(ServeError::UnknownModel(_))));
    assert_eq!(store.used_bytes(), now.bytes);
    drop(held);
    assert_eq!(store.used_bytes(), 0);
    assert_eq!(store.refresh(), 5);
}

#[test]
fn the_one_that_was_not_asked_for_the_longest_goes_and_pins_and_leases_stay() {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path());
    let sizes = store_over(folder.path(), StoreConfig::default());
    let of = |name: &str| lease(&sizes, name).num_bytes();
    let memory = of("lora") + of("ia3") + of("vera") + of("dora") / 2;
    let store = store_over(folder.path(), StoreConfig { memory, ..StoreConfig::default() });
    let state = |name: &str| store.info(name).unwrap().state;
    for name in ["lora", "ia3", "vera"] {
        lease(&store, name);
    }
    lease(&store, "lora");
    // Room for half of it is there: ia3 and vera are older than lora, and together too small.
    lease(&store, "dora");
    assert_eq!(state("ia3"), State::Registered);
    assert!(store.used_bytes() <= memory);
    let memory = of("lora") + of("dora") + of("dora") / 2;
    let store = store_over(folder.path(), StoreConfig { memory, ..StoreConfig::default() });
    let state = |name: &str| store.info(name).unwrap().state;
    store.load("mine", "lora", &LoadOptions { pinned: true, ..LoadOptions::default() }).unwrap();
    let held = lease(&store, "dora");
    let mut asked = None;
    let refused = loop {
        match store.lease("adalora", asked) {
            StoreUse::Loading(number) => asked = Some(number),
            StoreUse::Failed(error) => break error,
            other => panic!("there was no room: {other:?}"),
        }
        std::thread::yield_now();
    };
    assert!(matches!(refused, ServeError::NoRoom { temporary: true, .. }), "{refused}");
    drop(held);
    lease(&store, "adalora");
    assert_eq!((state("mine"), state("dora")), (State::Resident, State::Registered));
}

#[test]
fn the_same_files_are_the_same_generation_and_other_files_another() {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path());
    let store = store_over(folder.path(), StoreConfig::default());
    lease(&store, "ia3");
    store.clear();
    assert_eq!(lease(&store, "ia3").generation(), 1);
    store.clear();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let file = folder.path().join("ia3/adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(lease(&store, "ia3").generation(), 2);
}
