//! How adapters come into memory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use llama_burn::Text;

use super::folder::{Folder, name_problem};
use super::info::{LoadOptions, StoreUse};
use super::load::{Loaded, Loader};
use super::resident::{Charge, Ready};
use super::table::{Entry, Table};
use crate::error::{Result, ServeError};
use crate::metrics::Metrics;

pub(super) type Waker = Box<dyn Fn() + Send + Sync>;

/// A load that is to be done.
#[derive(Debug)]
pub(super) struct Job {
    pub name: Arc<str>,
    pub path: PathBuf,
    pub number: u64,
}

/// The state that all clones of a store share.
pub(super) struct Inner {
    pub base_name: String,
    pub base_dir: Option<PathBuf>,
    pub base_text: Option<Arc<Text>>,
    pub folder: Option<Folder>,
    pub limit: usize,
    pub used: Arc<AtomicUsize>,
    pub table: Mutex<Table>,
    pub loader: Loader,
    pub jobs: Mutex<Option<Sender<Job>>>,
    pub wakers: RwLock<Vec<Waker>>,
    pub metrics: Arc<Metrics>,
}

/// The next load that is to be done; `None` when the store is gone.
pub(super) fn next_job(todo: &Mutex<Receiver<Job>>) -> Option<Job> {
    todo.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Inner {
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn knows(&self, name: &str) -> bool {
        let mut table = self.table();
        if table.entries.contains_key(name) {
            return true;
        }
        if name == self.base_name || table.removed.contains(name) {
            return false;
        }
        let found = self.folder.as_ref().and_then(|folder| folder.find(name));
        found.is_some_and(|path| {
            table.entries.insert(name.into(), Entry::new(path));
            true
        })
    }

    pub fn lease(&self, name: &str, asked: Option<u64>) -> StoreUse {
        if !self.knows(name) {
            return StoreUse::Failed(ServeError::UnknownModel(name.to_owned()));
        }
        let mut table = self.table();
        table.tick += 1;
        let (tick, next) = (table.tick, table.loads + 1);
        let Some(entry) = table.entries.get_mut(name) else {
            return StoreUse::Failed(ServeError::UnknownModel(name.to_owned()));
        };
        entry.used = tick;
        if let Some(resident) = &entry.resident {
            if asked.is_none() {
                self.metrics.adapter_hits.inc();
            }
            return StoreUse::Ready(Arc::clone(resident));
        }
        if let Some(number) = entry.loading {
            return StoreUse::Loading(number);
        }
        if let (Some(asked), Some((failed, error))) = (asked, &entry.failure)
            && *failed >= asked
        {
            return StoreUse::Failed(error.clone());
        }
        entry.loading = Some(next);
        let job = Job { name: name.into(), path: entry.path.clone(), number: next };
        table.loads = next;
        drop(table);
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match jobs.as_ref().map(|jobs| jobs.send(job)) {
            Some(Ok(())) => StoreUse::Loading(next),
            _ => StoreUse::Failed(ServeError::ShuttingDown),
        }
    }

    /// Does a load that was asked for by a request.
    pub fn run(&self, job: &Job) {
        let done = self.read(&job.name, &job.path);
        let mut table = self.table();
        // An entry that was replaced or forgotten meanwhile has no use for it.
        if let Some(entry) = table.entries.get_mut(&job.name).filter(|entry| entry.loading == Some(job.number)) {
            entry.loading = None;
            match done {
                Ok(ready) => {
                    entry.put(&job.name, ready);
                    self.metrics.adapter_loads.inc();
                }
                Err(error) => entry.failure = Some((job.number, error)),
            }
        }
        drop(table);
        self.wake();
    }

    fn wake(&self) {
        self.wakers.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(|wake| wake());
    }

    /// Reads and packs an adapter, with its memory reserved before.
    fn read(&self, name: &Arc<str>, path: &Path) -> Result<Ready> {
        let failed = |message: String| ServeError::Adapter { name: name.to_string(), message };
        let folder = self.folder.as_ref().ok_or_else(|| ServeError::UnknownModel(name.to_string()))?;
        let files = folder.read(path).map_err(failed)?;
        let stamp = files.stamp;
        let load = || self.loader.load(files, |bytes| self.reserve(name, bytes), failed);
        // A panic in reading a file must not take the thread with it.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(load));
        let (loaded, mut charge) = loaded.unwrap_or_else(|_| Err(failed("reading it failed".into())))?;
        let Loaded { pack, peft_type, warnings } = loaded;
        warnings.iter().for_each(|warning| tracing::warn!("{name}: {warning}"));
        charge.set(pack.num_bytes());
        Ok(Ready { pack: Arc::new(pack), peft_type, charge, stamp })
    }

    /// Sets bytes aside, for which adapters are put out that are not in use.
    fn reserve(&self, name: &str, bytes: usize) -> Result<Charge> {
        let no_room = |reason: String, temporary| ServeError::NoRoom { name: name.to_owned(), reason, temporary };
        if bytes > self.limit {
            return Err(no_room(format!("it takes {bytes} bytes, and adapters may take {}", self.limit), false));
        }
        let mut table = self.table();
        while self.used.load(Ordering::Relaxed) + bytes > self.limit {
            if !table.evict(false) {
                return Err(no_room("every adapter in memory is in use or pinned".into(), true));
            }
            self.metrics.adapter_evictions.inc();
        }
        Ok(Charge::new(&self.used, bytes))
    }

    pub fn load(&self, name: &str, path: &str, options: &LoadOptions) -> Result<()> {
        if let Some(problem) = name_problem(name) {
            return Err(ServeError::invalid("lora_name", format!("`{name}`: {problem}")));
        }
        if name == self.base_name {
            return Err(ServeError::invalid("lora_name", format!("`{name}` is the base's name")));
        }
        let relative = Folder::relative(path).map_err(|message| ServeError::invalid("lora_path", message))?;
        let known = self.knows(name);
        {
            let table = self.table();
            let entry = table.entries.get(name);
            if let Some(expected) = options.expected_generation {
                let found = entry.map_or(0, |entry| entry.generation);
                if found != expected {
                    return Err(ServeError::Generation { name: name.to_owned(), found, expected });
                }
            }
            let same_path = entry.is_some_and(|entry| entry.generation == 0 && self.same_place(&entry.path, &relative));
            if known && !options.in_place && !same_path {
                let message = format!(
                    "the adapter `{name}` is there already; load it with \"load_inplace\": true to replace it, or unload it"
                );
                return Err(ServeError::Invalid {
                    message,
                    param: Some("lora_name".into()),
                    code: Some("adapter_exists"),
                });
            }
        }
        let name: Arc<str> = name.into();
        let ready = self.read(&name, &relative).map_err(|error| match error {
            ServeError::Adapter { message, .. } => ServeError::invalid("lora_path", message),
            other => other,
        })?;
        let mut table = self.table();
        table.removed.remove(&name);
        table.tick += 1;
        let tick = table.tick;
        let entry = table.entries.entry(Arc::clone(&name)).or_insert_with(|| Entry::new(relative.clone()));
        if let Some(expected) = options.expected_generation.filter(|expected| *expected != entry.generation) {
            return Err(ServeError::Generation { name: name.to_string(), found: entry.generation, expected });
        }
        // A load by a request that is under way has come too late.
        (entry.loading, entry.failure, entry.text, entry.stamp) = (None, None, None, None);
        (entry.path, entry.pinned, entry.used) = (relative, options.pinned, tick);
        entry.put(&name, ready);
        self.metrics.adapter_loads.inc();
        drop(table);
        self.wake();
        Ok(())
    }

    /// Whether two paths below the folder are one adapter.
    fn same_place(&self, a: &Path, b: &Path) -> bool {
        let dir = |path: &Path| self.folder.as_ref().and_then(|folder| folder.dir(path).ok());
        dir(a).is_some_and(|a| Some(a) == dir(b))
    }

    pub fn text(&self, name: &str) -> Result<Option<Arc<Text>>> {
        let (Some(base), Some(dir), Some(folder)) = (&self.base_text, &self.base_dir, &self.folder) else {
            return Ok(self.base_text.clone());
        };
        let path = {
            let table = self.table();
            let Some(entry) = table.entries.get(name) else { return Err(ServeError::UnknownModel(name.to_owned())) };
            if let Some(text) = &entry.text {
                return Ok(Some(Arc::clone(text)));
            }
            entry.path.clone()
        };
        let failed = |message: String| ServeError::Adapter { name: name.to_owned(), message };
        let at = folder.dir(&path).map_err(failed)?;
        let own = base.of_adapter(dir, &at).map_err(|error| failed(folder.hide(&error.to_string())))?;
        let text = own.map_or_else(|| Arc::clone(base), Arc::new);
        if let Some(entry) = self.table().entries.get_mut(name).filter(|entry| entry.path == path) {
            entry.text = Some(Arc::clone(&text));
        }
        Ok(Some(text))
    }
}
