//! Digests of what a run is made of: two runs with equal ones learn from the same.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::data::Example;
use crate::error::{LearnerError, Result};

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;

fn hex(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}

/// The digest of examples, in their order.
///
/// # Errors
/// Those of reading them.
pub(crate) fn of_examples(examples: impl Iterator<Item = Result<Example>>) -> Result<String> {
    let (mut hash, mut bytes) = (Xxh3::new(), Vec::new());
    for example in examples {
        let example = example?;
        bytes.clear();
        bytes.extend((example.len() as u64).to_le_bytes());
        bytes.extend(example.input_ids.iter().flat_map(|id| id.to_le_bytes()));
        bytes.extend(example.labels.iter().flat_map(|label| label.to_le_bytes()));
        hash.update(&bytes);
    }
    Ok(hex(&hash))
}

/// The digest of those files in the folder `dir` whose names `wanted` picks: of their names and what is in them.
///
/// # Errors
/// A folder or file that cannot be read.
pub(crate) fn of_files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let entries = std::fs::read_dir(dir).map_err(LearnerError::io("read", dir))?.flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
    let mut files: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    files.sort();
    let (mut hash, mut block) = (Xxh3::new(), vec![0; BLOCK]);
    for path in files {
        let mut file = File::open(&path).map_err(LearnerError::io("open", &path))?;
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut length = 0_u64;
        loop {
            match file.read(&mut block).map_err(LearnerError::io("read", &path))? {
                0 => break,
                read => hash.update(&block[..read]),
            }
            length += 1;
        }
        hash.update(&length.to_le_bytes());
    }
    Ok(hex(&hash))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_labels_and_borders_count() {
        let example = |ids: &[u32], labels: &[i32]| Example { input_ids: ids.to_vec(), labels: labels.to_vec() };
        let sets = [
            vec![example(&[1, 2], &[1, 2])],
            vec![example(&[1, 3], &[1, 2])],
            vec![example(&[1, 2], &[1, -100])],
            vec![example(&[1], &[1]), example(&[2], &[2])],
        ];
        let digest = |set: &Vec<Example>| of_examples(set.iter().cloned().map(Ok)).unwrap();
        let digests: std::collections::BTreeSet<_> = sets.iter().map(digest).collect();
        assert_eq!(digests.len(), sets.len());
        assert_eq!(digest(&sets[0]), digest(&sets[0].clone()));
    }

    #[test]
    fn only_the_wanted_files_count() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.safetensors", "x");
        let digest = || of_files(folder.path(), |name| name.ends_with(".safetensors")).unwrap();
        let before = digest();
        write("notes.txt", "y");
        assert_eq!(digest(), before);
        write("a.safetensors", "z");
        assert_ne!(digest(), before);
    }
}
