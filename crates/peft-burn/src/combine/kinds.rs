//! How adapters are combined.

use super::task_arithmetic::{MajoritySign, Pruning, Rule};
use crate::error::{NotCombined, PeftError, Result, Unsupported};

/// The error of adapters that do not combine.
pub(super) fn refuse(reason: NotCombined) -> PeftError {
    Unsupported::Combining(reason).into()
}

pub(super) fn own_weight(adapter: &str, what: &'static str, path: String) -> NotCombined {
    NotCombined::OwnWeight { adapter: adapter.to_owned(), what, path }
}

/// How adapters are combined; the names are PEFT's.
///
/// Those without `Svd` work on A and B apart, which is cheap and mixes terms of different adapters, and need equal
/// ranks. Those with `Svd` work on the updates themselves and take the nearest one of `svd_rank`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Combination {
    /// Weighted sums of A and of B; of IA3's vectors.
    Linear,
    /// A and B side by side: the exact sum of the updates, of the summed rank.
    Cat,
    /// The weighted sum of the updates.
    Svd,
    /// TIES of A and of B.
    Ties,
    /// TIES of the updates.
    TiesSvd,
    /// Weighted sums of randomly pruned A and B.
    DareLinear,
    /// The weighted sum of randomly pruned updates.
    DareLinearSvd,
    /// TIES of randomly pruned A and B.
    DareTies,
    /// TIES of randomly pruned updates.
    DareTiesSvd,
    /// Weighted sums of the largest entries of A and of B.
    MagnitudePrune,
    /// The weighted sum of the largest entries of the updates.
    MagnitudePruneSvd,
}

impl Combination {
    /// The rule for numbers, and whether it is applied to whole updates; `None` for [`Combination::Cat`].
    pub(super) fn rule(self) -> Option<(Rule, bool)> {
        Some(match self {
            Self::Cat => return None,
            Self::Linear => (Rule::Linear, false),
            Self::Svd => (Rule::Linear, true),
            Self::Ties => (Rule::Ties, false),
            Self::TiesSvd => (Rule::Ties, true),
            Self::DareLinear => (Rule::DareLinear, false),
            Self::DareLinearSvd => (Rule::DareLinear, true),
            Self::DareTies => (Rule::DareTies, false),
            Self::DareTiesSvd => (Rule::DareTies, true),
            Self::MagnitudePrune => (Rule::MagnitudePrune, false),
            Self::MagnitudePruneSvd => (Rule::MagnitudePrune, true),
        })
    }
}

/// The values that a combination needs beside the adapters.
#[derive(Clone, Copy, Debug)]
pub struct Weighting {
    /// How adapters are combined.
    pub combination: Combination,
    /// The rank of those with `Svd`; `None`: the largest of the adapters'.
    pub svd_rank: Option<usize>,
    /// The share of entries that the pruning ones keep, in (0, 1].
    pub density: Option<f64>,
    /// Which sign prevails in TIES.
    pub majority_sign: MajoritySign,
    /// Decides what random pruning keeps.
    pub seed: u64,
}

impl Weighting {
    /// With PEFT's defaults for the rest.
    pub fn new(combination: Combination) -> Self {
        Self { combination, svd_rank: None, density: None, majority_sign: MajoritySign::Total, seed: 0 }
    }

    /// The pruning that the combination asks for.
    pub(super) fn pruning(&self) -> Result<Pruning> {
        let prunes = self.combination.rule().is_some_and(|(rule, _)| rule != Rule::Linear);
        let density = match self.density {
            Some(density) if density > 0.0 && density <= 1.0 => density,
            Some(density) if prunes => return Err(refuse(NotCombined::Density(density))),
            None if prunes => return Err(refuse(NotCombined::NoDensity { kind: format!("{:?}", self.combination) })),
            _ => 1.0,
        };
        Ok(Pruning { density, majority: self.majority_sign })
    }
}
