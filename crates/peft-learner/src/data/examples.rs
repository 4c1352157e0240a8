//! Examples as data sets of Burn.

use std::fmt;
use std::sync::Arc;

use burn::data::dataset::{Dataset, DatasetError, InMemDataset};

use super::Example;
use crate::error::{LearnerError, Result};

/// Examples to train or evaluate on: any [`Dataset`] of them, whether in memory, in a file, in a data base, mapped, shuffled,
/// a part of another one, or one's own.
///
/// ```
/// use burn::data::dataset::transform::PartialDataset;
/// use burn::data::dataset::InMemDataset;
/// use peft_learner::data::{Example, Examples};
///
/// let all = InMemDataset::new(vec![Example { input_ids: vec![1, 2], labels: vec![1, 2] }; 10]);
/// let examples = Examples::new(PartialDataset::new(all, 0, 8));
/// assert_eq!(examples.len(), 8);
/// ```
#[derive(Clone)]
pub struct Examples(Arc<dyn Dataset<Example>>);

impl Examples {
    /// The examples of a data set.
    pub fn new(dataset: impl Dataset<Example> + 'static) -> Self {
        Self(Arc::new(dataset))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Example `index`, from 0.
    ///
    /// # Errors
    /// [`LearnerError::Dataset`] where the data set fails, or has no such example.
    pub fn get(&self, index: usize) -> Result<Example> {
        if index >= self.len() {
            let message = format!("it has {} examples, and number {index} was asked for", self.len());
            return Err(LearnerError::Dataset(message.into()));
        }
        self.0.get(index).map_err(|error| LearnerError::Dataset(error.into()))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Example>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// All of them, in memory.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn to_vec(&self) -> Result<Vec<Example>> {
        self.iter().collect()
    }

    /// Those at `indices`, in that order; an index may come several times.
    ///
    /// # Errors
    /// [`LearnerError::Dataset`] for an index beyond the last one.
    pub fn select(&self, indices: Vec<usize>) -> Result<Self> {
        if let Some(index) = indices.iter().find(|&&index| index >= self.len()) {
            let message = format!("it has {} examples, and no number {index}", self.len());
            return Err(LearnerError::Dataset(message.into()));
        }
        Ok(Self::new(Selected { all: self.clone(), indices }))
    }
}

impl fmt::Debug for Examples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examples").field("len", &self.len()).finish()
    }
}

impl Default for Examples {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<Example>> for Examples {
    fn from(examples: Vec<Example>) -> Self {
        Arc::new(examples).into()
    }
}

impl<const N: usize> From<[Example; N]> for Examples {
    fn from(examples: [Example; N]) -> Self {
        Vec::from(examples).into()
    }
}

impl From<&[Example]> for Examples {
    fn from(examples: &[Example]) -> Self {
        examples.to_vec().into()
    }
}

impl From<&Vec<Example>> for Examples {
    fn from(examples: &Vec<Example>) -> Self {
        examples.clone().into()
    }
}

impl From<&Examples> for Examples {
    fn from(examples: &Examples) -> Self {
        examples.clone()
    }
}

impl From<Arc<Vec<Example>>> for Examples {
    fn from(examples: Arc<Vec<Example>>) -> Self {
        Self::new(Shared(examples))
    }
}

impl From<InMemDataset<Example>> for Examples {
    fn from(examples: InMemDataset<Example>) -> Self {
        Self::new(examples)
    }
}

impl From<Arc<dyn Dataset<Example>>> for Examples {
    fn from(examples: Arc<dyn Dataset<Example>>) -> Self {
        Self(examples)
    }
}

/// Examples in memory, which are not copied.
struct Shared(Arc<Vec<Example>>);

impl Dataset<Example> for Shared {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        Ok(self.0[index].clone())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Some of all examples.
struct Selected {
    all: Examples,
    indices: Vec<usize>,
}

impl Dataset<Example> for Selected {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        self.all.get(self.indices[index]).map_err(DatasetError::new)
    }

    fn len(&self) -> usize {
        self.indices.len()
    }
}

/// Several data sets, one after the other.
pub(super) struct Chained {
    parts: Vec<Examples>,
    /// Where each part ends.
    ends: Vec<usize>,
}

impl Chained {
    pub fn new(parts: Vec<Examples>) -> Self {
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.len();
            Some(*end)
        });
        Self { ends: ends.collect(), parts }
    }
}

impl Dataset<Example> for Chained {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        let part = self.ends.partition_point(|&end| end <= index);
        let start = part.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.parts[part].get(index - start).map_err(DatasetError::new)
    }

    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn examples(ids: std::ops::Range<u32>) -> Examples {
        ids.map(|id| Example { input_ids: vec![id], labels: vec![-100] }).collect::<Vec<_>>().into()
    }

    fn ids(examples: &Examples) -> Vec<u32> {
        examples.iter().map(|example| example.unwrap().input_ids[0]).collect()
    }

    #[test]
    fn data_sets_are_chosen_from_and_joined() {
        let chained = Examples::new(Chained::new(vec![examples(0..2), examples(0..0), examples(5..8)]));
        assert_eq!(ids(&chained), [0, 1, 5, 6, 7]);
        assert_eq!(ids(&chained.select(vec![4, 0, 0]).unwrap()), [7, 0, 0]);
        assert!(chained.select(vec![5]).unwrap_err().to_string().contains("has 5 examples, and no number 5"));
        assert!(chained.get(5).is_err());
        assert!(Examples::default().is_empty());
    }
}
