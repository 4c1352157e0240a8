//! Where the texts of packed rows begin.

use std::ops::Deref;
#[cfg(feature = "cube")]
use std::sync::Mutex;

/// The first column of the text that each column belongs to, `[batch·seq]`, and its copy on a GPU, which is made once
/// however many layers ask for it.
#[derive(Debug)]
pub struct Starts {
    columns: Vec<usize>,
    #[cfg(feature = "cube")]
    pub(super) copies: Mutex<Vec<burn_cubecl::tensor::CubeTensor>>,
}

impl From<Vec<usize>> for Starts {
    fn from(columns: Vec<usize>) -> Self {
        Self {
            columns,
            #[cfg(feature = "cube")]
            copies: Mutex::default(),
        }
    }
}

impl Deref for Starts {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.columns
    }
}

impl PartialEq for Starts {
    fn eq(&self, other: &Self) -> bool {
        self.columns == other.columns
    }
}
