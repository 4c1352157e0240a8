//! All that a program with adapters usually names: `use peft_burn::prelude::*;`.

pub use crate::methods::MethodConfig;
pub use crate::{
    AdaLoraConfig, AdaptableModel, AdapterFiles, AdapterStatus, Bias, Ia3Config, InitLoraWeights, LoHaConfig,
    LoraConfig, MixedBatch, ModuleNames, ParamAdapter, PeftConfig, PeftEmbedding, PeftError, PeftLinear, PeftModel,
    PeftState, TargetModules, TaskType, VeraConfig, layers,
};
