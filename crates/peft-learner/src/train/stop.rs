//! Requests to end a run: from the program, from the dashboard, from Ctrl-C and SIGTERM.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use burn::train::Interrupter;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{LearnerError, Result};

/// Why a run was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// From within the program, or by the user of the dashboard.
    Asked,
    /// A signal, by its number.
    Signal(i32),
}

/// Ends a run from elsewhere, such as another thread: the present step is finished, and a checkpoint written.
#[derive(Clone, Default)]
pub struct StopHandle(Interrupter);

impl StopHandle {
    /// A handle that has not been used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to end.
    pub fn stop(&self) {
        self.0.stop(None);
    }

    /// Burn's own kind of handle to the same request.
    pub(crate) fn interrupter(&self) -> Interrupter {
        self.0.clone()
    }
}

impl std::fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StopHandle").field("stopped", &self.0.should_stop()).finish()
    }
}

/// Where a run looks for requests.
pub(crate) struct Requests {
    handle: StopHandle,
    signals: Option<Listening>,
}

impl Requests {
    /// Requests by `handle`, and by Ctrl-C and SIGTERM where `signals` says so.
    ///
    /// # Errors
    /// A system that does not let the process handle its signals.
    pub fn new(handle: StopHandle, signals: bool) -> Result<Self> {
        Ok(Self { handle, signals: signals.then(Listening::begin).transpose()? })
    }

    /// The request that was made, if any.
    pub fn reason(&self) -> Option<Reason> {
        let signal = self.signals.as_ref().map_or(0, |listening| listening.0.which.load(Ordering::SeqCst));
        match signal {
            0 => self.handle.0.should_stop().then_some(Reason::Asked),
            signal => Some(Reason::Signal(signal as i32)),
        }
    }
}

/// The pipe that the handlers of this process write to. They are installed once and stay: taken away, they would leave
/// signals without effect.
struct Signals {
    /// The first signal; 0 before it.
    which: Arc<AtomicUsize>,
    /// Whether the next signal ends the process at once.
    armed: Arc<AtomicBool>,
    runs: AtomicUsize,
}

static SIGNALS: OnceLock<Signals> = OnceLock::new();

impl Signals {
    fn install() -> std::io::Result<Self> {
        let (which, armed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal arms what ends the process at the second.
            flag::register_conditional_shutdown(signal, 128 + signal, armed.clone())?;
            flag::register(signal, armed.clone())?;
            flag::register_usize(signal, which.clone(), signal as usize)?;
        }
        Ok(Self { which, armed, runs: AtomicUsize::new(0) })
    }
}

/// A run that lasts while this does.
struct Listening(&'static Signals);

impl Listening {
    fn begin() -> Result<Self> {
        let signals = match SIGNALS.get() {
            Some(signals) => signals,
            None => {
                let new = Signals::install().map_err(LearnerError::Signals)?;
                SIGNALS.get_or_init(|| new)
            }
        };
        if signals.runs.fetch_add(1, Ordering::SeqCst) == 0 {
            signals.which.store(0, Ordering::SeqCst);
            signals.armed.store(false, Ordering::SeqCst);
        }
        Ok(Self(signals))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.0.runs.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.armed.store(true, Ordering::SeqCst);
        }
    }
}
