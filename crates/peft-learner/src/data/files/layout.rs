//! Where the rows of a file lie.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::spool::Spool;

/// The places of rows in a file, in order: 12 bytes of memory for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    starts: Vec<u64>,
    lengths: Vec<u32>,
    /// The number of rows there were at each empty line.
    gaps: Vec<u32>,
}

impl Layout {
    /// Adds the row from byte `start` to byte `end`; `false` for one of 4 GiB and more.
    #[must_use]
    pub fn push(&mut self, start: u64, end: u64) -> bool {
        let Ok(length) = u32::try_from(end - start) else { return false };
        self.starts.push(start);
        self.lengths.push(length);
        true
    }

    /// Notes an empty line.
    pub fn gap(&mut self) {
        self.gaps.push(self.starts.len() as u32);
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The line of a row, from 1, in a file with one row a line.
    pub fn line(&self, row: usize) -> usize {
        row + 1 + self.gaps.partition_point(|&rows| rows as usize <= row)
    }

    /// The bytes of a row.
    pub fn range(&self, row: usize) -> Range<u64> {
        self.starts[row]..self.starts[row] + u64::from(self.lengths[row])
    }

    /// How many rows from `first` on make up at most `bytes`; one at least, where there is one.
    pub fn block(&self, first: usize, rows: usize, bytes: u64) -> Range<usize> {
        let last = self.len().min(first + rows);
        let fits = |&row: &usize| self.range(row).end - self.starts[first] <= bytes;
        first..(first + 1..last).take_while(fits).last().map_or(last.min(first + 1), |row| row + 1)
    }
}

/// The bytes of a file, any of which can be read.
#[derive(Debug)]
pub(super) struct Bytes {
    file: Mutex<File>,
    _spool: Option<Spool>,
}

impl Bytes {
    pub fn new(file: File, spool: Option<Spool>) -> Self {
        Self { file: Mutex::new(file), _spool: spool }
    }

    pub fn read(&self, range: Range<u64>) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(std::io::Error::other)?];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(range.start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_the_empty_ones_and_blocks_are_bounded() {
        let mut layout = Layout::default();
        layout.gap();
        assert!(layout.push(1, 11) && layout.push(12, 22));
        layout.gap();
        layout.gap();
        assert!(layout.push(25, 65));
        assert_eq!((0..3).map(|row| layout.line(row)).collect::<Vec<_>>(), [2, 3, 6]);
        assert_eq!(layout.range(1), 12..22);
        assert_eq!((layout.block(0, 9, 30), layout.block(0, 1, 30), layout.block(2, 9, 30)), (0..2, 0..1, 2..3));
        assert_eq!(layout.block(0, 9, 1), 0..1, "one at least");
        assert!(!layout.push(0, 1 << 40));
    }
}
