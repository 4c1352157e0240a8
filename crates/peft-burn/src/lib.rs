//! Parameter-efficient fine-tuning for Burn: LoRA, DoRA, VeRA, AdaLoRA and IA3, with Hugging Face PEFT's configurations
//! and files.
//!
//! ```
//! use peft_burn::targets::{ModuleInfo, resolve};
//! use peft_burn::{LoraConfig, PeftConfig, TargetModules};
//!
//! # fn main() -> Result<(), peft_burn::PeftError> {
//! let target_modules = TargetModules::list(["q_proj"]);
//! let config = PeftConfig::Lora(LoraConfig { r: 16, target_modules, ..LoraConfig::default() });
//! let modules = [ModuleInfo::linear("layers.0.q_proj", 64, 64), ModuleInfo::linear("layers.0.o_proj", 64, 64)];
//! assert_eq!(resolve(&config, &modules, "llama")?.adapted[0].path, "layers.0.q_proj");
//! # Ok(())
//! # }
//! ```

pub mod adalora;
mod combine;
mod config;
mod constant;
mod device;
mod error;
pub mod files;
mod layers;
mod low_rank;
pub mod methods;
mod mixed;
mod model;
mod modules;
mod param;
mod random;
mod reparam;
mod serve;
mod svd;
pub mod targets;
pub mod tensor_file;

pub use combine::{Combination, Conversion, MajoritySign, Weighting, add_weighted_adapter, convert_to_lora};
pub use config::*;
pub use device::{DeviceError, DeviceName};
pub use error::{PeftError, Result};
pub use files::{AdaptedModule, AdapterBytes, AdapterFiles, AdapterSummary, CONFIG_NAME};
pub use layers::*;
pub use low_rank::LowRank;
pub use methods::configs::*;
pub use methods::{PeftConfig, vera_projection};
pub use mixed::{BASE, MixedBatch};
#[doc(hidden)]
pub use model::join as join_path;
pub use model::{
    AdaptableModel, AdapterStatus, LayerStatus, Layers, ModelStatus, PeftModel, PeftState, TrainableReport, Trained,
    count_parameters, share_projections,
};
pub use param::{ParamMut, ParamRef, Role};
pub use random::TensorRng;
pub use reparam::{AdaptedLayers, AdaptedParam, ParamAdapter};
pub use serve::{AdapterPack, Pairs, Plan, PlanGroup, Served};
