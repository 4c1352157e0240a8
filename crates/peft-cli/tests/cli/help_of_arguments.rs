//! The `help:` line under an error about arguments, followed: then the command goes well.

use std::path::{Path, PathBuf};

use crate::support::{Place, fixtures, glassllm, helps};

fn case(name: &str) -> PathBuf {
    fixtures().join("adapters").join(name)
}

#[test]
fn of_models_and_where_they_compute() {
    let place = Place::new();
    let generate = |more: &str| {
        place.run(&format!("generate --model {} --prompt Alice --max-new-tokens 2 {more}", glassllm().display()))
    };
    let help = "give it with --quantization nf4 or fp4, or leave it out";
    let eight = "--quantization int8 --double-quantization";
    helps(&generate(eight), "--double-quantization is for the 4-bit formats", &[help]);
    for more in
        ["--double-quantization --quantization nf4", "--double-quantization --quantization fp4", "--quantization int8"]
    {
        assert_eq!(generate(more).code, 0, "{more}");
    }
    if cfg!(not(feature = "rocm")) {
        helps(&generate("--device rocm"), "rocm", &["build it with the Cargo feature `rocm`, or use the device cpu"]);
    }
    let unknown = generate("--device gpu");
    assert!(unknown.code == 2 && unknown.err.contains("cpu, cuda"), "{}", unknown.err);
    assert_eq!(generate("--device cpu").code, 0);

    let quantize =
        |to: &str| place.run(&format!("quantize --model {} --output {to} --quantization {to}", glassllm().display()));
    let help = "give nf4, fp4 or int8; a packed model becomes dense by `peft merge`";
    helps(&quantize("none"), "packs nothing", &[help]);
    for kind in ["nf4", "fp4", "int8"] {
        assert_eq!(quantize(kind).code, 0);
    }
    place.ok("train run.toml --set training.max_steps=1");
    place.ok("merge --model nf4 --adapter run/adapter --output dense");
    let bits = |folder: &str| std::fs::metadata(place.path(folder).join("model.safetensors")).unwrap().len();
    assert!(bits("dense") > 2 * bits("nf4"));
}

#[test]
fn of_merging_and_looking() {
    let place = Place::new();
    place.ok("train run.toml --set training.max_steps=1");
    let model = glassllm().display().to_string();
    let merge = |more: &str| place.run(&format!("merge --model {model} {more}"));
    assert_eq!(merge("--output a --adapter run/adapter").code, 0);
    let both = "--adapter run/adapter --output b --gguf f16 --quantization nf4";
    helps(&merge(both), "each say how weights are stored", &["give one of them; --gguf q4_k_m is 4 bits too"]);
    assert_eq!(merge("--adapter run/adapter --output c --quantization nf4").code, 0);

    helps(&place.run("inspect run"), "is a run's folder", &["look at its adapter: peft inspect run/adapter"]);
    place.ok("inspect run/adapter");
    let inspect = format!("inspect {model} --model {model}");
    helps(&place.run(&inspect), "--model is for adapters", &["give an adapter's directory, or leave --model out"]);
    place.ok(&format!("inspect run/adapter --model {model}"));
    place.ok(&format!("inspect {model}"));
}

#[test]
fn of_converting() {
    let place = Place::new();
    let checkpoints = fixtures().join("checkpoints");
    let (base, tuned) = (checkpoints.join("tied"), checkpoints.join("tuned"));
    let (base, tuned) = (base.display(), tuned.display());
    let extract = format!("convert --from-model {tuned} --model {base} --rank 4 --output");
    helps(&place.run(&format!("{extract} b --to peft")), "--to peft is for adapters", &["leave --to out"]);
    let gguf = place.run(&format!("{extract} b --to gguf"));
    helps(&gguf, "--to gguf is for adapters", &["leave --to out, and convert what it writes"]);
    place.ok(&format!("{extract} b"));
    place.ok(&format!("convert --to peft b --output c --model {base}"));

    let other = format!("convert --from-model {tuned} --model {} --rank 4 --output d", glassllm().display());
    let help = "give the model that the tuned one was made from; no adapter can hold these";
    helps(&place.run(&other), "compute otherwise", &[help]);

    let rewrite = format!("convert --to peft {} --output e", case("mlx_lora").display());
    helps(&place.run(&format!("{rewrite} --rank 2")), "--to peft keeps every rank", &["leave --rank out"]);
    place.ok(&rewrite);
    let again = place.run(&rewrite);
    helps(&again, "exists already", &["choose another --output, or remove it first; nothing was written"]);
    place.ok(&format!("{rewrite}2"));
}

#[test]
fn of_measuring() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    let dry = |method: &str| place.run(&format!("bench --dry-run --model {model} --method {method}"));
    helps(&dry("base_forward"), "--dry-run is for training", &["give one of the adapter methods, such as lora"]);
    assert_eq!(dry("lora").code, 0);

    let packed = "--set model.quantization=nf4 --set model.double_quantization=true";
    let least = "--set data.max_length=2 --set training.per_device_train_batch_size=1";
    let limit = place.ok(&format!("estimate run.toml --json {least} {packed}")).json()["total"].as_u64().unwrap();
    let estimate = |more: &str| place.run(&format!("estimate run.toml --memory {limit}B {more}"));
    let help = "set model.quantization = \"nf4\" and model.double_quantization = true, or take a smaller model";
    helps(&estimate(""), "the weights and the adapter alone do not fit", &[help]);
    let followed = estimate(packed);
    assert_eq!(followed.code, 0, "{}", followed.err);
}

#[test]
fn of_the_quickstart() {
    let place = Place::new();
    let quickstart = |more: &str| place.run(&format!("quickstart --max-steps 1 {more}"));
    place.copy_model("model");
    std::fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    helps(&quickstart("--output a --model ./model"), "the model has no tokenizer", &["give one that has"]);
    std::fs::copy(glassllm().join("tokenizer.json"), place.path("model/tokenizer.json")).unwrap();
    let said = quickstart("--output a --overwrite --model ./model");
    assert_eq!(said.code, 0, "{}", said.err);
}

/// Missing arguments are told by the parser of arguments, with what is missing, before these would be.
const BY_THE_PARSER: [&str; 4] = [
    "give its folder: --adapter DIR",
    "give its folder, or --from-model",
    "`peft bench --help` shows an example",
    "see --help",
];

#[test]
fn of_what_is_missing() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    place.ok("train run.toml --set training.max_steps=1");
    let plain = case("plain").display().to_string();
    let base = case("base").display().to_string();
    for (line, missing, followed) in [
        (
            format!("merge --model {model} --output a"),
            "--adapter <DIR>",
            format!("merge --model {model} --output a --adapter run/adapter"),
        ),
        ("convert --output b".to_owned(), "<ADAPTER>", format!("convert --to lora {plain} --model {base} --output b")),
        (
            "bench".to_owned(),
            "--method <METHOD>",
            format!("bench --model {model} --method lora --steps 1 --warmup 0 --batch 1 --seq 8 --prompt 4"),
        ),
        ("quickstart --method lore".to_owned(), "lora, dora", "quickstart --method lora --max-steps 1".to_owned()),
    ] {
        let said = place.run(&line);
        assert!(said.code == 2 && said.err.contains(missing), "{line}: {}", said.err);
        place.ok(&followed);
    }
}

/// Every help line that the program can print is named in a test.
#[test]
fn every_help_line_has_a_test() {
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let read = |folder: &str| {
        let mut found = Vec::new();
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
        found.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>()
    };
    // A string over several lines is one.
    let joined = |text: &str| text.split("\\\n").map(str::trim_start).collect::<String>();
    let tests: String = read("tests").iter().map(|text| joined(text)).collect();
    let (mut lines, mut missing) = (0, Vec::new());
    for source in read("src") {
        let source = joined(source.split("#[cfg(test)]").next().unwrap());
        let failures =
            source.split("Failure::new(").skip(1).filter_map(|call| strings(arguments(call)).last().cloned());
        let ways_out = source
            .split("_way_out(error: &")
            .skip(1)
            .flat_map(|function| strings(function.split_once("\n}").map_or(function, |(function, _)| function)));
        for help in failures.chain(ways_out) {
            lines += 1;
            // Some name a folder, which the tests know by another name.
            let help = help.split('{').next().unwrap().trim_end_matches('`').to_owned();
            let begin: String = help.chars().take(20).collect();
            if !BY_THE_PARSER.contains(&help.as_str()) && !tests.contains(&begin) {
                missing.push(help);
            }
        }
    }
    assert!(lines > 40, "{lines}");
    assert!(missing.is_empty(), "no test follows:\n{}", missing.join("\n"));
}

/// The arguments of a call, up to the bracket that ends them.
fn arguments(call: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in call.char_indices() {
        match (c, quoted) {
            _ if escaped => escaped = false,
            ('\\', true) => escaped = true,
            ('"', _) => quoted = !quoted,
            ('(', false) => depth += 1,
            (')', false) if depth == 0 => return &call[..at],
            (')', false) => depth -= 1,
            _ => {}
        }
    }
    call
}

/// The string literals of a piece of code, as they are written.
fn strings(code: &str) -> Vec<String> {
    let (mut all, mut rest) = (Vec::new(), code);
    while let Some((_, after)) = rest.split_once('"') {
        let mut end = 0;
        while !after[end..].starts_with('"') {
            end += if after[end..].starts_with('\\') { 2 } else { after[end..].chars().next().unwrap().len_utf8() };
        }
        all.push(after[..end].to_owned());
        rest = &after[end + 1..];
    }
    all
}
