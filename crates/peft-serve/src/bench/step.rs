//! The time of a step whose rows all have adapters of their own, over one of the base.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc::error::TryRecvError;

use super::adapters::{MadeUp, write_adapters};
use crate::engine::{Core, EngineConfig, Served};
use crate::error::{Result, ServeError};
use crate::request::{Answer, Request};
use crate::store::{Store, StoreConfig};

/// The time and memory of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// The method; `base` without adapters.
    pub method: String,
    /// Rows, each with an adapter of its own.
    pub rows: usize,
    /// The middle one of all steps, in milliseconds.
    pub milliseconds: f64,
    /// Over that of the base.
    pub over_base: f64,
    /// Bytes of all adapters in memory.
    pub adapter_bytes: usize,
    /// Bytes of the parts that all of them share.
    pub shared_bytes: usize,
    /// Milliseconds to load one of them from a file that the system has in memory: the middle one.
    pub load_milliseconds: f64,
}

/// Measures `steps` steps of `rows` rows after prompts of `prompt` tokens: of the base, and of each method. The two are
/// measured in turn, so that what else the machine does harms both.
///
/// # Errors
/// Adapters that cannot be made.
pub fn run_steps(
    base: &Served,
    methods: &[MadeUp],
    rows: usize,
    prompt: usize,
    steps: usize,
) -> Result<Vec<StepReport>> {
    let mut reports = Vec::new();
    for method in methods {
        let folder = std::env::temp_dir().join(format!("peft-bench-{}-{}", std::process::id(), method.name()));
        let found = measure(base, *method, [rows, prompt, steps], &folder);
        let _ = std::fs::remove_dir_all(&folder);
        let [own, alone] = found?;
        if reports.is_empty() {
            reports.push(alone);
        }
        reports.push(own);
    }
    Ok(reports)
}

fn measure(base: &Served, method: MadeUp, [rows, prompt, steps]: [usize; 3], folder: &Path) -> Result<[StepReport; 2]> {
    std::fs::create_dir_all(folder).map_err(|error| ServeError::Failed(format!("{}: {error}", folder.display())))?;
    let names = write_adapters(&base.model, &[method], rows, folder)?;
    let config = EngineConfig {
        max_batch: rows,
        max_prefill: rows * prompt,
        max_queue: rows,
        cache_memory: usize::MAX / 2,
        ..EngineConfig::default()
    };
    let store =
        StoreConfig { folder: Some(folder.to_owned()), memory: usize::MAX / 2, threads: 1, ..StoreConfig::default() };
    let store = Store::new(base, store)?;
    let mut loads = Vec::new();
    for name in &names {
        let begun = Instant::now();
        store.load(name, name, &Default::default())?;
        loads.push(begun.elapsed());
    }
    let mut with = Running::new(base, &store, &config, |i| names.get(i).cloned(), [rows, prompt, steps])?;
    let mut without = Running::new(base, &store, &config, |_| None, [rows, prompt, steps])?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..steps {
        times[0].push(with.step());
        times[1].push(without.step());
    }
    let [own, alone] = times.map(middle);
    let report = |method: &str, milliseconds: f64| StepReport {
        method: method.to_owned(),
        rows,
        milliseconds,
        over_base: milliseconds / alone,
        adapter_bytes: if method == "base" { 0 } else { store.used_bytes() },
        shared_bytes: if method == "base" { 0 } else { store.shared_bytes() },
        load_milliseconds: if method == "base" { 0.0 } else { middle(loads.clone()) },
    };
    Ok([report(method.name(), own), report("base", alone)])
}

/// Milliseconds of the middle one.
fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Requests that go on as long as steps are made.
struct Running {
    core: Core,
    answers: Vec<Answer>,
}

impl Running {
    fn new(
        base: &Served,
        store: &Store,
        config: &EngineConfig,
        adapter: impl Fn(usize) -> Option<String>,
        [rows, prompt, steps]: [usize; 3],
    ) -> Result<Self> {
        let mut core = Core::new(base, store.clone(), config.clone());
        let vocab = base.model.config().vocab_size;
        let mut answers = Vec::new();
        for row in 0..rows {
            let ids = (0..prompt.max(1)).map(|i| ((row * 31 + i * 7) % vocab) as u32).collect();
            let adapter = adapter(row).map(Into::into);
            let request = Request { adapter, max_tokens: steps + 8, ..Request::new(ids) };
            answers.push(core.submit(request, None, Instant::now())?);
        }
        // The prompts, and steps to warm up.
        for _ in 0..4 {
            core.step(Instant::now());
        }
        let mut running = Self { core, answers };
        running.read();
        Ok(running)
    }

    fn step(&mut self) -> Duration {
        let begun = Instant::now();
        self.core.step(begun);
        let time = begun.elapsed();
        self.read();
        time
    }

    fn read(&mut self) {
        for answer in &mut self.answers {
            while !matches!(answer.events.try_recv(), Err(TryRecvError::Empty | TryRecvError::Disconnected)) {}
        }
    }
}
