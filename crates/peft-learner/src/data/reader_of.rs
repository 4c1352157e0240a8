//! The reader of a file's rows: what its rows together say about how each is read.

use burn::data::dataset::Dataset;
use rayon::prelude::*;

use super::encode::problem_at;
use super::files::DataFile;
use super::rows::{RowOptions, RowReader};
use crate::error::{LearnerError, Problems, Result};

/// A reader for the shape of the first row that has one. Where other rows have a say too, all of them are asked.
///
/// # Errors
/// A file without a row of a known shape, with what is wrong with each.
pub(super) fn reader_of<'a>(
    file: &DataFile,
    options: &'a RowOptions,
    mentions: &'a (dyn Fn(&str) -> bool + Sync),
) -> Result<RowReader<'a>> {
    let reader = first(file, options, mentions)?;
    Ok(if reader.asks_all() && any_chat(file, &reader)? { reader.of_chats() } else { reader })
}

fn first<'a>(
    file: &DataFile,
    options: &'a RowOptions,
    mentions: &'a (dyn Fn(&str) -> bool + Sync),
) -> Result<RowReader<'a>> {
    let mut problems = Problems::default();
    let mut first = 0;
    while first < file.len() {
        let range = file.block(first);
        let block = file.read(&range)?;
        for index in range.clone() {
            let reader = |row| RowReader::new(row, file.place(index), options, mentions);
            match file.parse(index, &block).and_then(reader) {
                Ok(reader) => return Ok(reader),
                Err(problem) => problem_at(&mut problems, || file.place(index), &problem),
            }
        }
        first = range.end;
    }
    Err(LearnerError::Data { file: file.path().to_path_buf(), problems })
}

/// Whether some row makes instructions chats.
fn any_chat(file: &DataFile, reader: &RowReader<'_>) -> Result<bool> {
    let mut first = 0;
    while first < file.len() {
        let range = file.block(first);
        let block = file.read(&range)?;
        // Rows that cannot be read are named later, all of them.
        let chat = |index| file.parse(index, &block).is_ok_and(|row| reader.makes_chats(row));
        if range.clone().into_par_iter().any(chat) {
            return Ok(true);
        }
        first = range.end;
    }
    Ok(false)
}
