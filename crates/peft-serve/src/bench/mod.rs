//! How fast many adapters are served: the time of a step with as many adapters as rows, and times under a load that comes
//! whether or not the engine keeps up.

mod adapters;
mod load;
mod step;

use std::time::Duration;

use serde::Serialize;

pub use adapters::MadeUp;
pub use load::{Load, LoadReport, run_load};
pub use step::{StepReport, run_steps};

/// A time at some shares of all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are below, in milliseconds.
    pub p50: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// All but one of a hundred are below.
    pub p99: f64,
}

impl Percentiles {
    /// Of `times`; zero of none.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            // The nearest rank.
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_there_were() {
        let found = Percentiles::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(found, Percentiles { p50: 100.0, p90: 180.0, p99: 198.0 });
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
    }
}
