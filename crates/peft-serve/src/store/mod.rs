//! The adapters: registered, loading, resident, or retired while they are in use.

mod folder;
mod info;
mod inner;
mod load;
mod resident;
mod table;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use llama_burn::Text;

use crate::engine::Served;
use crate::error::{Result, ServeError};
use folder::Folder;
pub use info::{AdapterInfo, LoadOptions, State, StoreUse};
use inner::{Inner, Waker, next_job};
use load::Loader;
pub use resident::Resident;

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

/// Numbers of adapters by their state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub registered: usize,
    pub resident: usize,
    pub leases: usize,
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

    /// The state of all adapters, sorted by name.
    pub fn list(&self) -> Vec<AdapterInfo> {
        let names: Vec<_> = self.inner.table().entries.keys().cloned().collect();
        names.iter().filter_map(|name| self.info(name)).collect()
    }

    /// The state of one adapter.
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

    /// Numbers of adapters by their state.
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
