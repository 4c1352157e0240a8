//! A hub that falls silent. `hf-hub` sets no timeout and lets none be set, so its calls run beside a clock.

use std::io;
use std::sync::mpsc::channel;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::ApiError;
use indicatif::ProgressBar;

enum Sign<T> {
    Alive,
    Done(Result<T, ApiError>),
}

/// Does `work` and gives up when it shows no sign of life for `patience`. What is given up stays behind in a thread
/// of its own until its connection ends.
pub(super) fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce(Life) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (sender, signs) = channel();
    std::thread::spawn(move || {
        let alive = sender.clone();
        // Nobody listens any more after a timeout.
        let life = Life(Box::new(move || alive.send(Sign::Alive).unwrap_or_default()));
        let _ = sender.send(Sign::Done(work(life)));
    });
    loop {
        match signs.recv_timeout(patience) {
            Ok(Sign::Alive) => {}
            Ok(Sign::Done(result)) => return result,
            Err(_) => {
                let silence = format!("nothing came for {} seconds", patience.as_secs_f64());
                return Err(io::Error::new(io::ErrorKind::TimedOut, silence).into());
            }
        }
    }
}

/// How work shows that it goes on.
pub(super) struct Life(Box<dyn Fn() + Send>);

/// A download's progress bar, which shows that the download goes on.
pub(super) struct Watched {
    pub bar: ProgressBar,
    pub life: Life,
}

impl Progress for Watched {
    fn init(&mut self, size: usize, filename: &str) {
        (self.life.0)();
        Progress::init(&mut self.bar, size, filename);
    }

    fn update(&mut self, size: usize) {
        (self.life.0)();
        Progress::update(&mut self.bar, size);
    }

    fn finish(&mut self) {
        Progress::finish(&mut self.bar);
    }
}
