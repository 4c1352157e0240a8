//! The learning rate over a run, equal to Transformers' schedules.

use std::f64::consts::PI;

use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use crate::config::{LrSchedulerType, TrainingConfig};

/// The shape of a learning rate: a rise from 0 over `warmup_steps`, then `kind` down to `total_steps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub kind: LrSchedulerType,
    /// Steps of the rise.
    pub warmup_steps: usize,
    /// Steps of the run.
    pub total_steps: usize,
}

impl Schedule {
    /// The schedule of a run of `total_steps`.
    pub fn new(training: &TrainingConfig, total_steps: usize) -> Self {
        Self { kind: training.lr_scheduler_type, warmup_steps: training.warmup_steps, total_steps }
    }

    /// The factor of the peak learning rate at `step`, from 0: as `get_constant_schedule_with_warmup`,
    /// `get_linear_schedule_with_warmup` and `get_cosine_schedule_with_warmup` of Transformers.
    pub fn multiplier(&self, step: usize) -> f64 {
        let (step, warmup) = (step as f64, self.warmup_steps as f64);
        if step < warmup {
            return step / warmup;
        }
        let decay = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            LrSchedulerType::Constant => 1.0,
            LrSchedulerType::Linear => ((self.total_steps as f64 - step) / decay).max(0.0),
            LrSchedulerType::Cosine => (0.5 * (1.0 + (PI * (step - warmup) / decay).cos())).max(0.0),
        }
    }
}

/// A [`Schedule`] as Burn's training loop drives it: each call of `step` is one optimiser step.
#[derive(Debug, Clone)]
pub struct ScheduledLr {
    schedule: Schedule,
    peak: f64,
    next: usize,
}

impl ScheduledLr {
    /// `peak` times the schedule, from step `start`: 0, or the number of steps that a resumed run has behind it.
    pub fn new(schedule: Schedule, peak: f64, start: usize) -> Self {
        Self { schedule, peak, next: start }
    }
}

impl LrScheduler for ScheduledLr {
    fn step(&mut self) -> f64 {
        let rate = self.peak * self.schedule.multiplier(self.next);
        self.next += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("step", self.next as u64)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        if let Some(step) = record.scalar::<u64>("step") {
            self.next = step as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: LrSchedulerType, warmup_steps: usize, total_steps: usize) -> Schedule {
        Schedule { kind, warmup_steps, total_steps }
    }

    /// Expected values: `transformers.get_scheduler` 5.23 with a learning rate of 1, steps 0 to `total` + 1.
    #[test]
    fn multipliers_equal_transformers() {
        use LrSchedulerType::{Constant, Cosine, Linear};
        let third = [0.0, 0.3333333333333333, 0.6666666666666666];
        let cases: [(_, &[f64]); 6] = [
            (schedule(Constant, 3, 10), &[1.0; 9]),
            (
                schedule(Linear, 3, 10),
                &[
                    1.0,
                    0.8571428571428571,
                    0.7142857142857143,
                    0.5714285714285714,
                    0.42857142857142855,
                    0.2857142857142857,
                    0.14285714285714285,
                    0.0,
                    0.0,
                ],
            ),
            (
                schedule(Cosine, 3, 10),
                &[
                    1.0,
                    0.9504844339512095,
                    0.8117449009293668,
                    0.6112604669781572,
                    0.38873953302184283,
                    0.18825509907063326,
                    0.04951556604879048,
                    0.0,
                    0.04951556604879043,
                ],
            ),
            (schedule(Linear, 0, 4), &[1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
            (schedule(Cosine, 0, 4), &[1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0, 0.14644660940672616]),
            (schedule(Cosine, 10, 10), &[1.0, 0.0]),
        ];
        for (schedule, after_warmup) in cases {
            if schedule.warmup_steps == 3 {
                (0..3).for_each(|step| assert!((schedule.multiplier(step) - third[step]).abs() < 1e-15));
            }
            for (at, expected) in after_warmup.iter().enumerate() {
                let found = schedule.multiplier(schedule.warmup_steps + at);
                assert!((found - expected).abs() < 1e-15, "{schedule:?} + {at}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn a_resumed_schedule_goes_on_where_it_stopped() {
        let schedule = schedule(LrSchedulerType::Cosine, 3, 10);
        let mut whole = ScheduledLr::new(schedule, 0.5, 0);
        let rates: Vec<f64> = (0..10).map(|_| whole.step()).collect();
        assert_eq!(rates[3], 0.5);
        let mut by_number = ScheduledLr::new(schedule, 0.5, 6);
        let mut by_record = ScheduledLr::new(schedule, 0.5, 0);
        by_record.load_record(by_number.to_record());
        for rate in &rates[6..] {
            assert_eq!((by_number.step(), by_record.step()), (*rate, *rate));
        }
    }
}
