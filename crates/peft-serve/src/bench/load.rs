//! Times under a load that comes whether or not the engine keeps up.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use llama_burn::Piece;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::Percentiles;
use super::adapters::{MadeUp, write_adapters};
use crate::engine::{Engine, EngineConfig, Served};
use crate::error::{Result, ServeError};
use crate::request::{Event, Request};
use crate::store::{AdapterInfo, State, Store, StoreConfig};

/// The requests of a measurement: how many, how long, how fast they come.
#[derive(Clone, Debug)]
pub struct Load {
    /// Methods of the adapters, in turn.
    pub methods: Vec<MadeUp>,
    /// Adapters that requests choose among; with 0 all are for the base.
    pub adapters: usize,
    /// The exponent of the power law by which adapters are chosen: 0 chooses all alike.
    pub skew: f64,
    /// Requests in all.
    pub requests: usize,
    /// Requests in a second, on the average.
    pub rate: f64,
    /// 1 has them come one by one at random; below 1 in bursts, above 1 evenly (the shape of a gamma distribution).
    pub burstiness: f64,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of an answer.
    pub answer: usize,
    /// A request is good whose first token came in so many milliseconds.
    pub good_first_token: f64,
    /// And whose further tokens took no longer than so many milliseconds each.
    pub good_per_token: f64,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Bytes for adapters.
    pub adapter_memory: usize,
}

/// The throughput and the latencies of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Requests that were answered.
    pub answered: usize,
    /// Requests that were refused or failed.
    pub failed: usize,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// New tokens in a second.
    pub tokens_per_second: f64,
    /// Requests in a second that were good.
    pub goodput: f64,
    /// From a request to its first token, in milliseconds.
    pub time_to_first_token: Percentiles,
    /// The time of a whole answer after its first token, for each further token.
    pub time_per_token: Percentiles,
    /// From a token to the next one.
    pub inter_token_latency: Percentiles,
    /// From a request to its end.
    pub end_to_end: Percentiles,
    /// From asking for an adapter that is in memory to having it.
    pub switch: Percentiles,
    /// The time of the last 100 tokens of the longest answer over that of its tokens 100 to 200; `None` below 400 tokens.
    pub late_over_early: Option<f64>,
    /// Adapters in memory at the end.
    pub resident: usize,
    /// Their bytes, those that several share not counted.
    pub adapter_bytes: usize,
    /// Adapters that were loaded.
    pub loads: u64,
    /// Adapters that were put out of memory for room.
    pub evictions: u64,
}

/// Runs a load on an engine of its own.
///
/// # Errors
/// Adapters that cannot be made, an engine that cannot be started.
pub fn run_load(base: &Served, load: &Load, engine: EngineConfig) -> Result<LoadReport> {
    let folder = std::env::temp_dir().join(format!("peft-bench-{}-load", std::process::id()));
    let report = in_folder(base, load, engine, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    report
}

/// One request: when it comes, and whose.
struct Arrival {
    at: Duration,
    adapter: Option<usize>,
}

fn arrivals(load: &Load) -> Vec<Arrival> {
    let mut rng = ChaCha8Rng::seed_from_u64(load.seed);
    let weights: Vec<f64> = (1..=load.adapters).map(|rank| (rank as f64).powf(-load.skew)).collect();
    let total: f64 = weights.iter().sum();
    let mut at = 0.0;
    let mut arrival = |_| {
        at += gamma(&mut rng, load.burstiness) / load.burstiness / load.rate;
        let mut left = rng.random::<f64>() * total;
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        Arrival { at: Duration::from_secs_f64(at), adapter: chosen.or(load.adapters.checked_sub(1)) }
    };
    (0..load.requests).map(&mut arrival).collect()
}

/// A number of the gamma distribution with that shape and scale 1 (Marsaglia and Tsang 2000).
fn gamma(rng: &mut ChaCha8Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let u: f64 = rng.random();
        return gamma(rng, shape + 1.0) * u.powf(1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let (u1, u2): (f64, f64) = (rng.random(), rng.random());
        let x = (-2.0 * (1.0 - u1).ln()).sqrt() * (2.0 * std::f64::consts::PI * u2).cos();
        let v = (1.0 + c * x).powi(3);
        let u: f64 = rng.random();
        if v > 0.0 && (1.0 - u).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// Times of one answer.
#[derive(Default)]
struct Times {
    first: Option<Duration>,
    between: Vec<Duration>,
    whole: Duration,
    tokens: usize,
}

fn in_folder(base: &Served, load: &Load, config: EngineConfig, folder: &PathBuf) -> Result<LoadReport> {
    std::fs::create_dir_all(folder).map_err(|error| ServeError::Failed(format!("{}: {error}", folder.display())))?;
    let names = write_adapters(&base.model, &load.methods, load.adapters, folder)?;
    let store = StoreConfig { folder: Some(folder.clone()), memory: load.adapter_memory, ..StoreConfig::default() };
    let engine = Engine::start(base.clone(), Store::new(base, store)?, config)?;
    let handle = engine.handle();
    let vocab = base.model.config().vocab_size;
    let begun = Instant::now();
    let mut open = Vec::with_capacity(load.requests);
    let mut failed = 0;
    for (i, Arrival { at, adapter }) in arrivals(load).into_iter().enumerate() {
        std::thread::sleep((begun + at).saturating_duration_since(Instant::now()));
        let ids = (0..load.prompt.max(1)).map(|t| ((i * 31 + t * 7) % vocab) as u32).collect();
        let adapter = adapter.and_then(|adapter| names.get(adapter)).map(|name| name.as_str().into());
        let request = Request { adapter, max_tokens: load.answer.max(1), ..Request::new(ids) };
        let sent = Instant::now();
        match handle.submit(request) {
            // A thread that reads: times are those at which events are there.
            Ok(answer) => open.push(std::thread::spawn(move || watch(answer, sent))),
            Err(_) => failed += 1,
        }
    }
    let mut all = Vec::with_capacity(open.len());
    for thread in open {
        match thread.join() {
            Ok(Some(times)) => all.push(times),
            _ => failed += 1,
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let per_token = |times: &Times| {
        let first = times.first?;
        (times.tokens > 1).then(|| (times.whole - first) / (times.tokens as u32 - 1))
    };
    let is_good = |times: &&Times| {
        let first = times.first.map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e3);
        let each = per_token(times).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        first <= load.good_first_token && each <= load.good_per_token
    };
    let resident: Vec<_> = handle.store().list().into_iter().filter(|one| one.state == State::Resident).collect();
    Ok(LoadReport {
        answered: all.len(),
        failed,
        seconds,
        tokens_per_second: all.iter().map(|times| times.tokens).sum::<usize>() as f64 / seconds,
        goodput: all.iter().filter(is_good).count() as f64 / seconds,
        time_to_first_token: Percentiles::of(all.iter().filter_map(|times| times.first).collect()),
        time_per_token: Percentiles::of(all.iter().filter_map(per_token).collect()),
        inter_token_latency: Percentiles::of(all.iter().flat_map(|times| times.between.iter().copied()).collect()),
        end_to_end: Percentiles::of(all.iter().map(|times| times.whole).collect()),
        switch: Percentiles::of(switches(handle.store(), &resident)),
        late_over_early: all.iter().max_by_key(|times| times.between.len()).and_then(late_over_early),
        resident: resident.len(),
        adapter_bytes: resident.iter().map(|adapter| adapter.bytes).sum(),
        loads: base.metrics.adapter_loads.get(),
        evictions: base.metrics.adapter_evictions.get(),
    })
}

/// The times that the store takes to give an adapter that it has in memory, each asked for in turn.
fn switches(store: &Store, resident: &[AdapterInfo]) -> Vec<Duration> {
    let rounds = 10_000usize.div_ceil(resident.len().max(1));
    let mut times = Vec::with_capacity(rounds * resident.len());
    for adapter in (0..rounds).flat_map(|_| resident) {
        let asked = Instant::now();
        let lease = store.lease(&adapter.name, None);
        times.push(asked.elapsed());
        drop(lease);
    }
    times
}

/// The last 100 tokens of an answer over tokens 100 to 200, where these do not overlap.
fn late_over_early(times: &Times) -> Option<f64> {
    let sum = |part: &[Duration]| part.iter().sum::<Duration>().as_secs_f64();
    let late = times.between.len().checked_sub(100).filter(|start| *start >= 300)?;
    Some(sum(&times.between[late..]) / sum(&times.between[100..200]))
}

fn watch(mut answer: crate::request::Answer, sent: Instant) -> Option<Times> {
    let mut times = Times::default();
    let mut last = sent;
    while let Some(event) = answer.next_blocking() {
        let now = Instant::now();
        match event {
            Event::Tokens(Piece { ids, .. }) if !ids.is_empty() => {
                match times.first {
                    None => times.first = Some(now - sent),
                    Some(_) => times.between.push(now - last),
                }
                times.tokens += ids.len();
                last = now;
            }
            Event::Finished { .. } => {
                times.whole = now - sent;
                return Some(times);
            }
            Event::Failed(_) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_answer_is_held_against_its_beginning() {
        let answer = |tokens: usize| Times {
            between: (0..tokens).map(|token| Duration::from_micros(1000 + token as u64)).collect(),
            ..Times::default()
        };
        assert_eq!(late_over_early(&answer(399)), None);
        let ratio = late_over_early(&answer(2100)).unwrap_or_default();
        assert!((ratio - 3049.5 / 1149.5).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn requests_come_at_the_rate_and_by_the_power_law() {
        let load = Load {
            methods: vec![MadeUp::Vera],
            adapters: 10,
            skew: 1.0,
            requests: 4000,
            rate: 50.0,
            burstiness: 0.5,
            prompt: 1,
            answer: 1,
            good_first_token: 1.0,
            good_per_token: 1.0,
            seed: 3,
            adapter_memory: 0,
        };
        for burstiness in [0.25, 1.0, 4.0] {
            let all = arrivals(&Load { burstiness, ..load.clone() });
            let seconds = all.last().map_or(0.0, |last| last.at.as_secs_f64());
            assert!((seconds - 80.0).abs() < 8.0, "{burstiness}: {seconds}");
            let of = |adapter| all.iter().filter(|one| one.adapter == Some(adapter)).count() as f64;
            assert!((of(0) / of(1) - 2.0).abs() < 0.4 && of(9) > 50.0);
        }
        assert!(arrivals(&Load { adapters: 0, ..load }).iter().all(|one| one.adapter.is_none()));
    }
}
