//! The causes of [`Unsupported::Combining`](super::Unsupported::Combining).

/// For adapters with more than updates.
const WAY_OUT: &str = "merge it into the base (`peft merge`) and take that as the model of the others";

/// Why adapters cannot be combined.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotCombined {
    /// No adapter.
    #[error("none is named")]
    NoAdapter,
    /// A weight that is not finite.
    #[error("the weight of `{adapter}` is {weight}")]
    Weight {
        /// The adapter.
        adapter: String,
        /// Its weight.
        weight: f64,
    },
    /// A share of kept values that is none.
    #[error("density = {0}: above 0 and up to 1")]
    Density(f64),
    /// A kind that needs a density, without one.
    #[error("{kind} needs a density")]
    NoDensity {
        /// The kind.
        kind: String,
    },
    /// Methods that combine only among themselves.
    #[error(
        "{} adapters can be combined with each other only; make LoRA of them first (`peft convert --to lora`)",
        methods.join(" and ")
    )]
    Methods {
        /// The methods.
        methods: Vec<String>,
    },
    /// Ranks that differ, for a kind that needs equal ones.
    #[error("the ranks differ ({ranks:?}, or between layers): use cat or one of the svd kinds")]
    Ranks {
        /// The ranks.
        ranks: Vec<usize>,
    },
    /// A rank of 0.
    #[error("svd_rank = 0: a rank is 1 or more")]
    ZeroRank,
    /// An adapter that trains biases of the base.
    #[error("`{adapter}` trains the base's biases, which have no place in a weighted sum; {}", WAY_OUT)]
    Biases {
        /// The adapter.
        adapter: String,
    },
    /// An adapter with a weight, or rows, of its own for a layer.
    #[error("`{adapter}` has {what} of its own for {path}, which would be lost; {}", WAY_OUT)]
    OwnWeight {
        /// The adapter.
        adapter: String,
        /// `a weight` or `rows`.
        what: &'static str,
        /// The layer.
        path: String,
    },
    /// A change beyond an update of low rank.
    #[error("`{adapter}` changes {path} by more than a low-rank update (lora_bias), which would be lost; {}", WAY_OUT)]
    BeyondLowRank {
        /// The adapter.
        adapter: String,
        /// The layer.
        path: String,
    },
    /// A kind that (IA)³ has no use for.
    #[error("IA3 adapters combine by Linear, not by {kind}")]
    Ia3Kind {
        /// The kind.
        kind: String,
    },
    /// A module whose input one adapter scales, and whose output another does.
    #[error("{path} is a feedforward module of one adapter and not of another")]
    Feedforward {
        /// The module.
        path: String,
    },
}
