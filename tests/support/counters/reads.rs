//! Reads of a device by the host.

use std::sync::atomic::{AtomicUsize, Ordering};

use log::{LevelFilter, Log, Metadata, Record};

/// Counts the buffers that are mapped to be read. wgpu logs each of them, whatever it holds; other runtimes do not.
#[derive(Debug)]
pub struct Reads(AtomicUsize);

static READS: Reads = Reads(AtomicUsize::new(0));

impl Log for Reads {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wgpu_core")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && record.args().to_string().starts_with("Buffer::map_async") {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

impl Reads {
    /// Makes this the process's logger, if it has none.
    pub fn watch() {
        if log::set_logger(&READS).is_ok() {
            log::set_max_level(LevelFilter::Trace);
        }
    }

    /// How many there were since [`Self::watch`].
    pub fn so_far() -> usize {
        READS.0.load(Ordering::SeqCst)
    }
}
