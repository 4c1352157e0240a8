//! The terminal under the dashboard: Ctrl-C stays a signal there, and a process that ends at once leaves it as it was.
//!
//! The dashboard sets raw mode, in which Ctrl-C is a key like any other, of which Burn's renderer knows nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Mouse reports off, back from the alternate screen, the cursor shown.
const LEAVE: &[u8] = b"\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h";
/// A character that switches a special key off.
const DISABLED: u8 = 0;

/// The modes of the terminal before the newest dashboard.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal that the dashboard reads keys from; none where there is none.
pub(super) struct Terminal(Option<File>);

impl Terminal {
    /// To be called before the dashboard is there.
    pub fn begin() -> Self {
        let terminal = open().ok();
        let modes = terminal.as_ref().and_then(|terminal| tcgetattr(terminal).ok());
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = modes;
        Self(terminal)
    }

    /// Makes Ctrl-C a signal again, once the dashboard, which starts on a thread of its own, has set raw mode.
    pub fn keep_ctrl_c(self) {
        let Some(terminal) = self.0 else { return };
        std::thread::spawn(move || {
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(10) {
                let Ok(mut modes) = tcgetattr(&terminal) else { return };
                if !modes.local_modes.contains(LocalModes::ICANON) {
                    modes.local_modes |= LocalModes::ISIG;
                    // These would leave the shell with the dashboard's screen.
                    for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
                        modes.special_codes[key] = DISABLED;
                    }
                    let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    }
}

/// Leaves the terminal as it was before the dashboard, if there was one.
pub(crate) fn restore() {
    let Some(modes) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let Ok(terminal) = open() else { return };
    let raw = tcgetattr(&terminal).is_ok_and(|now| !now.local_modes.contains(LocalModes::ICANON));
    if raw {
        let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
        let _ = io::stdout().write_all(LEAVE).and_then(|()| io::stdout().flush());
    }
}

/// Standard input where it is a terminal, else the process's terminal: as crossterm chooses.
fn open() -> io::Result<File> {
    let input = io::stdin();
    if input.is_terminal() {
        return Ok(File::from(input.as_fd().try_clone_to_owned()?));
    }
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}
