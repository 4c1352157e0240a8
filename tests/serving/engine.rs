//! The engine, step by step, with a clock that stands still.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llama_burn::SamplingConfig;
use peft_burn::{LoraConfig, PeftConfig};
use peft_serve::{
    Answer, Core, EngineConfig, Event, Finish, LoadOptions, Piece, Request, ServeError, Served, Store, StoreConfig,
};
use rstest::rstest;

use crate::support::{configs, model, served, store_over, write_adapter, write_adapters};

/// The outcome of a request.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    ids: Vec<u32>,
    text: String,
    logprobs: Vec<f32>,
    ended: Option<Result<Finish, ServeError>>,
}

impl Outcome {
    fn take(&mut self, answer: &mut Answer) {
        while let Some(event) = answer.try_next() {
            match event {
                Event::Prompt(_) => {}
                Event::Tokens(Piece { ids, text, logprobs }) => {
                    self.ids.extend(ids);
                    self.text.push_str(&text);
                    self.logprobs.extend(logprobs.iter().map(|one| one.logprob));
                }
                Event::Finished { reason, usage } => {
                    assert!(usage.completion_tokens >= self.ids.len());
                    self.ended = Some(Ok(reason));
                }
                Event::Failed(error) => self.ended = Some(Err(error)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// That both are one text, and as likely.
    fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!((&self.ids, &self.text, &self.ended), (&other.ids, &other.text, &other.ended), "{what}");
        for (a, b) in self.logprobs.iter().zip(&other.logprobs) {
            assert!((a - b).abs() < 1e-4, "{what}: {a} and {b}");
        }
    }
}

/// An engine, and the one moment that it knows.
struct Bench {
    core: Core,
    base: Served,
    store: Store,
    now: Instant,
}

impl Bench {
    fn new(store: Store, config: EngineConfig) -> Self {
        let base = served();
        Self { core: Core::new(&base, store.clone(), config), base, store, now: Instant::now() }
    }

    fn submit(&mut self, request: Request) -> Result<Answer, ServeError> {
        self.core.submit(request, self.base.text.as_ref(), self.now)
    }

    /// Steps until nothing is left to do.
    fn finish(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.core.is_idle() {
            if !self.core.step(self.now) {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(Instant::now() < until, "it does not end: {:?}", self.core.load());
        }
    }

    /// The outcome of a request when no other runs.
    fn alone(&mut self, request: Request) -> Outcome {
        let mut answer = self.submit(request).unwrap();
        self.finish();
        let mut outcome = Outcome::default();
        outcome.take(&mut answer);
        outcome
    }

    fn assert_at_rest(&self) {
        assert_eq!((self.core.load(), self.core.blocks_taken()), ([0, 0], 0));
        assert!(self.store.list().iter().all(|info| info.leases == 0));
        self.store.clear();
        assert_eq!(self.store.used_bytes(), 0);
    }
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn request(adapter: Option<&str>, prompt: &[u32], max_tokens: usize) -> Request {
    Request { adapter: adapter.map(Into::into), max_tokens, logprobs: Some(0), ..Request::new(prompt.to_vec()) }
}

/// Requests come, are given up, and their adapters are put out, unloaded and replaced, with too little memory for all.
#[rstest]
#[case(1, 64, 3)]
#[case(2, 4, 40)]
#[case(3, 16, 7)]
#[case(4, 3, 256)]
fn every_request_gets_the_text_that_it_gets_alone(
    #[case] seed: u64,
    #[case] max_batch: usize,
    #[case] max_prefill: usize,
) {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path());
    write_adapter(&model(), &configs()[0].1, 77, &folder.path().join("other"));
    let names: Vec<Option<&str>> =
        [None].into_iter().chain(configs().into_iter().map(|(name, _)| Some(name))).collect();
    let mut random = Random(seed);
    let prompts: Vec<Vec<u32>> =
        (0..8).map(|i| (0..1 + i * 7).map(|_| 5 + random.below(2000) as u32).collect()).collect();

    let store = store_over(folder.path(), StoreConfig::default());
    let mut quiet = Bench::new(store, EngineConfig::default());
    let mut known: BTreeMap<(Option<&str>, usize), Outcome> = BTreeMap::new();
    for name in names.iter().copied().chain([Some("other")]) {
        for (p, prompt) in prompts.iter().enumerate() {
            known.insert((name, p), quiet.alone(request(name, prompt, 4 + p)));
        }
    }
    let one = quiet.store.info("lora").unwrap().bytes;
    quiet.assert_at_rest();

    // Blocks for two or three prompts, and memory for two or three adapters.
    let cache_memory = 4 * quiet.base.model.block_shape().block_len() * 6;
    let store = store_over(folder.path(), StoreConfig { memory: one * 5 / 2, ..StoreConfig::default() });
    let config = EngineConfig {
        max_batch,
        max_prefill,
        cache_memory,
        adapter_wait: Duration::from_secs(3600),
        ..EngineConfig::default()
    };
    let mut busy = Bench::new(store, config);
    let mut open: Vec<(Option<&str>, usize, Answer, Outcome)> = Vec::new();
    let (mut finished, mut swapped) = (0, 0);
    for _ in 0..300 {
        match random.below(12) {
            0..=3 => {
                let (name, p) = (names[random.below(names.len())], random.below(prompts.len()));
                let answer = busy.submit(request(name, &prompts[p], 4 + p)).unwrap();
                open.push((name, p, answer, Outcome::default()));
            }
            4 if !open.is_empty() => drop(open.swap_remove(random.below(open.len()))),
            5 => {
                // The adapter of a name becomes another one, or the first one again.
                let from = if random.below(2) == 0 { "other" } else { "lora" };
                let done = busy.store.load("lora", from, &LoadOptions { in_place: true, ..LoadOptions::default() });
                assert!(matches!(done, Ok(_) | Err(ServeError::NoRoom { .. })), "{done:?}");
                swapped += usize::from(done.is_ok());
            }
            6 => {
                let name = names[1 + random.below(names.len() - 1)].unwrap();
                if name != "lora" && !open.iter().any(|(used, ..)| *used == Some(name)) {
                    busy.store.unload(name).unwrap();
                    busy.store.refresh();
                }
            }
            _ => {
                busy.core.step(busy.now);
            }
        }
    }
    busy.finish();
    for (name, p, mut answer, mut outcome) in open {
        outcome.take(&mut answer);
        let expected = &known[&(name, p)];
        // Whichever it was when the request began; never a mixture.
        let other = &known[&(Some("other"), p)];
        let expected = if name == Some("lora") && outcome.ids == other.ids { other } else { expected };
        outcome.assert_same(expected, &format!("{name:?}, prompt {p}"));
        finished += 1;
    }
    assert!(finished > 20 && swapped > 0, "{finished} {swapped}");
    busy.assert_at_rest();
}

#[test]
fn seeds_decide_what_is_drawn_whatever_runs_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path());
    let mut bench = Bench::new(store_over(folder.path(), StoreConfig::default()), EngineConfig::default());
    let hot = |seed: u64| {
        let sampling = SamplingConfig { temperature: 1.0, seed, ..SamplingConfig::default() };
        Request { sampling, ..request(Some("vera"), &[7, 8, 9], 12) }
    };
    let alone = [bench.alone(hot(1)), bench.alone(hot(2))];
    assert_ne!(alone[0].ids, alone[1].ids);
    let mut others: Vec<_> = (0..9).map(|i| bench.submit(request(None, &[9; 30], 3 + i)).unwrap()).collect();
    let mut again = bench.submit(hot(1)).unwrap();
    bench.finish();
    let mut outcome = Outcome::default();
    outcome.take(&mut again);
    outcome.assert_same(&alone[0], "beside others");
    others.iter_mut().for_each(|other| Outcome::default().take(other));
}

#[test]
fn an_adapter_with_nan_harms_its_own_request_alone() {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path());
    // Values that are finite in the file and are not in the product.
    let (_, config) = &configs()[0];
    let PeftConfig::Lora(config) = config else { panic!() };
    let config = PeftConfig::Lora(LoraConfig { lora_alpha: 1e40, ..config.clone() });
    write_adapter(&model(), &config, 3, &folder.path().join("broken"));
    let mut bench = Bench::new(store_over(folder.path(), StoreConfig::default()), EngineConfig::default());
    let good = bench.alone(request(Some("lora"), &[5, 6, 7], 8));
    let mut answers: Vec<_> =
        ["lora", "broken", "lora"].map(|name| bench.submit(request(Some(name), &[5, 6, 7], 8)).unwrap()).into();
    bench.finish();
    let outcomes: Vec<Outcome> = answers
        .iter_mut()
        .map(|answer| {
            let mut outcome = Outcome::default();
            outcome.take(answer);
            outcome
        })
        .collect();
    let Some(Err(ServeError::Failed(message))) = &outcomes[1].ended else { panic!("{:?}", outcomes[1]) };
    assert!(message.contains("NaN") || message.contains("no token"), "{message}");
    outcomes[0].assert_same(&good, "before");
    outcomes[2].assert_same(&good, "after");
    bench.assert_at_rest();
}

#[test]
fn many_requests_of_one_tenant_do_not_keep_another_waiting() {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path());
    let config = EngineConfig { max_batch: 4, ..EngineConfig::default() };
    let mut bench = Bench::new(store_over(folder.path(), StoreConfig::default()), config);
    bench.alone(request(Some("ia3"), &[5], 1));
    let _crowd: Vec<_> = (0..40).map(|_| bench.submit(request(None, &[5, 6], 4)).unwrap()).collect();
    let mut one = bench.submit(request(Some("ia3"), &[5, 6], 4)).unwrap();
    let mut outcome = Outcome::default();
    let mut steps = 0;
    while outcome.ended.is_none() {
        bench.core.step(bench.now);
        outcome.take(&mut one);
        steps += 1;
        assert!(steps < 15, "{:?}", bench.core.load());
    }
    bench.finish();
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let config = EngineConfig { max_queue: 2, cache_memory: 1, ..EngineConfig::default() };
    let mut bench = Bench::new(store_over(folder.path(), StoreConfig::default()), config);
    let refused = |bench: &mut Bench, request: Request| bench.submit(request).unwrap_err().to_string();
    assert!(refused(&mut bench, request(None, &[], 1)).contains("empty"));
    assert!(refused(&mut bench, request(None, &[4000], 1)).contains("token 4000"));
    assert!(refused(&mut bench, request(None, &[5; 250], 10)).contains("context is 256"));
    assert!(refused(&mut bench, request(None, &[5; 30], 10)).contains("2 blocks"));
    let _two = [(); 2].map(|()| bench.submit(request(None, &[5], 1)).unwrap());
    assert!(refused(&mut bench, request(None, &[5], 1)).contains("waiting"));
}

#[test]
fn stop_strings_and_text_are_the_same_however_the_tokens_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(store_over(folder.path(), StoreConfig::default()), EngineConfig::default());
    let text = Arc::clone(bench.base.text.as_ref().unwrap());
    let prompt = text.tokenizer.encode("The courier", true).unwrap();
    let whole = bench.alone(request(None, &prompt, 24));
    assert!(whole.text.chars().count() > 8, "{whole:?}");
    let middle: String = whole.text.chars().skip(4).take(3).collect();
    let stopped =
        bench.alone(Request { stop: vec!["never said".into(), middle.clone()], ..request(None, &prompt, 24) });
    assert_eq!(stopped.text, whole.text[..whole.text.find(&middle).unwrap()]);
    assert_eq!(stopped.ended, Some(Ok(Finish::Stop)));
    assert_eq!(stopped.ids[..], whole.ids[..stopped.ids.len()]);
    assert_eq!(stopped.logprobs.len(), stopped.ids.len());
}
