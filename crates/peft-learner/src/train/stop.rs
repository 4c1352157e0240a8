//! Requests to end a run: from the program, from the dashboard, from Ctrl-C and SIGTERM.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use burn::train::Interrupter;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::exit;

use crate::error::{LearnerError, Result};
use crate::report::restore_terminal;

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
            signal => Some(Reason::Signal(signal)),
        }
    }
}

/// The signals of this process. A thread waits for them, as long as the process lives.
#[derive(Default)]
struct Signals {
    /// The first signal; 0 before it.
    which: AtomicI32,
    /// The runs that listen.
    runs: AtomicUsize,
}

static SIGNALS: OnceLock<Arc<Signals>> = OnceLock::new();

impl Signals {
    fn install() -> io::Result<Arc<Self>> {
        let (signals, arriving) = (Arc::new(Self::default()), arriving()?);
        let shared = signals.clone();
        let wait = move || arriving.for_each(|signal| shared.arrived(signal));
        std::thread::Builder::new().name("signals".into()).spawn(wait)?;
        Ok(signals)
    }

    /// The first signal of a run is noted; any other ends the process at once.
    fn arrived(&self, signal: i32) {
        let runs = self.runs.load(Ordering::SeqCst);
        let first = self.which.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if runs == 0 || !first {
            restore_terminal();
            exit(128 + signal);
        }
    }
}

/// Every Ctrl-C and SIGTERM from now on.
#[cfg(unix)]
fn arriving() -> io::Result<impl Iterator<Item = i32>> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    Ok(std::iter::from_fn(move || signals.forever().next()))
}

/// The same where the system wakes nobody for them: they are looked for ten times a second.
#[cfg(not(unix))]
fn arriving() -> io::Result<impl Iterator<Item = i32>> {
    let newest = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_usize(signal, newest.clone(), signal as usize)?;
    }
    Ok(std::iter::from_fn(move || {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(100));
            match newest.swap(0, Ordering::SeqCst) {
                0 => {}
                signal => return Some(signal as i32),
            }
        }
    }))
}

/// A run that lasts while this does.
struct Listening(Arc<Signals>);

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
        }
        Ok(Self(signals.clone()))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.runs.fetch_sub(1, Ordering::SeqCst);
    }
}
