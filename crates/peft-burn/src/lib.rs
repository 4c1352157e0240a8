#![doc = include_str!("../README.md")]

pub mod adalora;
mod combine;
mod config;
mod constant;
mod error;
pub mod files;
mod layers;
mod low_rank;
pub mod methods;
mod mixed;
mod model;
mod modules;
mod param;
pub mod prelude;
mod random;
mod reparam;
mod serve;
mod setters;
mod svd;
pub mod targets;
pub mod tensor_file;
#[cfg(test)]
mod testing;

pub use combine::{
    Combination, Conversion, Extraction, MajoritySign, Weighting, add_weighted_adapter, convert_to_lora, extract_lora,
};
pub use config::*;
pub use error::{NotCombined, PeftError, Result, Unsupported};
pub use files::{AdaptedModule, AdapterBytes, AdapterFiles, AdapterSummary, CONFIG_NAME, Rewritten, rewrite_adapter};
pub use layers::*;
pub use low_rank::LowRank;
pub use methods::configs::*;
pub use methods::{PeftConfig, vera_projection};
pub use mixed::{BASE, MixedBatch};
#[doc(hidden)]
pub use model::join as join_path;
pub use model::{
    AdaptableModel, AdapterStatus, LayerStatus, Layers, ModelStatus, PeftModel, PeftState, TrainableReport, Trained,
    count_parameters,
};
pub use param::{ParamMut, ParamRef, Role};
pub use random::TensorRng;
pub use reparam::{AdaptedLayers, AdaptedParam, ParamAdapter};
pub use serve::{AdapterPack, Pairs, Plan, PlanGroup, Served};
