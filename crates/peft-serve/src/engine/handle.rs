//! The engine's thread, and what others hold of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llama_burn::Text;
use tokio::sync::mpsc::unbounded_channel;

use super::core::Core;
use super::limits::Limits;
use super::{EngineConfig, Served};
use crate::error::{Result, ServeError};
use crate::metrics::Metrics;
use crate::request::{Answer, Request};
use crate::sequence::{Place, Sequence};
use crate::store::Store;

/// How long the engine waits for a load before it looks again whether a request was given up.
const PATIENCE: Duration = Duration::from_millis(20);

enum Command {
    Run(Box<Sequence>),
    Wake,
    Abort { end: bool },
}

/// The state that all handles of an engine share.
#[derive(Debug)]
struct Shared {
    limits: Limits,
    config: EngineConfig,
    text: Option<Arc<Text>>,
    eos_ids: Vec<u32>,
    store: Store,
    metrics: Arc<Metrics>,
    /// Requests that were handed over and have not ended.
    open: Arc<AtomicUsize>,
    draining: AtomicBool,
}

/// An engine on a thread of its own. It ends when it and its handles are gone.
#[derive(Debug)]
pub struct Engine {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Asks an engine for texts, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: Sender<Command>,
}

impl Engine {
    /// Starts an engine for `base`, whose adapters `store` has.
    ///
    /// # Errors
    /// No thread.
    pub fn start(base: Served, store: Store, config: EngineConfig) -> Result<Self> {
        let core = Core::new(&base, store.clone(), config.clone());
        let (commands, todo) = channel();
        let waker = commands.clone();
        store.on_change(Box::new(move || drop(waker.send(Command::Wake))));
        let shared = Arc::new(Shared {
            limits: core.limits(),
            config,
            text: base.text,
            eos_ids: base.model.config().eos_token_ids.clone(),
            store,
            metrics: base.metrics,
            open: Arc::default(),
            draining: AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || work(core, &todo));
        let thread = thread.map_err(|error| ServeError::Failed(format!("no thread for the engine: {error}")))?;
        Ok(Self { handle: Handle { shared, commands }, thread: Some(thread) })
    }

    /// A handle to it, from which others are cloned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.shared.draining.store(true, Ordering::Relaxed);
        let _ = self.handle.commands.send(Command::Abort { end: true });
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(mut core: Core, todo: &Receiver<Command>) {
    let mut stuck = false;
    loop {
        let first = if core.is_idle() {
            todo.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            todo.recv_timeout(if stuck { PATIENCE } else { Duration::ZERO })
        };
        let first = match first {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        for command in first.into_iter().chain(todo.try_iter()) {
            match command {
                Command::Run(sequence) => core.take(sequence),
                Command::Wake => {}
                Command::Abort { end } => {
                    core.abort(&ServeError::ShuttingDown);
                    if end {
                        return;
                    }
                }
            }
        }
        stuck = !core.step(Instant::now());
    }
}

impl Handle {
    /// Asks for a text, made of its tokens by the base's tokenizer. The answer's events come as it is made.
    ///
    /// # Errors
    /// A request that the engine cannot run, an adapter that nobody knows, a full queue, an engine that is shutting down.
    pub fn submit(&self, request: Request) -> Result<Answer> {
        self.submit_as(request, self.shared.text.clone())
    }

    /// As [`Self::submit`], with what makes text of its tokens.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_as(&self, request: Request, text: Option<Arc<Text>>) -> Result<Answer> {
        let shared = &self.shared;
        if self.is_draining() {
            return Err(ServeError::ShuttingDown);
        }
        shared.limits.check(&request)?;
        if let Some(name) = request.adapter.as_ref().filter(|name| !shared.store.knows(name)) {
            return Err(ServeError::UnknownModel(name.to_string()));
        }
        let (sink, events) = unbounded_channel();
        let sequence = Sequence::new(0, request, text, sink, Instant::now())?;
        let waiting = self.reserve()?;
        let sequence = Box::new(sequence.counted(waiting));
        self.commands.send(Command::Run(sequence)).map_err(|_| ServeError::ShuttingDown)?;
        Ok(Answer { events })
    }

    /// A place among those that wait.
    fn reserve(&self) -> Result<Place> {
        let most = self.shared.config.max_queue + self.shared.config.max_batch;
        let open = &self.shared.open;
        let taken = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1));
        match taken {
            Ok(_) => Ok(Place(Arc::clone(open))),
            Err(_) => Err(ServeError::QueueFull { waiting: self.shared.config.max_queue }),
        }
    }

    /// The adapters.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The base's tokenizer and template.
    pub fn text(&self) -> Option<&Arc<Text>> {
        self.shared.text.as_ref()
    }

    /// The engine's counters in Prometheus' text format.
    pub fn metrics_text(&self) -> String {
        let (metrics, adapters) = (&self.shared.metrics, self.shared.store.counts());
        metrics.adapter_bytes.set(self.shared.store.used_bytes() as i64);
        metrics.adapter_shared_bytes.set(self.shared.store.shared_bytes() as i64);
        metrics.adapters_registered.set(adapters.registered as i64);
        metrics.adapters_resident.set(adapters.resident as i64);
        metrics.adapter_leases.set(adapters.leases as i64);
        metrics.text()
    }

    /// Tokens that end a text where there is no tokenizer to say so.
    pub fn eos_ids(&self) -> &[u32] {
        &self.shared.eos_ids
    }

    /// Tokens of a prompt and its answer together.
    pub fn context(&self) -> usize {
        self.shared.limits.context
    }

    /// Tokens that the blocks of one sequence can hold, and the context allows.
    pub fn longest(&self) -> usize {
        self.shared.limits.context.min(self.shared.limits.blocks * self.shared.limits.block_tokens)
    }

    /// How many requests have not ended.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Blocks of keys and values that are taken.
    pub fn blocks_taken(&self) -> usize {
        self.shared.limits.taken.load(Ordering::Relaxed)
    }

    /// Whether no new requests are taken.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Takes no new requests from now on; those that are open go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Ends every request that is open with an error.
    pub fn abort(&self) {
        let _ = self.commands.send(Command::Abort { end: false });
    }
}
