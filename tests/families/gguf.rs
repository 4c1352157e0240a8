//! GGUF files of the same models: weights and configuration are those of Hugging Face's.

use std::ops::ControlFlow;
use std::path::PathBuf;

use llama_burn::{Generate, GenerateOptions, Input, Llama, Text};
use peft_burn_workspace::{assert_close, device, python_with, run_script_with, tensors};
use rstest::rstest;

use super::support::Case;

#[rstest]
fn logits_are_those_of_the_model(
    #[files("tests/fixtures/gguf/*.gguf")]
    #[exclude("types|tokenizer")]
    file: PathBuf,
) {
    let case = Case::named(file.file_stem().unwrap().to_str().unwrap());
    let (model, expected) = (Llama::from_dir(&file, None, &device()).unwrap(), case.model());
    assert_eq!(model.config().model_type, expected.config().model_type);
    for (name, values) in expected.named_weights() {
        let found = model.named_weights().into_iter().find(|(found, _)| *found == name).unwrap().1;
        // 1 + w - 1 is not always w.
        assert_close(&name, &found, &values, if name.ends_with("norm.weight") { 1e-6 } else { 0.0 });
    }
    assert_close("logits", &model.forward(&case.input()).into_data(), &case.expected["logits"], 1e-5);
}

/// The texts of `tests/python/families.py`.
const TEXTS: [&str; 4] = [
    "The first snow fell early this year, and",
    "def add(a, b):\n    return a +  b  # 12345\n\n",
    "Grüße aus 東京! 🙂 it's they're",
    "  two spaces,\ttabs\r\n and\n\n\nlines",
];

/// Every file in the folder that `PEFT_GGUF` names, if it is set: ids, logits and greedy text are those of Transformers, which
/// reads the same file.
#[test]
fn real_files_are_what_transformers_makes_of_them() {
    let Some(folder) = std::env::var_os("PEFT_GGUF") else { return };
    let python = python_with(&["gguf", "torch", "transformers"]).unwrap();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "gguf")).collect();
    assert!(!files.is_empty());
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let out = dir.path().join("out.safetensors");
        run_script_with(&python, "families.py", &["gguf".as_ref(), file.as_os_str(), out.as_os_str()]);
        let theirs = tensors(&out);
        let text = Text::from_dir(&file).unwrap().unwrap();
        for (i, said) in TEXTS.iter().enumerate() {
            let ids = text.tokenizer.encode(said, true).unwrap();
            let expected: Vec<u32> = theirs[&format!("ids.{i}")].iter::<i64>().map(|id| id as u32).collect();
            assert_eq!(ids, expected, "{name}: {said:?}");
            assert_eq!(text.tokenizer.decode(&ids, true).unwrap(), *said, "{name}");
        }
        let model = Llama::from_dir(&file, None, &device()).unwrap();
        let prompt = text.tokenizer.encode(TEXTS[0], true).unwrap();
        let logits = model.forward(&Input::from_rows(std::slice::from_ref(&prompt), &device())).into_data();
        assert_close(&name, &logits, &theirs["logits"], 1e-4);
        let options = GenerateOptions { max_new_tokens: 24, stop: text.stop.ids().to_vec(), ..Default::default() };
        let made = model.generate(&[prompt], &options, |_, _| ControlFlow::Continue(())).unwrap().remove(0);
        let expected: Vec<u32> = theirs["generated"].iter::<i64>().map(|id| id as u32).collect();
        assert_eq!(made, expected[..made.len()], "{name}: {:?}", text.tokenizer.decode(&made, true));
        assert!(!made.is_empty());
        eprintln!("{name}: {:?}", text.tokenizer.decode(&made, true).unwrap());
    }
}
