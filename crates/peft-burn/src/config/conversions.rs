//! Short ways to write the values of a configuration in a program: arrays, strings and numbers.

use std::ops::Range;

use super::{ModuleNames, OneOrMany, Patterns, TargetModules};

/// As PEFT reads a string: `all-linear`, or a regular expression that must match the whole path.
impl From<&str> for TargetModules {
    fn from(text: &str) -> Self {
        if text.eq_ignore_ascii_case("all-linear") { Self::AllLinear } else { Self::regex(text) }
    }
}

/// As PEFT reads a string: a regular expression that must match the whole path.
impl From<&str> for ModuleNames {
    fn from(pattern: &str) -> Self {
        Self::Regex(pattern.to_owned())
    }
}

macro_rules! lists {
    ($($type:ident),*) => {$(
        impl<S: Into<String>, const N: usize> From<[S; N]> for $type {
            fn from(names: [S; N]) -> Self {
                Self::list(names)
            }
        }

        impl<S: Into<String>> From<Vec<S>> for $type {
            fn from(names: Vec<S>) -> Self {
                Self::list(names)
            }
        }

        impl From<&[&str]> for $type {
            fn from(names: &[&str]) -> Self {
                Self::list(names.iter().copied())
            }
        }
    )*};
}

lists!(TargetModules, ModuleNames);

impl From<usize> for OneOrMany<usize> {
    fn from(value: usize) -> Self {
        Self::One(value)
    }
}

impl From<Range<usize>> for OneOrMany<usize> {
    fn from(values: Range<usize>) -> Self {
        Self::Many(values.collect())
    }
}

impl From<&str> for OneOrMany<String> {
    fn from(value: &str) -> Self {
        Self::One(value.to_owned())
    }
}

impl<const N: usize> From<[&str; N]> for OneOrMany<String> {
    fn from(values: [&str; N]) -> Self {
        Self::Many(values.map(str::to_owned).into())
    }
}

impl<T, const N: usize> From<[T; N]> for OneOrMany<T> {
    fn from(values: [T; N]) -> Self {
        Self::Many(values.into())
    }
}

impl<T> From<Vec<T>> for OneOrMany<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Many(values)
    }
}

impl<S: Into<String>, T, const N: usize> From<[(S, T); N]> for Patterns<T> {
    fn from(patterns: [(S, T); N]) -> Self {
        patterns.into_iter().collect()
    }
}
