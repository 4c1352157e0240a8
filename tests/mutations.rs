//! Readers of files against mutated files: each gives an error or a result, and never panics.
//!
//! `MUTATIONS=N cargo test --test mutations` tries N mutations of each kind of file instead of a few hundred, `MUTATIONS_OF`
//! names one kind, and `MUTATIONS_SEED` begins elsewhere.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use peft_burn_workspace::readers::{READERS, Reader, seeds};
use rstest::rstest;

/// Values that readers are prone to take at their word.
const WORDS: &[&str] = &[
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "4294967296",
    "-1",
    "-9223372036854775808",
    "0",
    "1e308",
    "1e-308",
    "1e999",
    "0.5",
    "null",
    "true",
    "false",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "é😀",
    "..",
    "/",
    "*",
    "(",
    "[a-",
    "(?i)",
    "nan",
    "inf",
    ",",
    ":",
    "\"",
    "\n",
    "{{",
    "}}",
    "{%",
    "%}",
    "{% for x in y %}",
    "-inf",
    "NaN",
    "Infinity",
    "__metadata__",
    "data_offsets",
];

/// A generator of numbers that is the same everywhere (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// The bounds of the number, word or string that byte `at` is in.
fn token(bytes: &[u8], at: usize) -> std::ops::Range<usize> {
    let inside = |b: &u8| b.is_ascii_alphanumeric() || b"._+-".contains(b);
    let start = bytes[..at].iter().rposition(|b| !inside(b)).map_or(0, |i| i + 1);
    let end = bytes[at..].iter().position(|b| !inside(b)).map_or(bytes.len(), |i| at + i);
    start..end.max(start)
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        // Heads of files are where their meaning is.
        let reach = if numbers.below(2) == 0 { bytes.len().min(512) } else { bytes.len() };
        let at = numbers.below(reach);
        let span = at..(at + 1 + numbers.below(24)).min(bytes.len());
        let word = WORDS[numbers.below(WORDS.len())].as_bytes();
        match numbers.below(9) {
            _ if bytes.is_empty() => bytes.extend(word),
            0 => bytes[at] = numbers.next() as u8,
            1 => bytes[at] ^= 1 << numbers.below(8),
            2 => drop(bytes.drain(span)),
            3 => drop(bytes.splice(at..at, word.iter().copied())),
            4 | 5 => {
                let token = token(bytes, at);
                bytes.splice(token, word.iter().copied());
            }
            6 => {
                let copy = bytes[span].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            7 => {
                let from = numbers.below(other.len());
                let part = other[from..(from + 64).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(at),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn check(reader: &Reader, rounds: u64) {
    if std::env::var("MUTATIONS_OF").is_ok_and(|name| name != reader.name) {
        return;
    }
    let rounds = number("MUTATIONS").unwrap_or(rounds);
    let mut numbers = Numbers(number("MUTATIONS_SEED").unwrap_or(1));
    let seeds = seeds(reader);
    let dir = tempfile::tempdir().unwrap();
    for seed in &seeds {
        // The files themselves, so that the test tests something.
        (reader.read)(seed, tempfile::tempdir().unwrap().path());
    }
    for round in 0..rounds {
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        let other = &seeds[numbers.below(seeds.len())];
        mutate(&mut bytes, other, &mut numbers);
        let place = dir.path().join(round.to_string());
        std::fs::create_dir(&place).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| (reader.read)(&bytes, &place)));
        std::fs::remove_dir_all(&place).unwrap();
        if result.is_err() {
            let kept = std::env::temp_dir().join(format!("mutation-of-{}-{round}", reader.name));
            std::fs::write(&kept, &bytes).unwrap();
            panic!("the reader of {} panics in round {round}; the file is {}", reader.name, kept.display());
        }
    }
}

#[rstest]
#[case("safetensors", 400)]
#[case("torch", 200)]
#[case("adapter", 100)]
#[case("adapter_config", 300)]
#[case("config", 400)]
#[case("tokenizer", 60)]
#[case("tokenizer_config", 60)]
#[case("gguf", 300)]
#[case("index", 60)]
#[case("template", 200)]
#[case("rows", 200)]
#[case("csv", 200)]
#[case("run_config", 400)]
#[case("trainer_state", 200)]
#[case("metrics", 200)]
fn mutated_files_are_read_or_refused(#[case] name: &str, #[case] rounds: u64) {
    check(&peft_burn_workspace::readers::reader(name), rounds);
}

/// With `FUZZ_CORPUS=FOLDER` it also writes there what the fuzz targets begin with.
#[test]
fn every_reader_is_tried() {
    let source = include_str!("mutations.rs");
    let targets = include_str!("fuzz/Cargo.toml");
    for Reader { name, .. } in READERS {
        assert!(source.contains(&format!("#[case(\"{name}\"")), "{name}");
        assert!(targets.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    let Some(folder) = std::env::var_os("FUZZ_CORPUS").map(std::path::PathBuf::from) else { return };
    for reader in READERS {
        let folder = folder.join(reader.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (at, seed) in seeds(reader).into_iter().enumerate() {
            std::fs::write(folder.join(at.to_string()), seed).unwrap();
        }
    }
}
