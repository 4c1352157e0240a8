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

// The operations' tests are read by `llama-burn`, which knows this crate by its name.
#[cfg(test)]
extern crate self as peft_burn;

mod checks;
mod config;
mod constant;
mod convert;
mod device;
mod embedding;
mod error;
pub mod files;
mod frozen;
mod layer;
mod layers;
mod linear;
mod low_rank;
pub mod methods;
mod mixed_batch;
mod model;
mod mt19937;
mod named_adapters;
pub mod ops;
mod param;
mod random;
mod reparam;
mod report;
mod status;
mod summary;
mod svd;
pub mod targets;
mod task_arithmetic;
pub mod tensor_file;
mod weighted;

pub use config::*;
pub use convert::{Conversion, convert_to_lora};
#[doc(hidden)]
pub use device::test_device;
pub use device::{DeviceError, DeviceName};
pub use embedding::{EmbeddingAdapter, PeftEmbedding, TrainableTokens};
pub use error::{PeftError, Result};
pub use files::AdapterFiles;
pub use frozen::Frozen;
pub use layer::{LayerMut, LayerRef};
pub use layers::Layers;
#[doc(hidden)]
pub use layers::join as join_path;
pub use linear::{LinearAdapter, PeftLinear, Projection};
pub use mixed_batch::{BASE, MixedBatch};
pub use model::{AdaptableModel, PeftModel, PeftState};
pub use mt19937::vera_projection;
pub use named_adapters::{LayerAdapter, NamedAdapters};
pub use param::{ParamMut, ParamRef};
pub use random::TensorRng;
pub use reparam::{AdaptedLayers, AdaptedParam, ParamAdapter};
pub use report::*;
pub use status::{AdapterStatus, LayerStatus, ModelStatus, Trained};
pub use summary::{AdaptedModule, AdapterSummary};
pub use task_arithmetic::MajoritySign;
pub use weighted::{Combination, Weighting, add_weighted_adapter};
