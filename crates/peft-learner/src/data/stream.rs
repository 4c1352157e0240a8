//! The endless, seeded stream of micro-batches a run draws from.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::batch::share_step_targets;
use super::order::shuffle;
use super::{Batch, Example, Examples, packing};
use crate::config::TrainingConfig;
use crate::error::{Result, StreamError};

/// The most rows of an optimiser step: what is more is a slip of the keyboard, and would fill the memory before it fails.
pub const MOST_ROWS_A_STEP: usize = 1 << 20;

/// How examples become micro-batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Rows a micro-batch.
    pub batch_size: usize,
    /// Micro-batches an optimiser step, those of all devices together.
    pub accumulation: usize,
    /// A new order each epoch; otherwise file order, round and round.
    pub shuffle: bool,
    /// Rows of similar length share a micro-batch (needs `shuffle`).
    pub group_by_length: bool,
    /// Several examples a row.
    pub packing: bool,
    /// Tokens a packed row holds.
    pub max_length: usize,
    /// The token that fills a row up.
    pub pad_id: u32,
    /// Seed of the orders.
    pub seed: u64,
}

/// Micro-batches without end, any step of which can be asked for: a resumed run needs only its step number.
///
/// An epoch is all rows once (with `packing`, a row holds several examples); micro-batches run on across its end, so
/// that none is short.
#[derive(Debug)]
pub struct Stream {
    examples: Examples,
    config: StreamConfig,
    /// Tokens of each example, where its place depends on them.
    lengths: Vec<usize>,
    rows_per_epoch: usize,
    /// The epoch last asked for.
    cache: Mutex<(u64, Arc<Epoch>)>,
}

/// The rows of an epoch in their order.
#[derive(Debug)]
enum Epoch {
    /// One example each.
    Single(Vec<usize>),
    /// Several.
    Packed(Vec<Vec<usize>>),
}

impl Epoch {
    fn rows(&self) -> usize {
        match self {
            Self::Single(order) => order.len(),
            Self::Packed(rows) => rows.len(),
        }
    }

    /// The examples in a row.
    fn row(&self, row: usize) -> &[usize] {
        match self {
            Self::Single(order) => &order[row..row + 1],
            Self::Packed(rows) => &rows[row],
        }
    }
}

impl Stream {
    /// A stream over `examples`: a vector, or any data set of Burn ([`Examples::new`]). They are read when their step comes;
    /// with `packing` and `group_by_length` all of them are read once before, for their lengths.
    ///
    /// # Errors
    /// [`StreamError`] for no examples, empty batches, steps of more than [`MOST_ROWS_A_STEP`] rows, packing into rows without room, and length groups without
    /// `shuffle` or with `packing`; what reading the data set reports.
    pub fn new(examples: impl Into<Examples>, config: StreamConfig) -> Result<Self> {
        let examples = examples.into();
        let problem = match &config {
            _ if examples.is_empty() => StreamError::NoExamples,
            config if config.batch_size == 0 => StreamError::NoRows,
            config if config.accumulation == 0 => StreamError::NoMicroBatches,
            config if config.batch_size.saturating_mul(config.accumulation) > MOST_ROWS_A_STEP => {
                StreamError::TooManyRows { rows: config.batch_size.saturating_mul(config.accumulation) }
            }
            config if config.packing && config.max_length == 0 => StreamError::NoRoom,
            config if config.group_by_length && config.packing => StreamError::GroupsAndPacking,
            config if config.group_by_length && !config.shuffle => StreamError::GroupsInOrder,
            config => {
                let by_length = config.packing || config.group_by_length;
                let length = |example: Result<Example>| example.map(|example| example.len());
                let lengths = if by_length { examples.iter().map(length).collect::<Result<_>>()? } else { Vec::new() };
                let first = plan(examples.len(), &lengths, config, 0);
                let (rows_per_epoch, cache) = (first.rows(), Mutex::new((0, Arc::new(first))));
                return Ok(Self { examples, config: config.clone(), lengths, rows_per_epoch, cache });
            }
        };
        Err(problem.into())
    }

    /// The micro-batches of optimiser step `k`, from 0. The same `k` gives the same batches, in whatever order steps
    /// are asked for.
    ///
    /// # Errors
    /// An error of reading the data set.
    pub fn step(&self, k: usize) -> Result<Vec<Batch>> {
        let first = k * self.rows_per_step();
        let micro = |at: usize| {
            let start = first + at * self.config.batch_size;
            let rows: Vec<_> =
                (start..start + self.config.batch_size).map(|row| self.row(row)).collect::<Result<_>>()?;
            let rows: Vec<Vec<&Example>> = rows.iter().map(|row| row.iter().collect()).collect();
            Ok(if self.config.packing {
                Batch::packed(&rows, self.config.pad_id)
            } else {
                Batch::collate(&rows.concat(), self.config.pad_id)
            })
        };
        let mut batches: Vec<Batch> = (0..self.config.accumulation).map(micro).collect::<Result<_>>()?;
        share_step_targets(&mut batches);
        Ok(batches)
    }

    /// How it makes them.
    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Micro-batches of each step.
    pub fn micro_batches(&self) -> usize {
        self.config.accumulation
    }

    /// Rows in an epoch: the examples, or with `packing` what they were packed into.
    pub fn rows_per_epoch(&self) -> usize {
        self.rows_per_epoch
    }

    /// Steps until every row was seen: the last one may reach into the next epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows_per_epoch.div_ceil(self.rows_per_step())
    }

    /// Optimiser steps of a run over it: `max_steps`, or as many as it takes to see every row `num_train_epochs` times.
    pub fn total_steps(&self, training: &TrainingConfig) -> usize {
        let by_epochs = training.num_train_epochs * self.rows_per_epoch as f64 / self.rows_per_step() as f64;
        training.max_steps.unwrap_or((by_epochs.ceil() as usize).max(1))
    }

    fn rows_per_step(&self) -> usize {
        self.config.batch_size * self.config.accumulation
    }

    /// The examples in row `index`, counted over all epochs.
    fn row(&self, index: usize) -> Result<Vec<Example>> {
        let epoch = self.epoch((index / self.rows_per_epoch) as u64);
        epoch.row(index % self.rows_per_epoch).iter().map(|&example| self.examples.get(example)).collect()
    }

    fn epoch(&self, number: u64) -> Arc<Epoch> {
        // In file order all epochs are one.
        let number = if self.config.shuffle { number } else { 0 };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.0 != number {
            *cache = (number, Arc::new(plan(self.examples.len(), &self.lengths, &self.config, number)));
        }
        cache.1.clone()
    }
}

/// The rows of epoch `number` of `count` examples. There are equally many in each.
fn plan(count: usize, lengths: &[usize], config: &StreamConfig, number: u64) -> Epoch {
    let mut order: Vec<usize> = (0..count).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    rng.set_stream(number);
    if config.shuffle {
        shuffle(&mut order, &mut rng);
    }
    if config.packing && config.shuffle {
        let mut rows = packing::best_fit(lengths, &order, config.max_length);
        shuffle(&mut rows, &mut rng);
        return Epoch::Packed(rows);
    }
    if config.packing {
        return Epoch::Packed(packing::in_order(lengths, &order, config.max_length));
    }
    if config.group_by_length {
        group_by_length(&mut order, lengths, config.batch_size * config.accumulation);
    }
    Epoch::Single(order)
}

/// Transformers' length groups: stretches of up to 50 steps, each sorted by falling length, the longest example of all
/// first, so that what does not fit into memory shows at once.
fn group_by_length(order: &mut [usize], lengths: &[usize], rows_per_step: usize) {
    let stretch = (order.len() / (rows_per_step * 4)).clamp(1, 50) * rows_per_step;
    for stretch in order.chunks_mut(stretch) {
        stretch.sort_by_key(|&example| Reverse(lengths[example]));
    }
    let starts = (0..order.len()).step_by(stretch);
    if let Some(longest) = starts.min_by_key(|&at| Reverse(lengths[order[at]])) {
        order.swap(0, longest);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::EvalBatches;

    const PAD: u32 = 0;

    /// Example `i` consists of the id `i + 1`, some 2 to 13 times, all learned.
    fn examples(n: usize) -> Arc<Vec<Example>> {
        let example = |i: usize| {
            let length = 2 + i * 7 % 12;
            Example { input_ids: vec![i as u32 + 1; length], labels: vec![i as i32 + 1; length] }
        };
        Arc::new((0..n).map(example).collect())
    }

    fn config() -> StreamConfig {
        StreamConfig {
            batch_size: 2,
            accumulation: 2,
            shuffle: true,
            group_by_length: false,
            packing: false,
            max_length: 24,
            pad_id: PAD,
            seed: 7,
        }
    }

    fn stream(n: usize, config: StreamConfig) -> Stream {
        Stream::new(examples(n), config).unwrap()
    }

    /// The first id of every row of a step.
    fn first_ids(batches: &[Batch]) -> Vec<i32> {
        batches.iter().flat_map(|batch| batch.input_ids.chunks(batch.seq).map(|row| row[0])).collect()
    }

    fn rows(stream: &Stream, steps: usize) -> Vec<i32> {
        (0..steps).flat_map(|k| first_ids(&stream.step(k).unwrap())).collect()
    }

    fn sorted(mut ids: Vec<i32>) -> Vec<i32> {
        ids.sort_unstable();
        ids
    }

    #[test]
    fn file_order_goes_round_the_file() {
        let stream = stream(6, StreamConfig { shuffle: false, ..config() });
        assert_eq!(rows(&stream, 3), [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]);
        assert_eq!((stream.rows_per_epoch(), stream.steps_per_epoch()), (6, 2));
        let steps = |num_train_epochs, max_steps| {
            stream.total_steps(&TrainingConfig { num_train_epochs, max_steps, ..TrainingConfig::default() })
        };
        assert_eq!((steps(1.0, None), steps(2.0, None), steps(0.1, None), steps(1.0, Some(9))), (2, 3, 1, 9));
    }

    #[test]
    fn a_shuffled_epoch_has_each_example_once_and_the_next_another_order() {
        for group_by_length in [false, true] {
            let stream = stream(10, StreamConfig { group_by_length, ..config() });
            let ids = rows(&stream, 5);
            let (first, second) = ids.split_at(10);
            assert_ne!(first, second);
            assert_eq!(sorted(first.to_vec()), (1..=10).collect::<Vec<_>>());
            assert_eq!(sorted(second.to_vec()), (1..=10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_seed_one_stream_whatever_step_is_asked_first() {
        for (packing, group_by_length) in [(false, false), (true, false), (false, true)] {
            let config = StreamConfig { packing, group_by_length, ..config() };
            let sequential = stream(11, config.clone());
            let steps: Vec<_> = (0..20).map(|k| sequential.step(k).unwrap()).collect();
            for k in [19, 3, 0, 12] {
                assert_eq!(stream(11, config.clone()).step(k).unwrap(), steps[k], "a run resumed at step {k}");
                assert_eq!(sequential.step(k).unwrap(), steps[k]);
            }
            assert_ne!(rows(&stream(11, StreamConfig { seed: 8, ..config }), 5), rows(&sequential, 5));
        }
    }

    #[test]
    fn the_order_of_a_seed_does_not_change_between_releases() {
        assert_eq!(rows(&stream(10, config()), 2), [5, 7, 3, 1, 9, 4, 8, 6]);
    }

    #[test]
    fn a_step_larger_than_the_file_takes_several_epochs() {
        let stream = stream(3, StreamConfig { batch_size: 4, ..config() });
        let batches = stream.step(0).unwrap();
        assert_eq!(batches.iter().map(|batch| batch.batch).collect::<Vec<_>>(), [4, 4]);
        let ids = first_ids(&batches);
        for epoch in ids[..6].chunks(3) {
            assert_eq!(sorted(epoch.to_vec()), [1, 2, 3]);
        }
    }

    #[test]
    fn micro_batches_know_the_targets_of_their_step() {
        let batches = stream(10, config()).step(1).unwrap();
        let targets: usize = batches.iter().map(Batch::num_targets).sum();
        assert!(targets > batches[0].num_targets());
        assert!(batches.iter().all(|batch| batch.step_targets == targets));
    }

    #[test]
    fn grouping_by_length_spares_padding_and_begins_with_the_longest() {
        let config = StreamConfig { batch_size: 4, accumulation: 1, ..config() };
        let grouped = stream(200, StreamConfig { group_by_length: true, ..config.clone() });
        let cells =
            |stream: &Stream| (0..50).flat_map(|k| stream.step(k).unwrap()).map(|batch| batch.input_ids.len()).sum();
        let (with, without): (usize, usize) = (cells(&grouped), cells(&stream(200, config)));
        assert!(with * 10 < without * 9, "{with} against {without}");
        assert_eq!(grouped.step(0).unwrap()[0].lengths[0], 13);
    }

    #[test]
    fn packing_neither_loses_nor_mixes_tokens() {
        for (n, shuffle, seed) in [(1, true, 1), (9, false, 1), (40, true, 2), (41, true, 3), (40, false, 4)] {
            let config = StreamConfig { packing: true, shuffle, seed, batch_size: 1, accumulation: 1, ..config() };
            let stream = stream(n, config);
            for epoch in 0..2 {
                let steps = stream.rows_per_epoch();
                let batches: Vec<_> =
                    (epoch * steps..(epoch + 1) * steps).flat_map(|k| stream.step(k).unwrap()).collect();
                let mut seen = Vec::new();
                for batch in &batches {
                    assert!(batch.seq <= 24);
                    let (segments, positions) = (batch.segments.as_ref().unwrap(), batch.positions.as_ref().unwrap());
                    for at in 0..batch.seq {
                        let (id, goes_on) = (batch.input_ids[at], segments.get(at + 1) == Some(&segments[at]));
                        assert_eq!(batch.targets[at], if goes_on { id } else { -100 }, "targets stay in their example");
                        assert_eq!(positions[at] == 0, at == 0 || segments[at - 1] != segments[at]);
                    }
                    seen.extend(batch.input_ids.iter().copied());
                }
                let all =
                    examples(n).iter().flat_map(|example| example.input_ids.clone()).map(|id| id as i32).collect();
                assert_eq!(sorted(seen), sorted(all), "every token once an epoch");
            }
        }
    }

    #[test]
    fn evaluation_sees_everything_once_whatever_the_batch_size() {
        let examples = examples(10);
        for batch_size in [1, 3, 10, 99] {
            let all = EvalBatches::new(Arc::clone(&examples), batch_size, PAD).unwrap();
            let batches: Vec<_> = all.iter().map(Result::unwrap).collect();
            let parts = [all.slice(0, 1), all.slice(1, all.len())];
            let parts: Vec<_> =
                parts.iter().flat_map(EvalBatches::iter).map(|batch| batch.unwrap().input_ids).collect();
            assert_eq!(parts, batches.iter().map(|batch| batch.input_ids.clone()).collect::<Vec<_>>());
            assert_eq!(batches.len(), 10_usize.div_ceil(batch_size));
            assert_eq!(sorted(first_ids(&batches)), (1..=10).collect::<Vec<_>>());
            let targets: usize = batches.iter().map(Batch::num_targets).sum();
            assert!(batches.iter().all(|batch| batch.step_targets == targets));
        }
    }

    #[test]
    fn any_data_set_of_burn_is_streamed() {
        use burn::data::dataset::transform::{Mapper, MapperDataset, PartialDataset};
        use burn::data::dataset::{Dataset, DatasetError, InMemDataset};

        let unshuffled = StreamConfig { shuffle: false, accumulation: 1, ..config() };
        let of = |examples: Examples| Stream::new(examples, unshuffled.clone());
        let in_memory = || InMemDataset::new(examples(6).to_vec());
        /// Gives all tokens one id.
        struct AllAlike;
        impl Mapper<Example, Example> for AllAlike {
            fn map(&self, example: &Example) -> Example {
                Example { input_ids: vec![99; example.len()], ..example.clone() }
            }
        }
        let mapped = MapperDataset::new(in_memory(), AllAlike);
        assert_eq!(rows(&of(Examples::new(mapped)).unwrap(), 1), [99, 99]);
        let partial = Examples::new(PartialDataset::new(in_memory(), 2, 4));
        assert_eq!(rows(&of(partial).unwrap(), 2), [3, 4, 3, 4]);

        /// Fails at its second example.
        struct Own;
        impl Dataset<Example> for Own {
            fn get(&self, index: usize) -> Result<Example, DatasetError> {
                match index {
                    0 => Ok(Example { input_ids: vec![1, 2], labels: vec![1, 2] }),
                    _ => Err(DatasetError::new(std::io::Error::other("the disk is gone"))),
                }
            }

            fn len(&self) -> usize {
                2
            }
        }
        let own = of(Examples::new(Own)).unwrap();
        assert!(own.step(0).unwrap_err().to_string().contains("the disk is gone"));
    }

    #[test]
    fn what_gives_no_batches_is_refused() {
        let refused = |n, config| Stream::new(examples(n), config).unwrap_err().to_string();
        assert!(refused(0, config()).contains("no examples"));
        assert!(refused(1, StreamConfig { batch_size: 0, ..config() }).contains("batch_size is 0"));
        assert!(refused(1, StreamConfig { accumulation: 0, ..config() }).contains("accumulation is 0"));
        let unordered = StreamConfig { group_by_length: true, shuffle: false, ..config() };
        assert!(refused(1, unordered).contains("needs shuffle"));
        let both = StreamConfig { group_by_length: true, packing: true, ..config() };
        assert!(refused(1, both).contains("exclude each other"));
        for (batch_size, accumulation) in [(1 << 62, 1), (1, usize::MAX), (1 << 32, 1 << 32), (1 << 11, 1 << 10)] {
            let error = refused(1, StreamConfig { batch_size, accumulation, ..config() });
            assert!(error.contains("at most 1048576"), "{error}");
        }
    }
}
