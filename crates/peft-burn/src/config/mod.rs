//! The keys of PEFT's `adapter_config.json` that methods have in common, and how keys are read and checked.

pub(crate) mod checks;
mod common;
mod conversions;
pub(crate) mod keys;
pub(crate) mod numbers;
pub(crate) mod patterns;
pub mod reader;
mod shared;
mod tokens;

pub use common::{Bias, InitLoraWeights, ModuleNames, OneOrMany, TargetModules, TaskType};
pub use keys::{Object, OtherKeys, PEFT_VERSION};
pub use patterns::Patterns;
pub(crate) use shared::shared_keys;
pub use shared::{Shared, SharedMut};
pub use tokens::TokenIndices;
