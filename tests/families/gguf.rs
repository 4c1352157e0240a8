//! GGUF files of the same models: weights and configuration are those of Hugging Face's.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use llama_burn::{Generate, GenerateOptions, GgufType, Input, Llama, Text, merge_into_gguf, save_lora_gguf};
use peft_burn::{AdapterFiles, PeftModel};
use peft_burn_workspace::{assert_close, device, fixtures, python_with, run_script_with, tensors};
use rstest::rstest;

use super::support::Case;

#[rstest]
fn logits_are_those_of_the_model(
    #[files("tests/fixtures/gguf/*.gguf")]
    #[exclude("types|tokenizer|small")]
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

/// A written file is read back as the same model; a model that llama.cpp does not know is refused.
#[rstest]
fn a_model_goes_there_and_back(#[files("tests/fixtures/families/*/config.json")] config: PathBuf) {
    let case = Case::of(&config);
    let dir = tempfile::tempdir().unwrap();
    let name = case.folder.file_name().unwrap().to_str().unwrap();
    let path = |kind: GgufType| dir.path().join(format!("{kind:?}.gguf"));
    let write = |kind: GgufType| merge_into_gguf(&case.folder, None, path(kind), kind, &device());
    let unknown = match name {
        "qwen2" => Some("heads that are 40 wide together"),
        "qwen2_dynamic" => Some("no `dynamic` scaling"),
        // Its scale follows from the size of the model.
        "gemma2" | "gemma3_text" => Some("the scale of its attention"),
        "qwen3" => Some("runs no qwen3 with the bias blk.0.attn_output.bias and 2 more"),
        "phi3" => Some("runs no phi3 with heads that are 40 wide together beside a hidden_size of 24"),
        "olmo2" => Some("runs no olmo2 with heads that are 40 wide"),
        _ => None,
    };
    if let Some(unknown) = unknown {
        let error = write(GgufType::F32).unwrap_err().to_string();
        assert!(error.contains(unknown), "{error}");
        assert!(!path(GgufType::F32).exists());
        return;
    }
    for kind in GgufType::ALL.map(|(_, kind)| kind) {
        let warnings = write(kind).unwrap().warnings;
        // llama.cpp has a key for it, and does not use it.
        let said = warnings.iter().any(|said| said.contains("the sliding window of a"));
        assert_eq!(said, name == "mistral", "{warnings:?}");
        let logits =
            Llama::from_dir(path(kind), Some(FloatDType::F32), &device()).unwrap().forward(&case.input()).into_data();
        let tolerance = match kind {
            GgufType::F32 => 1e-5,
            GgufType::Bf16 => 0.1,
            _ => 0.02,
        };
        assert_close(&format!("{kind:?}"), &logits, &case.expected["logits"], tolerance);
        assert!(write(kind).unwrap_err().to_string().contains("exists already"));
    }
    // gguf-py reads the same tensors as from the file that it wrote itself.
    let theirs = fixtures().join("gguf").join(format!("{name}.gguf"));
    let Some(python) = python_with(&["gguf", "torch"]).filter(|_| theirs.exists()) else { return };
    let read = |file: &Path, out: &str| {
        let out = dir.path().join(out);
        run_script_with(&python, "gguf_cases.py", &["read".as_ref(), file.as_os_str(), out.as_os_str()]);
        tensors(&out)
    };
    let (ours, theirs) = (read(&path(GgufType::F32), "ours"), read(&theirs, "theirs"));
    assert!(ours.keys().eq(theirs.keys()), "{:?} {:?}", ours.keys(), theirs.keys());
    for (name, values) in &ours {
        assert_close(name, values, &theirs[name], 1e-6);
    }
}

/// A LoRA as llama.cpp adds it: alpha over rank times B·A, on the weights of the model's GGUF file.
#[rstest]
fn a_lora_is_written_for_the_file_of_its_model(
    #[values("mistral", "gemma", "phi3_longrope", "smollm3", "granite")] name: &str,
) {
    let Some(python) = python_with(&["gguf", "torch"]) else { return };
    let case = Case::named(name);
    let dir = tempfile::tempdir().unwrap();
    let mut model = case.model();
    model.load_adapter(case.folder.join("lora"), "default", false).unwrap();
    let written = dir.path().join("lora.gguf");
    save_lora_gguf(&model, "default", &written).unwrap();
    let read = |file: &Path, out: &str| {
        let out = dir.path().join(out);
        run_script_with(&python, "gguf_cases.py", &["read".as_ref(), file.as_os_str(), out.as_os_str()]);
        tensors(&out)
    };
    let (lora, base) = (read(&written, "lora"), read(&fixtures().join("gguf").join(format!("{name}.gguf")), "base"));
    model.merge_and_unload(true).unwrap();
    let merged = dir.path().join("merged");
    model.save(&merged, None).unwrap();
    let both = dir.path().join("merged.gguf");
    merge_into_gguf(&merged, None, &both, GgufType::F32, &device()).unwrap();
    let both = read(&both, "both");
    let pairs = lora.keys().filter_map(|key| key.strip_suffix(".lora_a")).collect::<Vec<_>>();
    assert!(!pairs.is_empty() && 2 * pairs.len() == lora.len());
    let matrix = |data: &TensorData| Tensor::<2>::from_data(data.clone(), &Device::flex());
    for weight in pairs {
        let [a, b] = ["a", "b"].map(|end| matrix(&lora[&format!("{weight}.lora_{end}")]));
        // The adapter's alpha is 6, and its rank 3.
        let sum = matrix(&base[weight]) + b.matmul(a) * 2.0;
        assert_close(weight, &sum.into_data(), &both[weight], 1e-5);
    }
    let mut other = case.model();
    other.load_adapter(case.folder.join("second"), "default", false).unwrap();
    let error = save_lora_gguf(&other, "default", dir.path().join("no.gguf")).unwrap_err().to_string();
    assert!(error.contains("merge the adapter into its model"), "{error}");
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
