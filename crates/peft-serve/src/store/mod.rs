//! The adapters: registered, loading, resident, or retired while they are in use.

mod folder;
mod load;
mod resident;
mod table;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use llama_burn::Text;

use crate::engine::Served;
use crate::error::{Result, ServeError};
use crate::metrics::Metrics;
use folder::{Folder, name_problem};
use load::{Loaded, Loader};
use resident::Charge;
pub use resident::Resident;
use table::{Entry, Table};

/// Where adapters come from, and how much memory they may take.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The folder that they lie in; none without.
    pub folder: Option<PathBuf>,
    /// Bytes that adapters in memory may take.
    pub memory: usize,
    /// Threads that load.
    pub threads: usize,
    /// The largest file of weights, in bytes.
    pub file_limit: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { folder: None, memory: 4 << 30, threads: 2, file_limit: 8 << 30 }
    }
}

/// How an adapter is to be loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Take the place of an adapter of that name, which requests that run keep.
    pub in_place: bool,
    /// Never put it out of memory to make room.
    pub pinned: bool,
    /// Replace only this generation.
    pub expected_generation: Option<u64>,
}

/// Where an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its name is known.
    Registered,
    /// It is being loaded.
    Loading,
    /// It is in memory.
    Resident,
}

impl State {
    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Loading => "loading",
            Self::Resident => "resident",
        }
    }
}

/// What is known of an adapter.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The method, as PEFT's files name it; `None` where its configuration cannot be read.
    pub peft_type: Option<String>,
    /// Where it is.
    pub state: State,
    /// How often it was replaced, from 1 on; 0 before it was loaded.
    pub generation: u64,
    /// Bytes in memory.
    pub bytes: usize,
    /// Whether it stays in memory.
    pub pinned: bool,
    /// How many requests use it.
    pub leases: usize,
}

/// What asking for an adapter comes to.
#[derive(Debug)]
pub enum StoreUse {
    /// It is in memory.
    Ready(Arc<Resident>),
    /// It is being loaded, by the load of this number: ask again with it.
    Loading(u64),
    /// It is not to be had.
    Failed(ServeError),
}

/// How many adapters are where.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub registered: usize,
    pub resident: usize,
    pub leases: usize,
}

type Waker = Box<dyn Fn() + Send + Sync>;

/// A load that is to be done.
#[derive(Debug)]
struct Job {
    name: Arc<str>,
    path: PathBuf,
    number: u64,
}

struct Inner {
    base_name: String,
    base_dir: Option<PathBuf>,
    base_text: Option<Arc<Text>>,
    folder: Option<Folder>,
    limit: usize,
    used: Arc<AtomicUsize>,
    table: Mutex<Table>,
    loader: Loader,
    jobs: Mutex<Option<Sender<Job>>>,
    wakers: RwLock<Vec<Waker>>,
    metrics: Arc<Metrics>,
}

/// The adapters of one base. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("folder", &self.inner.folder)
            .field("used", &self.inner.used)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The store of a base's adapters: those that lie in the folder are registered, none is loaded.
    ///
    /// # Errors
    /// A folder that is not there.
    pub fn new(base: &Served, config: StoreConfig) -> Result<Self> {
        let StoreConfig { folder, memory, threads, file_limit } = config;
        let folder = folder.map(|folder| Folder::new(&folder, file_limit)).transpose();
        let folder = folder.map_err(|message| ServeError::invalid("adapters", message))?;
        let (jobs, todo) = channel();
        let inner = Inner {
            base_name: base.name.clone(),
            base_dir: base.dir.clone(),
            base_text: base.text.clone(),
            folder,
            limit: memory,
            used: Arc::default(),
            table: Mutex::default(),
            loader: Loader::new(base.model.clone()),
            jobs: Mutex::new(Some(jobs)),
            wakers: RwLock::default(),
            metrics: Arc::clone(&base.metrics),
        };
        let store = Self { inner: Arc::new(inner) };
        store.refresh();
        let todo = Arc::new(Mutex::new(todo));
        for number in 0..threads.max(1) {
            let (weak, todo) = (Arc::downgrade(&store.inner), Arc::clone(&todo));
            let work = move || {
                while let Some(job) = next_job(&todo) {
                    let Some(inner) = weak.upgrade() else { return };
                    inner.run(&job);
                }
            };
            let thread = std::thread::Builder::new().name(format!("adapters-{number}")).spawn(work);
            thread.map_err(|error| ServeError::Failed(format!("no thread to load adapters: {error}")))?;
        }
        Ok(store)
    }

    /// Looks into the folder again: registers what is new there, and forgets what is gone and not in memory. Returns how many
    /// adapters there are.
    pub fn refresh(&self) -> usize {
        let found = self.inner.folder.as_ref().map(Folder::scan).unwrap_or_default();
        let mut table = self.inner.table();
        table.refresh(found, &self.inner.base_name);
        table.entries.len()
    }

    /// Whether there is an adapter of that name. One that has come into the folder meanwhile counts.
    pub fn knows(&self, name: &str) -> bool {
        self.inner.knows(name)
    }

    /// What is known of all adapters, by name.
    pub fn list(&self) -> Vec<AdapterInfo> {
        let names: Vec<_> = self.inner.table().entries.keys().cloned().collect();
        names.iter().filter_map(|name| self.info(name)).collect()
    }

    /// What is known of one adapter.
    pub fn info(&self, name: &str) -> Option<AdapterInfo> {
        self.inner.knows(name);
        let (mut info, path) = {
            let table = self.inner.table();
            let (name, entry) = table.entries.get_key_value(name)?;
            (entry.info(name), entry.path.clone())
        };
        if info.peft_type.is_none()
            && let Some(folder) = &self.inner.folder
        {
            info.peft_type = folder.peft_type(&path);
            if let Some(entry) = self.inner.table().entries.get_mut(name) {
                entry.peft_type.clone_from(&info.peft_type);
            }
        }
        Some(info)
    }

    /// Asks for an adapter, which is loaded if it has to be. `asked` is the number of the load that was waited for, if it
    /// was asked for already.
    pub fn lease(&self, name: &str, asked: Option<u64>) -> StoreUse {
        self.inner.lease(name, asked)
    }

    /// Registers the adapter at `path` below the folder as `name` and loads it at once, or puts it in the place of the one
    /// of that name. Returns what there is now.
    ///
    /// # Errors
    /// Names and paths that may not be, a name that is taken, another generation than expected, files that cannot be loaded, no
    /// room. What was there before stays.
    pub fn load(&self, name: &str, path: &str, options: &LoadOptions) -> Result<AdapterInfo> {
        self.inner.load(name, path, options)?;
        self.info(name).ok_or_else(|| ServeError::UnknownModel(name.to_owned()))
    }

    /// Forgets an adapter. Requests that run keep it.
    ///
    /// # Errors
    /// An unknown name.
    pub fn unload(&self, name: &str) -> Result<()> {
        self.inner.knows(name);
        let mut table = self.inner.table();
        if table.entries.remove(name).is_none() {
            return Err(ServeError::UnknownModel(name.to_owned()));
        }
        table.removed.insert(name.into());
        Ok(())
    }

    /// The tokenizer and template for an adapter: its own, where its folder has others than the base's.
    ///
    /// # Errors
    /// Files that are there but broken.
    pub fn text(&self, name: &str) -> Result<Option<Arc<Text>>> {
        self.inner.text(name)
    }

    /// How many adapters there are.
    pub fn counts_registered(&self) -> usize {
        self.inner.table().entries.len()
    }

    /// How many adapters are where.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.inner.table().entries.values() {
            counts.registered += 1;
            if let Some(resident) = &entry.resident {
                counts.resident += 1;
                counts.leases += Arc::strong_count(resident) - 1;
            }
        }
        counts
    }

    /// Bytes of adapters in memory, those in use that were replaced or unloaded included.
    pub fn used_bytes(&self) -> usize {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// Bytes that adapters share, such as VeRA's pairs; they do not count towards the limit.
    pub fn shared_bytes(&self) -> usize {
        self.inner.loader.shared_bytes()
    }

    /// Puts every adapter out of memory that is not in use.
    pub fn clear(&self) {
        let mut table = self.inner.table();
        while table.evict(true) {}
    }

    /// Has `waker` called whenever a load is done.
    pub(crate) fn on_change(&self, waker: Waker) {
        self.inner.wakers.write().unwrap_or_else(PoisonError::into_inner).push(waker);
    }
}

fn next_job(todo: &Mutex<Receiver<Job>>) -> Option<Job> {
    todo.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, name: &str) -> bool {
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

    fn lease(&self, name: &str, asked: Option<u64>) -> StoreUse {
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
    fn run(&self, job: &Job) {
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

    fn load(&self, name: &str, path: &str, options: &LoadOptions) -> Result<()> {
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

    fn text(&self, name: &str) -> Result<Option<Arc<Text>>> {
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
        let own = base.of_adapter(dir, &at).map_err(|error| failed(error.to_string()))?;
        let text = own.map_or_else(|| Arc::clone(base), Arc::new);
        if let Some(entry) = self.table().entries.get_mut(name).filter(|entry| entry.path == path) {
            entry.text = Some(Arc::clone(&text));
        }
        Ok(Some(text))
    }
}

/// A pack with its memory.
struct Ready {
    pack: Arc<peft_burn::AdapterPack>,
    peft_type: String,
    charge: Charge,
    stamp: folder::Stamp,
}
