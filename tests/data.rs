//! Rows as people have them: tokens, labels and losses are those of TRL's SFTTrainer and Transformers
//! (`tests/python/data_cases.py`), whatever file the rows come in.

#![allow(clippy::result_large_err)] // of tests, which fail at the first
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "data/tables.rs"]
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use peft_learner::base::Base;
use peft_learner::config::RunConfig;
use peft_learner::data::{
    DataCache, DataFile, Example, Examples, IGNORE_INDEX, Part, Prepared, RowOptions, Stream, StreamConfig,
    UNSEEN_INDEX,
};
use peft_learner::evaluate::evaluate;
use peft_learner::from_config::ConfiguredRun;
use peft_learner::report::Metrics;
use peft_learner::train::Existing;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Expected {
    cases: Vec<Case>,
    formats: BTreeMap<String, Vec<String>>,
    packing: Packing,
    losses: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    file: String,
    overlay: Option<String>,
    options: Value,
    loss: f64,
    ids: Vec<Vec<u32>>,
    labels: Vec<Vec<i32>>,
    masks: Option<Vec<Vec<u8>>>,
}

#[derive(Deserialize)]
struct Packing {
    rows: Vec<BTreeMap<String, Vec<u32>>>,
    max_length: usize,
    packed: Vec<Vec<usize>>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data")
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(fixtures().join("cases.json")).unwrap()).unwrap()
}

/// The small world with the files of the folder `overlay` in the place of its own.
fn model(overlay: Option<PathBuf>, folder: &Path) {
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/world");
    for source in [Some(world), overlay].into_iter().flatten() {
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "json" || end == "safetensors") {
                std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

fn base(overlay: Option<&str>) -> Base {
    base_with(overlay.map(|overlay| fixtures().join("overlays").join(overlay)))
}

fn base_with(overlay: Option<PathBuf>) -> Base {
    let folder = tempfile::tempdir().unwrap();
    model(overlay, folder.path());
    let load = Some(burn::tensor::FloatDType::F32);
    Base::load(folder.path().to_str().unwrap(), load, &Device::flex()).unwrap()
}

/// One for each overlay.
struct Bases(BTreeMap<Option<String>, Base>);

impl Bases {
    fn of(&mut self, case: &Case) -> &Base {
        self.0.entry(case.overlay.clone()).or_insert_with(|| base(case.overlay.as_deref()))
    }
}

fn prepare(base: &Base, case: &Case, file: &str) -> peft_learner::Result<Prepared> {
    let mut options = case.options.clone();
    let max_length = options.as_object_mut().unwrap().remove("max_length").and_then(|max| max.as_u64());
    let rows: RowOptions = serde_json::from_value(options).unwrap();
    let preparation = base.preparation(max_length.map_or(usize::MAX, |max| max as usize)).rows(rows);
    preparation.sources(&[fixtures().join(file).into()], Part::Train)
}

/// Ids and labels without what `attention_mask` hides, and with the first label ignored: it is never a target.
fn meant(case: &Case) -> Vec<(Vec<u32>, Vec<i32>)> {
    let row = |at: usize| {
        let seen = |place: &usize| case.masks.as_ref().is_none_or(|masks| masks[at][*place] == 1);
        let places: Vec<usize> = (0..case.ids[at].len()).filter(seen).collect();
        let from_padding = places[0] > 0 && case.labels[at][places[0]] != IGNORE_INDEX;
        let places: Vec<usize> = from_padding.then(|| places[0] - 1).into_iter().chain(places).collect();
        let labels = places.iter().map(|&place| case.labels[at][place]);
        plain(Example {
            input_ids: places.iter().map(|&place| case.ids[at][place]).collect(),
            labels: labels.collect(),
        })
    };
    (0..case.ids.len()).map(row).collect()
}

fn plain(example: Example) -> (Vec<u32>, Vec<i32>) {
    let Example { input_ids, mut labels } = example;
    labels[0] = IGNORE_INDEX;
    (input_ids, labels)
}

#[test]
fn tokens_labels_and_losses_are_those_of_trl_and_transformers() {
    let (mut bases, mut wrong) = (Bases(BTreeMap::new()), Vec::new());
    for case in expected().cases {
        let base = bases.of(&case);
        let prepared = match prepare(base, &case, &case.file) {
            Ok(prepared) => prepared,
            Err(error) => {
                wrong.push(format!("{}: {error}", case.name));
                continue;
            }
        };
        let examples = prepared.examples.to_vec().unwrap();
        let found: Vec<_> = examples.iter().cloned().map(plain).collect();
        if found != meant(&case) {
            wrong.push(format!("{}:\n  {found:?}\n  {:?}", case.name, meant(&case)));
            continue;
        }
        let loss = evaluate(&base.model, &examples, 4, base.pad_id(), |_| {}).unwrap().loss;
        // Not `>`: NaN is wrong too.
        if loss.is_nan() || (loss - case.loss).abs() > 1e-5 {
            wrong.push(format!("{}: loss {loss}, and {} there", case.name, case.loss));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that users reported trouble with: targets, and the loss that Transformers 5.23 gives.
#[test]
fn files_that_users_had_trouble_with_are_read_as_they_mean() {
    let people = fixtures().with_file_name("people");
    for (overlay, file, targets, loss) in [
        (None, "weight.jsonl", 3, None),
        (None, "left_padded.jsonl", 108, Some(7.88319)),
        (Some("eos_in_map"), "eos_row.jsonl", 2, None),
        (Some("gentag"), "simple.jsonl", 2, None),
        (Some("think"), "simple.jsonl", 2, None),
        (Some("think"), "think.jsonl", 25, None),
        // Transformers in f64. In f32 it gives 11.897970 or 11.897986, by the machine's order of summation.
        (Some("spm"), "spm_row.jsonl", 2, Some(11.897_990)),
    ] {
        let base = base_with(overlay.map(|overlay| people.join(overlay)));
        let (examples, report) = base.examples(people.join(file), usize::MAX).unwrap();
        assert_eq!(report.target_tokens, targets, "{overlay:?} {file}");
        if let Some(expected) = loss {
            let found = evaluate(&base.model, &examples, 4, base.pad_id(), |_| {}).unwrap().loss;
            assert!((found - expected).abs() < 1e-5, "{overlay:?} {file}: {found}, and {expected} there");
        }
    }
}

#[test]
fn rows_are_the_same_in_every_format() {
    let (mut bases, mut wrong) = (Bases(BTreeMap::new()), Vec::new());
    let expected = expected();
    for (name, files) in &expected.formats {
        let case = expected.cases.iter().find(|case| case.name == *name).unwrap();
        let base = bases.of(case);
        let all = |file: &str| prepare(base, case, file).and_then(|prepared| prepared.examples.to_vec());
        let rows = all(&case.file).unwrap();
        for file in files {
            match all(file) {
                Ok(found) if found == rows => {}
                other => wrong.push(format!("{file}: {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_row_that_begins_with_padding_keeps_one_token_of_it() {
    let expected = expected();
    let case = expected.cases.iter().find(|case| case.name == "left_padded").unwrap();
    let examples = prepare(&base(None), case, &case.file).unwrap().examples.to_vec().unwrap();
    let first: Vec<i32> = examples.iter().map(|example| example.labels[0]).collect();
    assert_eq!(first, [UNSEEN_INDEX, IGNORE_INDEX], "the second row does not learn its first token");
}

#[test]
fn packed_rows_hold_what_trl_puts_into_them() {
    let Packing { rows, max_length, packed } = expected().packing;
    let example = |row: &BTreeMap<String, Vec<u32>>| Example {
        input_ids: row["input_ids"].clone(),
        labels: row["input_ids"].iter().map(|&id| id as i32).collect(),
    };
    let examples: Vec<Example> = rows.iter().map(example).collect();
    let config = StreamConfig {
        batch_size: 1,
        accumulation: packed.len(),
        shuffle: true,
        group_by_length: false,
        packing: true,
        max_length,
        pad_id: 0,
        seed: 1,
    };
    let stream = Stream::new(examples, config).unwrap();
    assert_eq!(stream.rows_per_epoch(), packed.len());
    let lengths = |segments: &[i32]| {
        let mut lengths: Vec<usize> =
            segments.chunk_by(|a, b| a == b).filter(|chunk| chunk[0] >= 0).map(<[i32]>::len).collect();
        lengths.sort_unstable();
        lengths
    };
    let mut found: Vec<_> =
        stream.step(0).unwrap().iter().map(|batch| lengths(batch.segments.as_ref().unwrap())).collect();
    let mut packed = packed;
    packed.iter_mut().for_each(|row| row.sort_unstable());
    found.sort();
    packed.sort();
    assert_eq!(found, packed);
}

#[test]
fn the_losses_of_the_first_steps_are_those_of_trl() {
    let folder = tempfile::tempdir().unwrap();
    let (model_dir, output) = (folder.path().join("model"), folder.path().join("run"));
    std::fs::create_dir(&model_dir).unwrap();
    model(None, &model_dir);
    let text = format!(
        "output = {output:?}\n[model]\npath = {model_dir:?}\n[adapter]\nfrom = {:?}\n[data]\ntrain = {:?}\nshuffle = false\n\
         [training]\nmax_steps = 8\nper_device_train_batch_size = 2\nlearning_rate = 1e-2\nlr_scheduler_type = 'constant'\n\
         weight_decay = 0.0\nmax_grad_norm = 1.0",
        fixtures().join("adapter"),
        fixtures().join("steps.jsonl"),
    );
    let config = RunConfig::parse("run.toml", &text, &[]).unwrap();
    let run = ConfiguredRun::load(&config, Existing::Refuse, &[Device::flex()], |_| {}).unwrap();
    let (_, report) = run.finetune.run(&output).unwrap();
    let train = |line: &Metrics| if let Metrics::Train(step) = line { Some(step.loss) } else { None };
    let losses: Vec<f64> = report.metrics.iter().filter_map(train).collect();
    let expected = expected().losses;
    assert_eq!(losses.len(), expected.len());
    for (step, (ours, theirs)) in losses.iter().zip(&expected).enumerate() {
        assert!((ours - theirs).abs() < 2e-4, "step {}: {ours} and {theirs}; all: {losses:?} {expected:?}", step + 1);
    }
}

#[test]
fn kept_tokens_are_used_again_and_made_again_where_they_are_broken() {
    let folder = tempfile::tempdir().unwrap();
    let (data, cache) = (folder.path().join("rows.jsonl"), folder.path().join("cache"));
    std::fs::copy(fixtures().join("pairs_world.jsonl"), &data).unwrap();
    let base = base(None);
    let kept = || -> Vec<PathBuf> {
        let files = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "tokens")).collect()
    };
    let prepare = |rows: RowOptions| {
        let preparation = base.preparation(64).rows(rows).cache(DataCache::Folder(cache.clone()));
        preparation.sources(&[data.clone().into()], Part::Train).unwrap()
    };
    let all = |examples: &Examples| examples.to_vec().unwrap();
    let first = prepare(RowOptions::default());
    let files = kept();
    let made = std::fs::metadata(&files[0]).unwrap().modified().unwrap();
    let again = prepare(RowOptions::default());
    assert_eq!(
        (all(&again.examples), &again.report, &again.digest),
        (all(&first.examples), &first.report, &first.digest)
    );
    assert_eq!((kept(), std::fs::metadata(&files[0]).unwrap().modified().unwrap()), (files.clone(), made));

    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    drop((first, again));
    std::fs::write(&files[0], &bytes).unwrap();
    let mended = prepare(RowOptions::default());
    assert_ne!(std::fs::read(&files[0]).unwrap(), bytes, "written again");
    assert_eq!(kept().len(), 1);

    let mut other = RowOptions::default();
    other.completion_only_loss = false;
    assert_ne!(prepare(other).digest, mended.digest);
    assert_eq!(kept().len(), 2, "other options, other tokens");
    let text = std::fs::read_to_string(&data).unwrap();
    std::fs::write(&data, text.replace("Larkhill", "Millford")).unwrap();
    assert_ne!(prepare(RowOptions::default()).digest, mended.digest);
    assert_eq!(kept().len(), 3, "other rows, other tokens");
}

#[test]
fn folders_weights_and_shares_make_up_what_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: std::ops::Range<u32>| {
        let rows: String = rows.map(|id| format!("{{\"input_ids\": [1, {id}]}}\n")).collect();
        std::fs::write(folder.path().join(name), rows).unwrap();
    };
    write("train-0.jsonl", 10..14);
    write("train-1.jsonl", 14..20);
    write("test.jsonl", 20..22);
    let base = base(None);
    let preparation = base.preparation(64);
    let ids = |examples: &Examples| examples.iter().map(|e| e.unwrap().input_ids[1]).collect::<Vec<_>>();
    let name = |name: &str| peft_learner::data::Source::from(folder.path().join(name));
    let whole = |part| preparation.sources(&[name("")], part).unwrap();
    assert_eq!(ids(&whole(Part::Train).examples), (10..20).collect::<Vec<_>>());
    assert_eq!(ids(&whole(Part::Valid).examples), [20, 21]);
    let twice = peft_learner::data::Source { weight: 2.0, ..name("test.jsonl") };
    let mixed = preparation.sources(&[name("train-0.jsonl"), twice], Part::Train).unwrap();
    assert_eq!(ids(&mixed.examples), [10, 11, 12, 13, 20, 21, 20, 21]);
    let mut train = whole(Part::Train);
    let valid = train.set_apart(0.3, 1).unwrap();
    let mut all = [ids(&train.examples), ids(&valid)].concat();
    assert_eq!((train.examples.len(), valid.len()), (7, 3));
    all.sort_unstable();
    assert_eq!(all, (10..20).collect::<Vec<_>>());
}

#[test]
fn warnings_and_refusals_are_followed_by_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(None);
    let prepare = |rows: &str, options: Value| {
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, rows).unwrap();
        let rows: RowOptions = serde_json::from_value(options).unwrap();
        base.preparation(usize::MAX).rows(rows).sources(&[path.into()], Part::Train)
    };
    let none = || serde_json::json!({});
    let warned = |rows: &str| prepare(rows, none()).unwrap().report.warnings().join("\n");
    assert!(warned("{\"input_ids\": [1, 5, 6]}").contains("no row teaches a token that ends a text"));
    assert_eq!(warned("{\"input_ids\": [1, 5, 6, 2]}"), "");
    assert!(
        warned("{\"text\": \"<bos><bos>a\"}").contains("1 rows begin with two beginning-of-text tokens") || {
            // This tokenizer adds none by itself.
            base.text.as_ref().unwrap().tokenizer.encode("a", true).unwrap()[0] != 1
        }
    );
    assert!(warned("{\"prompt\": \"Bring Em\", \"completion\": \"il\"}").contains("in 1 rows the tokens of prompt"));
    assert_eq!(warned("{\"prompt\": \"Bring\", \"completion\": \" Emil\"}"), "");

    let refused = |rows: &str, options: Value| prepare(rows, options).unwrap_err().to_string();
    let tools = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}], \"tools\": [{\"name\": \"f\"}]}";
    assert!(refused(tools, none()).contains("`tools` is not read by the model's chat template"));
    assert!(prepare(tools, serde_json::json!({"ignore": ["tools"]})).is_ok(), "the way out");
    let renamed = serde_json::json!({"columns": {"system": "sytem"}});
    let error = refused("{\"text\": \"a\"}", renamed);
    assert!(error.contains("no row has a column `sytem`, which `columns` names for `system`"), "{error}");
    let unused = "{\"text\": \"a\", \"id\": 1}\n{\"text\": \"b\"}\n{\"text\": \"c\", \"id\": null, \"url\": \"x\"}";
    let report = prepare(unused, none()).unwrap().report;
    assert!(report.describe("a.jsonl").ends_with("not used: id (in 1 rows), url (in 1 rows)"), "{report:?}");
    let every = refused(
        "{\"txt\": 1}\n{\"text\": \"a\"}\n{\"text\": 5}\n{\n[1]\n{\"prompt\": \"a\", \"completion\": \"b\"}\n",
        none(),
    );
    for part in [
        "rows.jsonl` has rows that cannot be used",
        "line 1: has `txt`, which fits no shape; known are input_ids · prompt + completion · messages · conversations",
        "line 3: `text` must be a string, not a number",
        "line 4: not JSON",
        "line 5: not a JSON object",
        "line 6: has prompt + completion, but line 2 has text; use one shape a file",
    ] {
        assert!(every.contains(part), "missing: {part}\nin: {every}");
    }
    let many = refused(&"{\"a\n".repeat(30), none());
    assert!(many.contains("line 20:") && !many.contains("line 21:") && many.contains("30 in all"), "{many}");
}

#[test]
fn a_pattern_is_not_read_when_no_name_fits() {
    let error = DataFile::open(fixtures().join("none.jsonl"), Part::Train).unwrap_err().to_string();
    assert!(error.starts_with("cannot open"), "{error}");
}

#[derive(Deserialize)]
struct Template {
    source: String,
    chats: Vec<TemplateChat>,
}

#[derive(Deserialize)]
struct TemplateChat {
    messages: Vec<serde_json::Map<String, Value>>,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    kwargs: serde_json::Map<String, Value>,
    /// Whether it ends with the generation prompt.
    prompt: bool,
    ids: Vec<u32>,
    mask: Option<Vec<u8>>,
}

/// The chat templates that TRL ships: ids are those of Transformers, and the mask too where the template has one. Where it has
/// none, all that the assistant says is learned, and nothing of what is asked.
#[test]
fn templates_render_and_mark_as_in_transformers() {
    use llama_burn::{Conversation, Message, Text};

    let Some(python) = peft_burn_workspace::python_with(&["trl", "transformers"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/world");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(world.join(name), folder.path().join(name)).unwrap();
    }
    peft_burn_workspace::run_script(&python, "trl_templates.py", folder.path());
    let templates = std::fs::read(folder.path().join("templates.json")).unwrap();
    let templates: BTreeMap<String, Template> = serde_json::from_slice(&templates).unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (name, Template { source, chats }) in templates {
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        let text = match Text::from_dir(folder.path()) {
            Ok(text) => text.unwrap(),
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (at, TemplateChat { messages, tools, kwargs, prompt, ids, mask }) in chats.into_iter().enumerate() {
            count += 1;
            let last = messages.last().unwrap()["content"].as_str().unwrap();
            let last = last.rsplit('\n').next().unwrap().to_string();
            let messages: Vec<Message> = messages.into_iter().map(Message).collect();
            let chat = Conversation { tools, template_kwargs: kwargs, ..Conversation::new(messages) };
            if prompt {
                match text.encode_chat_prompt(&chat) {
                    Ok(found) if found == ids => {}
                    found => wrong.push(format!("{name} {at}, with its prompt: {found:?}\n   {ids:?}")),
                }
                continue;
            }
            let found = match text.encode_chat(&chat) {
                Ok(found) => found,
                Err(error) => {
                    wrong.push(format!("{name} {at}: {error}"));
                    continue;
                }
            };
            if found.ids != ids {
                wrong.push(format!("{name} {at}: {:?}\n   {ids:?}", found.ids));
                continue;
            }
            let learned: Vec<u32> = ids.iter().zip(&found.targets).filter(|(_, on)| **on).map(|(id, _)| *id).collect();
            let said = text.tokenizer.decode(&learned, false).unwrap();
            match mask {
                Some(mask) if mask.iter().zip(&found.targets).any(|(a, b)| (*a == 1) != *b) => {
                    wrong.push(format!("{name} {at}: learns {said:?}"));
                }
                // Some of the templates leave a text out that is no list of parts.
                None if (!said.contains(&last) && text.tokenizer.decode(&ids, false).unwrap().contains(&last))
                    || ["why?", "and?", "where?", "Millford", "Ostwick"].iter().any(|word| said.contains(word)) =>
                {
                    wrong.push(format!("{name} {at}: learns {said:?} of a template without marks"));
                }
                _ => {}
            }
        }
    }
    assert!(count > 500, "{count} chats");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}
