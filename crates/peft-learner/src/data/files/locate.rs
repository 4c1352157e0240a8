//! Which files a name stands for: a file, a folder, a pattern, a data set of the hub.

use std::path::{Path, PathBuf};

use llama_burn::hub;

use crate::error::{DataFileProblem, LearnerError, Result};

/// The purpose of rows, where a folder, a data set or a JSON object has several parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// To train on.
    Train,
    /// To evaluate on.
    Valid,
}

impl Part {
    /// Words by which names of files say what they are for.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train", "training"],
            Self::Valid => &["validation", "valid", "val", "dev", "eval", "test"],
        }
    }

    /// Keys under which a JSON object has lists of rows, the preferred ones first.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train", "data", "rows", "examples", "instances", "records"],
            Self::Valid => &[
                "validation",
                "valid",
                "val",
                "dev",
                "eval",
                "test",
                "data",
                "rows",
                "examples",
                "instances",
                "records",
            ],
        }
    }
}

/// Ends of the names of data files.
const ENDS: &[&str] = &["jsonl", "ndjson", "json", "csv", "tsv", "tab", "parquet"];
/// How deep folders are looked through.
const DEPTH: usize = 4;

/// The files that `name` stands for, in the order of their names: a file; a folder, of which those files are taken that are
/// named for `part`, where some are; a pattern such as `data/*.jsonl`; or a data set of the Hugging Face hub, `owner/name` or
/// `owner/name@revision`.
///
/// # Errors
/// [`LearnerError::Io`] and [`LearnerError::DataFile`] with what was not found; what [`hub::resolve_dataset`] reports.
pub fn locate(name: &str, part: Part) -> Result<Vec<PathBuf>> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    if path.is_dir() {
        return folder(path, part);
    }
    let refuse = |problem, message: String| LearnerError::DataFile { file: path.to_path_buf(), problem, message };
    if name.contains(['*', '?', '[']) {
        let found =
            glob::glob(name).map_err(|error| refuse(DataFileProblem::NoFile, format!("it is no pattern: {error}")))?;
        let files: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
        return match files.is_empty() {
            true => Err(refuse(DataFileProblem::NothingFound, "no file has a name like this".to_string())),
            false => Ok(files),
        };
    }
    let (id, revision) = name.split_once('@').map_or((name, None), |(id, revision)| (id, Some(revision)));
    if hub::is_dataset_id(id) && !is_data(path) {
        let wanted = |files: &[String]| {
            let paths: Vec<PathBuf> = files.iter().map(PathBuf::from).filter(|path| is_data(path)).collect();
            of_part(paths, part).iter().map(|path| path.to_string_lossy().replace('\\', "/")).collect()
        };
        return Ok(hub::resolve_dataset(id, revision, wanted)?);
    }
    match std::fs::metadata(path) {
        Err(error) => Err(LearnerError::io("open", path)(error)),
        Ok(_) => {
            let message = "it is neither a file nor a folder; write the rows to a file first".to_string();
            Err(refuse(DataFileProblem::NoFile, message))
        }
    }
}

fn folder(dir: &Path, part: Part) -> Result<Vec<PathBuf>> {
    let (mut files, mut arrow) = (Vec::new(), false);
    walk(dir, DEPTH, &mut |path| {
        arrow |= path.extension().is_some_and(|end| end == "arrow");
        if is_data(&path) {
            files.push(path);
        }
    })
    .map_err(LearnerError::io("read", dir))?;
    files.sort();
    let relative = |path: &PathBuf| path.strip_prefix(dir).map(Path::to_path_buf).unwrap_or_default();
    let chosen = of_part(files.iter().map(relative).collect(), part);
    let message = match (chosen.is_empty(), arrow, files.is_empty()) {
        (false, ..) => return Ok(chosen.iter().map(|path| dir.join(path)).collect()),
        (_, true, true) => format!(
            "it is what `save_to_disk` wrote; write it as Parquet: `datasets.load_from_disk({:?}).to_parquet(\"rows.parquet\")`",
            dir.display().to_string()
        ),
        (.., true) => format!("no file in it has a name that ends in .{}", ENDS.join(", .")),
        _ => format!("none of its files is named for this part ({}); name the file itself", part.words().join(", ")),
    };
    Err(LearnerError::DataFile { file: dir.to_path_buf(), problem: DataFileProblem::NothingFound, message })
}

fn walk(dir: &Path, depth: usize, found: &mut impl FnMut(PathBuf)) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden && depth > 0 {
            walk(&path, depth - 1, found)?;
        } else if path.is_file() && !hidden {
            found(path);
        }
    }
    Ok(())
}

/// Whether a file holds rows, by its name.
fn is_data(path: &Path) -> bool {
    const OTHERS: &[&str] = &["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
    let other = path.file_name().is_some_and(|name| OTHERS.iter().any(|other| name == *other));
    !other && ENDS.contains(&super::name_end(path).as_str())
}

/// Those of `paths` (in a folder) that are named for `part`. Where none is named for any part, all of them are rows to
/// train on.
fn of_part(mut paths: Vec<PathBuf>, part: Part) -> Vec<PathBuf> {
    paths.sort();
    let named = |path: &PathBuf, part: Part| {
        let text = path.to_string_lossy().to_lowercase();
        text.split(|c: char| !c.is_ascii_alphabetic()).any(|word| part.words().contains(&word))
    };
    let of = |part| paths.iter().filter(|path| named(path, part)).cloned().collect::<Vec<_>>();
    match (of(part), part) {
        (files, Part::Train) if files.is_empty() && of(Part::Valid).is_empty() => paths,
        (files, _) => files,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(names: &[&str], ask: &str, part: Part) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let files = locate(&dir.path().join(ask).to_string_lossy(), part)?;
        let name = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().to_string_lossy().replace('\\', "/");
        Ok(files.iter().map(name).collect())
    }

    #[test]
    fn folders_have_parts() {
        let names = ["data/train-00001.parquet", "data/train-00000.parquet", "data/test-00000.parquet", "README.md"];
        let both = ["data/train-00000.parquet", "data/train-00001.parquet"];
        assert_eq!(found(&names, "", Part::Train).unwrap(), both);
        assert_eq!(found(&names, "", Part::Valid).unwrap(), ["data/test-00000.parquet"]);
        assert_eq!(found(&["b.jsonl.gz", "a.csv", ".hidden.csv"], "", Part::Train).unwrap(), ["a.csv", "b.jsonl.gz"]);
        let error = found(&["a.csv"], "", Part::Valid).unwrap_err().to_string();
        assert!(error.contains("none of its files is named for this part (validation"), "{error}");
        let error = found(&["README.md"], "", Part::Train).unwrap_err().to_string();
        assert!(error.contains("no file in it has a name that ends in .jsonl"), "{error}");
        let saved = found(&["data-00000-of-00001.arrow", "state.json", "dataset_info.json"], "", Part::Train);
        assert!(saved.unwrap_err().to_string().contains("load_from_disk"));
    }

    #[test]
    fn patterns_and_files_are_taken_as_they_are() {
        let names = ["b1.jsonl", "b0.jsonl", "c.jsonl"];
        assert_eq!(found(&names, "b*.jsonl", Part::Valid).unwrap(), ["b0.jsonl", "b1.jsonl"]);
        assert_eq!(found(&names, "c.jsonl", Part::Valid).unwrap(), ["c.jsonl"]);
        assert!(
            found(&names, "d*.jsonl", Part::Train).unwrap_err().to_string().contains("no file has a name like this")
        );
        assert!(found(&names, "d.jsonl", Part::Train).unwrap_err().to_string().starts_with("cannot open `"));
    }
}
