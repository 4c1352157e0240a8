//! The batch, step by step.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use llama_burn::{CausalModel, Finish, Llama, Text};
use tokio::sync::mpsc::unbounded_channel;

use super::lease::lease;
use super::limits::Limits;
use super::pass::forward;
use super::{EngineConfig, Served};
use crate::blocks::BlockPool;
use crate::error::{Result, ServeError};
use crate::metrics::Metrics;
use crate::queue::{Queue, Tenant};
use crate::request::{Answer, Event, Request};
use crate::sequence::Sequence;
use crate::store::Store;

/// The engine without its thread: whoever has it says when a step is made, and what time it is.
#[derive(Debug)]
pub struct Core {
    model: Llama,
    context: usize,
    pool: BlockPool,
    store: Store,
    queue: Queue,
    #[allow(clippy::vec_box, reason = "a sequence is large, and moves between the queue, the batch and what runs")]
    running: Vec<Box<Sequence>>,
    config: EngineConfig,
    metrics: Arc<Metrics>,
    requests: u64,
}

impl Core {
    /// An engine for `base`, whose adapters `store` has.
    pub fn new(base: &Served, store: Store, config: EngineConfig) -> Self {
        let model = base.model.clone();
        let context = model.config().fixed_context();
        let context = config.max_model_len.map_or(context, |len| len.min(context));
        let pool = BlockPool::new(model.block_shape(), config.cache_memory);
        Self {
            context,
            pool,
            store,
            queue: Queue::default(),
            running: Vec::new(),
            config,
            metrics: Arc::clone(&base.metrics),
            requests: 0,
            model,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            vocab: self.model.spec().vocab_size,
            context: self.context,
            blocks: self.pool.limit(),
            block_tokens: self.model.block_shape().tokens,
            taken: self.pool.shared_count(),
        }
    }

    /// Takes a request, whose text `text` makes.
    ///
    /// # Errors
    /// A request that the engine cannot run, and a full queue.
    pub fn submit(&mut self, request: Request, text: Option<&Arc<Text>>, now: Instant) -> Result<Answer> {
        self.limits().check(&request)?;
        if self.queue.len() >= self.config.max_queue {
            return Err(ServeError::QueueFull { waiting: self.queue.len() });
        }
        let (sink, events) = unbounded_channel();
        let sequence = Sequence::new(self.requests, request, text.cloned(), sink, now)?;
        self.take(Box::new(sequence));
        Ok(Answer { events })
    }

    /// Takes a request that was checked.
    pub(crate) fn take(&mut self, mut sequence: Box<Sequence>) {
        sequence.id = self.requests;
        self.requests += 1;
        self.queue.push(sequence);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.len() == 0
    }

    /// How many requests run, and how many wait.
    pub fn load(&self) -> [usize; 2] {
        [self.running.len(), self.queue.len()]
    }

    /// Blocks of keys and values that are taken.
    pub fn blocks_taken(&self) -> usize {
        self.pool.taken()
    }

    /// Ends every request with `error`.
    pub fn abort(&mut self, error: &ServeError) {
        let waiting = self.queue.take_if(|_| true);
        for sequence in self.running.drain(..).collect::<Vec<_>>().into_iter().chain(waiting) {
            self.end(sequence, Event::Failed(error.clone()), Instant::now());
        }
        self.observe();
    }

    /// Makes one step: lets go of requests that nobody waits for, lets others begin, runs the next token of each and a part
    /// of the prompts, and sends what is new. Returns whether anything was run.
    pub fn step(&mut self, now: Instant) -> bool {
        self.let_go(now);
        self.admit(now);
        let chosen = self.choose();
        let ran = !chosen.is_empty();
        if ran {
            let begun = Instant::now();
            self.run(chosen, now);
            self.metrics.step.observe(begun.elapsed().as_secs_f64());
        }
        self.observe();
        ran
    }

    fn let_go(&mut self, now: Instant) {
        let mut gone = self.queue.take_if(Sequence::is_abandoned);
        let (out, stay) = std::mem::take(&mut self.running).into_iter().partition(|sequence| sequence.is_abandoned());
        self.running = stay;
        gone.extend::<Vec<_>>(out);
        gone.into_iter().for_each(|sequence| self.end(sequence, Event::Failed(ServeError::Cancelled), now));
    }

    /// Lets waiting requests begin, those first whose tenants have the fewest running.
    fn admit(&mut self, now: Instant) {
        let mut stuck: Vec<Tenant> = Vec::new();
        while self.running.len() < self.config.max_batch {
            let mut counts: HashMap<&Tenant, usize> = HashMap::new();
            self.running.iter().for_each(|sequence| *counts.entry(&sequence.adapter).or_default() += 1);
            let order = self.queue.in_turn(|tenant| counts.get(tenant).copied().unwrap_or(0));
            let Some(tenant) = order.into_iter().find(|tenant| !stuck.contains(tenant)) else { return };
            let Some(sequence) = self.queue.front(&tenant) else { return };
            match lease(&self.store, sequence, now, self.config.adapter_wait) {
                Ok(true) => {}
                Ok(false) => {
                    stuck.push(tenant);
                    continue;
                }
                Err(error) => {
                    if let Some(sequence) = self.queue.pop(&tenant) {
                        self.end(sequence, Event::Failed(error), now);
                    }
                    continue;
                }
            }
            // A prompt that begins has room for its first part, and what runs has room for a token each.
            let first = sequence.left_to_run().min(self.config.max_prefill);
            let blocks = self.model.block_shape().blocks_for(first) + self.running.len();
            if !self.running.is_empty() && self.pool.taken() + blocks > self.pool.limit() {
                return;
            }
            let Some(sequence) = self.queue.pop(&tenant) else { return };
            self.running.push(sequence);
        }
    }

    /// How many tokens of which running requests the next step runs, with blocks for them. Who finds none is set back: the
    /// youngest first.
    fn choose(&mut self) -> Vec<(u64, usize)> {
        self.running.sort_by_key(|sequence| sequence.id);
        let mut chosen = Vec::new();
        let mut left = self.config.max_prefill.max(1);
        let mut at = 0;
        while at < self.running.len() {
            let pending = self.running[at].left_to_run();
            let count = if pending == 1 { 1 } else { pending.min(left) };
            if count == 0 {
                at += 1;
                continue;
            }
            let sequence = &mut self.running[at];
            if self.pool.grow(&mut sequence.blocks, sequence.cached + count) {
                left -= if pending == 1 { 0 } else { count };
                chosen.push((sequence.id, count));
                at += 1;
                continue;
            }
            // The last one is the youngest; it may be this one.
            if let Some(mut youngest) = self.running.pop() {
                self.metrics.preemptions.inc();
                self.pool.give_back(&mut youngest.blocks);
                youngest.cached = 0;
                self.queue.push_front(youngest);
            }
        }
        chosen
    }

    /// Runs the chosen tokens and sends what comes of them.
    fn run(&mut self, chosen: Vec<(u64, usize)>, now: Instant) {
        let mut batch: Vec<(Box<Sequence>, usize)> = Vec::with_capacity(chosen.len());
        let mut chosen = chosen.into_iter().peekable();
        for sequence in std::mem::take(&mut self.running) {
            match chosen.next_if(|(id, _)| *id == sequence.id) {
                Some((_, count)) => batch.push((sequence, count)),
                None => self.running.push(sequence),
            }
        }
        // Rows of one adapter lie together, and those of adapters that share a product.
        batch.sort_by_key(|(sequence, _)| {
            let pack = sequence.lease.as_ref().map(|lease| lease.pack());
            (pack.map_or(0, |pack| pack.kin()), pack.map_or(0, |pack| Arc::as_ptr(pack).addr()), sequence.id)
        });
        let held: Vec<usize> = batch.iter().map(|(sequence, _)| sequence.blocks.len()).collect();
        let outcome = catch_unwind(AssertUnwindSafe(|| forward(&self.model, &mut batch)));
        let logits = match outcome {
            Ok(logits) => logits,
            Err(_) => {
                for ((sequence, _), held) in batch.iter_mut().zip(held) {
                    self.pool.forget(held - sequence.blocks.len());
                }
                let error =
                    ServeError::Failed("the model failed in a pass; the requests of that pass are given up".into());
                batch.into_iter().for_each(|(sequence, _)| self.end(sequence, Event::Failed(error.clone()), now));
                return;
            }
        };
        for ((mut sequence, count), rows) in batch.into_iter().zip(logits) {
            let prompt = sequence.prompt().len();
            let new = prompt.saturating_sub(sequence.cached).min(count);
            self.metrics.prompt_tokens.inc_by(new as u64);
            let ended = self.see(&mut sequence, count, &rows, now);
            match ended {
                Ok(None) => self.running.push(sequence),
                Ok(Some(reason)) => {
                    let usage = sequence.usage();
                    self.end(sequence, Event::Finished { reason, usage }, now);
                }
                Err(error) => self.end(sequence, Event::Failed(error), now),
            }
        }
    }

    /// Takes the logits of a sequence's `count` next tokens: of all of them, or of the last, or none where a prompt goes on.
    fn see(&self, sequence: &mut Sequence, count: usize, rows: &[Vec<f32>], now: Instant) -> Result<Option<Finish>> {
        let start = sequence.cached;
        sequence.cached += count;
        if sequence.wants_prompt_logprobs() {
            for (i, logits) in rows.iter().enumerate() {
                sequence.see_prompt(start + count - rows.len() + i, logits);
            }
        }
        if sequence.left_to_run() > 0 {
            return Ok(None);
        }
        let Some(logits) = rows.last() else {
            return Err(ServeError::Failed("a pass gave no logits".into()));
        };
        sequence.send_prompt();
        let before = sequence.generated();
        let ended = sequence.advance(logits, self.context)?;
        if sequence.generated() > before {
            self.metrics.generation_tokens.inc();
            match sequence.last_token {
                None => self.metrics.first_token.observe((now - sequence.arrived).as_secs_f64()),
                Some(last) => self.metrics.between_tokens.observe((now - last).as_secs_f64()),
            }
            sequence.first_token.get_or_insert(now);
            sequence.last_token = Some(now);
        }
        Ok(ended)
    }

    /// Lets a sequence go with its blocks and its lease, and says how it ended.
    fn end(&mut self, mut sequence: Box<Sequence>, event: Event, now: Instant) {
        self.pool.give_back(&mut sequence.blocks);
        sequence.lease = None;
        let reason = match &event {
            Event::Finished { reason, .. } => Some(*reason),
            _ => None,
        };
        self.metrics.ended(reason);
        self.metrics.whole.observe((now - sequence.arrived).as_secs_f64());
        sequence.send(event);
    }

    fn observe(&self) {
        self.metrics.running.set(self.running.len() as i64);
        self.metrics.waiting.set(self.queue.len() as i64);
        self.metrics.cache_use.set(self.pool.taken() as f64 / self.pool.limit() as f64);
    }
}
