//! How examples become micro-batches.

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

impl StreamConfig {
    /// Micro-batches of `batch_size` rows, one a step, in a new order each epoch.
    ///
    /// ```
    /// use peft_learner::data::StreamConfig;
    /// let config = StreamConfig::new(8).with_accumulation(4).with_packing(1024);
    /// assert_eq!((config.accumulation, config.packing, config.max_length), (4, true, 1024));
    /// ```
    pub fn new(batch_size: usize) -> Self {
        Self {
            batch_size,
            accumulation: 1,
            shuffle: true,
            group_by_length: false,
            packing: false,
            max_length: 0,
            pad_id: 0,
            seed: 42,
        }
    }

    /// Packs several examples into a row of at most `max_length` tokens.
    pub fn with_packing(self, max_length: usize) -> Self {
        Self { packing: true, max_length, ..self }
    }
}

peft_burn::setters!(StreamConfig {
    /// Sets the micro-batches an optimiser step, those of all devices together.
    with_accumulation(micro_batches: usize) { accumulation: micro_batches }
    /// Draws a new order each epoch, or keeps that of the examples.
    with_shuffle(on: bool) { shuffle: on }
    /// Puts rows of similar length into one micro-batch, or not.
    with_group_by_length(on: bool) { group_by_length: on }
    /// Sets the token that fills a row up.
    with_pad_id(id: u32) { pad_id: id }
    /// Sets the seed of the orders.
    with_seed(seed: u64) { seed: seed }
});
