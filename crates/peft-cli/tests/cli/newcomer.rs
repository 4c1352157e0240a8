//! The files of a newcomer: a Parquet file of ShareGPT chats, a checkpoint with a `.bin`, and an adapter that PEFT trained with a resized
//! vocabulary. It is measured, trained on and merged, and Transformers opens the result with the same loss.

use crate::support::Place;

#[test]
fn a_newcomers_files_are_trained_on_and_merged_into_what_transformers_opens() {
    let Some(python) = peft_burn_workspace::python_with(&["peft", "torch", "transformers", "pandas"]) else { return };
    let place = Place::new();
    place.write("work/notes.txt", "");
    let work = place.path("work");
    peft_burn_workspace::run_script(&python, "newcomer.py", &work);
    let said = |name: &str| serde_json::from_slice::<f64>(&place.read(&format!("work/{name}"))).unwrap();
    let rows = work.join("rows.parquet");
    let loss = place.loss(&work.join("base"), Some(&work.join("adapter")), &rows);
    assert!((loss - said("before.json")).abs() < 1e-5, "{loss}, and PEFT has {}", said("before.json"));

    place.write(
        "more.toml",
        "output = \"run\"\n[model]\npath = \"work/base\"\n[adapter]\nfrom = \"work/adapter\"\n[data]\n\
         train = \"work/rows.parquet\"\n[training]\nmax_steps = 5\nlearning_rate = 5e-3\nper_device_train_batch_size = 3\n",
    );
    place.ok("train more.toml");
    let trained = place.loss(&work.join("base"), Some(&place.path("run/adapter")), &rows);
    assert!(trained < loss - 0.5, "{loss} to {trained}");
    place.ok("merge --model work/base --adapter run/adapter --output work/merged");
    let merged = place.loss(&work.join("merged"), None, &rows);
    assert!((merged - trained).abs() < 1e-5, "{merged} and {trained}");
    peft_burn_workspace::run_script(&python, "newcomer.py", &work);
    assert!((said("after.json") - trained).abs() < 1e-5, "{trained}, and Transformers has {}", said("after.json"));
}
