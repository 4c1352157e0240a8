//! Generation against Transformers' own: a real, trained 0.85M Llama (`glassllm-en`, MIT).

use std::ops::ControlFlow;
use std::path::PathBuf;

use llama_burn::{Generate, GenerateOptions, Input, KvCache, Llama, SamplingConfig, Tokenizer};
use peft_burn_workspace::{assert_close, device, fixtures};

fn dir() -> PathBuf {
    fixtures().join("glassllm-en")
}

fn goldens() -> Vec<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(dir().join("golden.json")).unwrap()).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn greedy(model: &Llama, prompts: &[Vec<u32>], n: usize) -> Vec<Vec<u32>> {
    let options = GenerateOptions { max_new_tokens: n, ..GenerateOptions::default() };
    model.generate(prompts, &options, |_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn greedy_text_is_transformers() {
    let model = Llama::from_dir(dir(), None, &device()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir()).unwrap();
    for golden in goldens() {
        let prompt = tokenizer.encode(golden["text"].as_str().unwrap(), true).unwrap();
        assert_eq!(prompt, ids(&golden["ids"]));
        let text: Vec<u32> = [prompt.clone(), greedy(&model, &[prompt], 24).remove(0)].concat();
        assert_eq!(text, ids(&golden["greedy_24_ids"]));
        assert_eq!(tokenizer.decode(&text, true).unwrap(), golden["greedy_24_text"].as_str().unwrap());
    }
}

#[test]
fn a_batch_of_different_lengths_gives_what_each_prompt_gives_alone() {
    let model = Llama::from_dir(dir(), None, &device()).unwrap();
    let prompts: Vec<_> = goldens().iter().map(|g| ids(&g["ids"])).chain([vec![494]]).collect();
    let alone: Vec<_> = prompts.iter().map(|p| greedy(&model, std::slice::from_ref(p), 20).remove(0)).collect();
    assert_eq!(greedy(&model, &prompts, 20), alone);
}

#[test]
fn cached_logits_are_the_uncached() {
    let model = Llama::from_dir(dir(), None, &device()).unwrap();
    let prompt = ids(&goldens()[1]["greedy_24_ids"]);
    let whole = model.hidden(&Input::from_rows(std::slice::from_ref(&prompt), &device()), None);
    let mut cache = KvCache::new(model.config().num_hidden_layers);
    for (at, end) in [(0, 9), (9, 10), (10, 17), (17, prompt.len())] {
        let part = model.hidden(&Input::from_rows(&[prompt[at..end].to_vec()], &device()), Some(&mut cache));
        let expected = model.logits(whole.clone().slice([at..end]));
        assert_close("logits", &model.logits(part).into_data(), &expected.into_data(), 1e-5);
    }
}

#[test]
fn sampling_is_seeded_and_stop_tokens_end_a_text() {
    let model = Llama::from_dir(dir(), None, &device()).unwrap();
    let prompt = ids(&goldens()[0]["ids"]);
    let sample = |seed| {
        let sampling = SamplingConfig { temperature: 1.0, top_k: 50, seed, ..SamplingConfig::default() };
        let options = GenerateOptions { max_new_tokens: 16, sampling, ..GenerateOptions::default() };
        model.generate(std::slice::from_ref(&prompt), &options, |_, _| ControlFlow::Continue(())).unwrap()
    };
    assert_eq!(sample(3), sample(3));
    assert_ne!(sample(3), sample(4));
    let free = greedy(&model, std::slice::from_ref(&prompt), 10).remove(0);
    let options = GenerateOptions { max_new_tokens: 10, stop: vec![free[4]], ..GenerateOptions::default() };
    let stopped = model.generate(&[prompt], &options, |_, _| ControlFlow::Continue(())).unwrap().remove(0);
    assert!(free.starts_with(&stopped) && !stopped.contains(&free[4]), "{stopped:?} of {free:?}");
}
