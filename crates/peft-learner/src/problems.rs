//! Everything that is wrong with an input, found in one pass.

use std::fmt;

/// Offenders found in one pass: the first [`Problems::SHOWN`] are kept, all are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    shown: Vec<String>,
    total: usize,
    of_template: usize,
}

impl Problems {
    /// How many offenders are listed by name.
    pub const SHOWN: usize = 20;

    /// Adds an offender.
    pub fn push(&mut self, problem: impl Into<String>) {
        if self.shown.len() < Self::SHOWN {
            self.shown.push(problem.into());
        }
        self.total += 1;
    }

    /// Adds a row that the chat template is at fault for.
    pub(crate) fn push_of_template(&mut self, problem: impl Into<String>) {
        self.push(problem);
        self.of_template += 1;
    }

    /// Whether the chat template is at fault for all of them, and no row is.
    pub fn are_of_template(&self) -> bool {
        self.total > 0 && self.of_template == self.total
    }

    /// Adds the offenders of another pass.
    pub fn extend(&mut self, other: Self) {
        self.total += other.total;
        self.of_template += other.of_template;
        let room = Self::SHOWN - self.shown.len();
        self.shown.extend(other.shown.into_iter().take(room));
    }

    /// The offenders that are listed by name, in the order that they were found.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.shown.iter().map(String::as_str)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// How many were found, listed or not.
    pub fn total(&self) -> usize {
        self.total
    }
}

impl<P: Into<String>> FromIterator<P> for Problems {
    fn from_iter<I: IntoIterator<Item = P>>(problems: I) -> Self {
        let mut all = Self::default();
        problems.into_iter().for_each(|problem| all.push(problem));
        all
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.shown {
            write!(f, "\n  - {problem}")?;
        }
        match self.total - self.shown.len() {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more ({} in all)", self.total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_list_the_first_twenty_and_count_the_rest() {
        let mut problems = Problems::default();
        (1..=23).for_each(|line| problems.push(format!("line {line}")));
        let text = problems.to_string();
        assert!(text.contains("line 20") && !text.contains("line 21"), "{text}");
        assert!(text.ends_with("… and 3 more (23 in all)"), "{text}");
        let listed: Vec<_> = problems.iter().collect();
        assert_eq!((listed.len(), listed[0], problems.total()), (20, "line 1", 23));
    }
}
