//! The small base model and its task, compiled into the program so that the quickstart works anywhere.

use std::path::Path;

use peft_learner::LearnerError;
use peft_learner::whole_file::write_whole;
use peft_world::{MODEL, TASK};

use crate::failure::Result;

/// Writes the model into `base`, if one is given, and the task into `data`.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn unpack(base: Option<&Path>, data: &Path) -> Result {
    for (folder, files) in base.map(|base| (base, MODEL)).into_iter().chain([(data, TASK)]) {
        std::fs::create_dir_all(folder).map_err(LearnerError::io("create", folder))?;
        for (name, bytes) in files {
            write_whole(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
