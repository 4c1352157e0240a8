//! The folder of adapters: what lies in it, and reading it without leaving it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use peft_burn::CONFIG_NAME;

/// The file of an adapter's tensors.
pub(super) const WEIGHTS_NAME: &str = "adapter_model.safetensors";
/// The name of the adapter's folder in a run's folder.
const IN_RUN: &str = "adapter";
/// Folders of folders of folders are looked into, and no further.
const DEPTH: usize = 3;
/// The largest `adapter_config.json`.
const CONFIG_LIMIT: u64 = 16 << 20;
/// The longest name.
const NAME_LIMIT: usize = 256;

/// A folder whose adapters are served.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// Without links.
    root: PathBuf,
    /// The largest file of weights, in bytes.
    limit: u64,
}

/// When a file was written, and how large it is: another one is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: [Option<SystemTime>; 2],
    len: u64,
}

/// The files of an adapter, read whole.
#[derive(Debug)]
pub(super) struct Files {
    /// Their folder, below the root: errors name it.
    pub dir: PathBuf,
    pub config: Vec<u8>,
    pub weights: Vec<u8>,
    pub stamp: Stamp,
}

/// Whether `name` can name an adapter: the reason why not.
pub(super) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > NAME_LIMIT {
        return Some(format!("a name has 1 to {NAME_LIMIT} bytes"));
    }
    if name.chars().any(|c| c.is_control()) {
        return Some("a name has no control characters".into());
    }
    let bad = name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    bad.then(|| "the parts of a name between slashes are not empty, `.` or `..`".into())
}

impl Folder {
    pub fn new(root: &Path, limit: u64) -> Result<Self, String> {
        let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
        if !root.is_dir() {
            return Err(format!("{}: not a folder", root.display()));
        }
        Ok(Self { root, limit })
    }

    /// The adapters in the folder by name, with their paths in it. A run's folder has its adapter's name.
    pub fn scan(&self) -> Vec<(String, PathBuf)> {
        let mut found = Vec::new();
        self.scan_into(Path::new(""), DEPTH, &mut found);
        found.sort();
        found
    }

    fn scan_into(&self, dir: &Path, depth: usize, found: &mut Vec<(String, PathBuf)>) {
        let Ok(entries) = fs::read_dir(self.root.join(dir)) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') || name == "checkpoints" {
                continue;
            }
            let path = dir.join(&name);
            let kind = entry.file_type();
            if !kind.is_ok_and(|kind| kind.is_dir() || kind.is_symlink()) {
                continue;
            }
            match self.adapter_at(&path) {
                Some(at) => {
                    let Some(name) = path.to_str() else { continue };
                    if name_problem(name).is_none() {
                        found.push((name.to_owned(), at));
                    }
                }
                None if depth > 1 && !kind_is_link(&self.root.join(&path)) => self.scan_into(&path, depth - 1, found),
                None => {}
            }
        }
    }

    /// Where the adapter of a folder is: in it, or in a run's.
    fn adapter_at(&self, path: &Path) -> Option<PathBuf> {
        let places = [path.to_owned(), path.join(IN_RUN)];
        places.into_iter().find(|place| self.root.join(place).join(CONFIG_NAME).exists())
    }

    /// The adapter of that name, if there is one.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        name_problem(name).is_none().then(|| self.adapter_at(Path::new(name)))?
    }

    /// A path that a client gave, as one below the folder.
    pub fn relative(path: &str) -> Result<PathBuf, String> {
        let given = Path::new(path);
        let inside = given.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if path.is_empty() || !inside || path.contains('\0') {
            return Err(format!(
                "`{path}` is not a path below the folder of adapters: it is relative to it, without `..`"
            ));
        }
        Ok(given.to_owned())
    }

    /// The folder of an adapter without links; it lies in this one, and so does everything in it.
    fn resolve(&self, path: &Path) -> Result<PathBuf, String> {
        let shown = path.display();
        let dir = self.root.join(path).canonicalize().map_err(|error| format!("{shown}: {error}"))?;
        if !dir.starts_with(&self.root) {
            return Err(format!("{shown}: outside of the folder of adapters"));
        }
        if !dir.is_dir() {
            return Err(format!("{shown}: not a folder"));
        }
        for entry in fs::read_dir(&dir).map_err(|error| format!("{shown}: {error}"))?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let target = entry.path().canonicalize().map_err(|error| format!("{shown}: a broken link: {error}"))?;
                if !target.starts_with(&self.root) {
                    return Err(format!("{shown}: a link in it leads out of the folder of adapters"));
                }
            }
        }
        Ok(dir)
    }

    /// Reads the files of the adapter at `path`, or in the run there.
    pub fn read(&self, path: &Path) -> Result<Files, String> {
        let path = self.adapter_at(path).unwrap_or_else(|| path.to_owned());
        let dir = self.resolve(&path)?;
        let shown = |name: &str| path.join(name).display().to_string();
        if !dir.join(WEIGHTS_NAME).exists() && dir.join("adapter_model.bin").exists() {
            return Err(format!("{}: only adapter_model.safetensors is served, not .bin", path.display()));
        }
        let (config, config_time) = read_file(&dir.join(CONFIG_NAME), CONFIG_LIMIT, &shown(CONFIG_NAME))?;
        let (weights, time) = read_file(&dir.join(WEIGHTS_NAME), self.limit, &shown(WEIGHTS_NAME))?;
        let stamp = Stamp { modified: [config_time, time], len: weights.len() as u64 };
        Ok(Files { dir: path, config, weights, stamp })
    }

    /// The folder of the adapter at `path`, to read its files of text from.
    pub fn dir(&self, path: &Path) -> Result<PathBuf, String> {
        self.resolve(&self.adapter_at(path).unwrap_or_else(|| path.to_owned()))
    }

    /// A message without the place where the root lies, which is nobody's business.
    pub fn hide(&self, message: &str) -> String {
        message.replace(&format!("{}/", self.root.display()), "")
    }

    /// `peft_type` of the adapter at `path`, if its configuration can be read.
    pub fn peft_type(&self, path: &Path) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Config {
            peft_type: Option<String>,
        }
        let (text, _) = read_file(&self.dir(path).ok()?.join(CONFIG_NAME), CONFIG_LIMIT, CONFIG_NAME).ok()?;
        serde_json::from_slice::<Config>(&text).ok()?.peft_type
    }
}

fn kind_is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
}

/// Reads a regular file whole. What is checked is the open file, so that another put in its place changes nothing; one that
/// changes meanwhile is refused.
fn read_file(path: &Path, limit: u64, shown: &str) -> Result<(Vec<u8>, Option<SystemTime>), String> {
    let io = |error: std::io::Error| format!("{shown}: {error}");
    let path = path.canonicalize().map_err(io)?;
    // Opening a pipe would wait for its writer.
    if !fs::symlink_metadata(&path).map_err(io)?.is_file() {
        return Err(format!("{shown}: not a regular file"));
    }
    let mut file = File::open(&path).map_err(io)?;
    let before = file.metadata().map_err(io)?;
    if !before.is_file() {
        return Err(format!("{shown}: not a regular file"));
    }
    if before.len() > limit {
        return Err(format!("{shown}: {} bytes, and at most {limit} are read", before.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0));
    (&mut file).take(before.len().saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    let after = file.metadata().map_err(io)?;
    let same = after.len() == before.len() && after.modified().ok() == before.modified().ok();
    if !same || bytes.len() as u64 != before.len() {
        return Err(format!("{shown}: it was changed while it was read; load it again when it is whole"));
    }
    Ok((bytes, before.modified().ok()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn adapter(at: &Path) {
        fs::create_dir_all(at).unwrap();
        fs::write(at.join(CONFIG_NAME), r#"{"peft_type": "LORA"}"#).unwrap();
        fs::write(at.join(WEIGHTS_NAME), b"weights").unwrap();
    }

    #[test]
    fn adapters_runs_and_organisations_are_found_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        for path in ["plain", "run/adapter", "org/name", "run/checkpoints/step-1/adapter", ".hidden", "org/a.b-1"] {
            adapter(&root.path().join(path));
        }
        fs::write(root.path().join("file"), "").unwrap();
        let folder = Folder::new(root.path(), 100).unwrap();
        let names: Vec<String> = folder.scan().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["org/a.b-1", "org/name", "plain", "run"]);
        assert_eq!(folder.find("run"), Some("run/adapter".into()));
        assert_eq!(folder.find("../plain"), None);
        assert_eq!(folder.read(Path::new("run")).unwrap().weights, b"weights");
        assert_eq!(folder.peft_type(Path::new("plain")).as_deref(), Some("LORA"));
        let small = Folder::new(root.path(), 3).unwrap();
        assert!(small.read(Path::new("plain")).unwrap_err().contains("at most 3"));
    }

    #[test]
    fn no_path_leaves_the_folder() {
        for bad in ["", "..", "a/../../b", "/etc", "/", "a/..", "./../x"] {
            assert!(Folder::relative(bad).is_err(), "{bad}");
        }
        assert_eq!(Folder::relative("./a/b").unwrap(), Path::new("./a/b"));
    }

    #[cfg(unix)]
    #[test]
    fn no_link_leaves_the_folder() {
        use std::os::unix::fs::symlink;
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        adapter(&outside.path().join("secret"));
        adapter(&root.path().join("inside"));
        symlink(outside.path().join("secret"), root.path().join("linked")).unwrap();
        symlink(root.path().join("inside"), root.path().join("alias")).unwrap();
        adapter(&root.path().join("half"));
        fs::remove_file(root.path().join("half").join(WEIGHTS_NAME)).unwrap();
        symlink(outside.path().join("secret").join(WEIGHTS_NAME), root.path().join("half").join(WEIGHTS_NAME)).unwrap();
        let folder = Folder::new(root.path(), 100).unwrap();
        assert!(folder.read(Path::new("linked")).unwrap_err().contains("outside"));
        assert!(folder.read(Path::new("half")).unwrap_err().contains("leads out"));
        assert!(folder.read(Path::new("alias")).is_ok());
    }
}
