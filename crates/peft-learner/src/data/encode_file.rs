//! The rows of a file become tokens, a block at a time and on all threads.

use std::path::Path;

use burn::data::dataset::Dataset;
use indicatif::{ProgressBar, ProgressStyle};
use llama_burn::LlamaError;
use rayon::prelude::*;

use super::encode::{Encoding, Outcome, problem_at};
use super::files::DataFile;
use super::rows::RowReader;
use super::tokens::TokenWriter;
use super::{EncodeError, EncodeReport, RawRow};
use crate::error::{LearnerError, Problems, Result};

/// Rows from which encoding shows a bar.
const SHOWN_FROM: usize = 20_000;

/// The encoding of a file.
pub(super) struct EncodeFile<'a> {
    pub file: &'a DataFile,
    pub reader: RowReader<'a>,
    pub encoding: Encoding<'a>,
}

impl EncodeFile<'_> {
    /// Writes the examples of all rows.
    ///
    /// # Errors
    /// Every row that cannot be used; a file of which no row has anything to learn.
    pub fn run(&self, writer: &mut TokenWriter) -> Result<EncodeReport> {
        let (file, rows) = (self.file, self.file.len());
        let path = || file.path().to_path_buf();
        let bar = bar(file.path(), rows);
        let (mut report, mut problems) = (EncodeReport::default(), Problems::default());
        let (mut reason, mut first) = (None, 0);
        while first < rows {
            let range = file.block(first);
            let block = file.read(&range)?;
            let encoded: Vec<Result<Outcome, EncodeError>> =
                range.clone().into_par_iter().map(|index| self.encode(file.parse(index, &block)?)).collect();
            for (index, outcome) in range.clone().zip(encoded) {
                match outcome {
                    Err(problem) => match is_of_template(&problem) {
                        true => problems.push_of_template(format!("{}: {problem}", file.place(index))),
                        false => problem_at(&mut problems, || file.place(index), &problem.to_string()),
                    },
                    Ok(Outcome { example, report: of_row }) => {
                        report.add(&of_row);
                        match example {
                            Ok(example) if problems.is_empty() => writer.push(&example)?,
                            Ok(_) => {}
                            Err(why) => reason = reason.or(Some(why)),
                        }
                    }
                }
            }
            first = range.end;
            bar.set_position(first as u64);
        }
        bar.finish_and_clear();
        if !problems.is_empty() {
            return Err(LearnerError::Data { file: path(), problems });
        }
        if report.rows == report.dropped_without_target {
            return Err(LearnerError::NoTarget {
                file: path(),
                first: file.place(0),
                last: file.place(rows - 1),
                reason: reason.unwrap_or_default(),
            });
        }
        for column in file.unreadable_columns() {
            report.ignored_keys.insert(column.clone(), rows);
        }
        Ok(report)
    }

    fn encode(&self, row: RawRow) -> Result<Outcome, EncodeError> {
        self.encoding.encode(self.reader.read(row)?)
    }
}

/// Whether the chat template is at fault, whatever the row.
fn is_of_template(problem: &EncodeError) -> bool {
    matches!(problem.downcast_ref(), Some(LlamaError::Template(error)) if error.is_of_template())
}

/// Shown where there is a terminal and much to do.
fn bar(path: &Path, rows: usize) -> ProgressBar {
    if rows < SHOWN_FROM {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(rows as u64);
    let template = "{msg} {wide_bar} {human_pos}/{human_len} rows, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(format!("encoding {}", path.file_name().unwrap_or_default().to_string_lossy()));
    bar
}
