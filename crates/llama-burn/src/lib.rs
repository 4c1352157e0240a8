#![doc = include_str!("../README.md")]

mod config;
mod dtype;
mod error;
mod generate;
mod gguf;
pub mod hub;
mod merge;
mod model;
pub mod prelude;
mod quantization;
mod summary;
mod tensors;
mod text;
mod user_cache;
mod weights;

pub use config::{
    Decoder, Dtype, EmbeddingScale, Gate, LayerKind, LayerRope, LlamaConfig, LoadDtype, Norms, QkNorm, RopeConfig,
    RopeScaling,
};
pub use error::{HubCause, LlamaError, PromptError, Result, SamplingError, TemplateError};
pub use generate::{
    Finish, Generate, GenerateOptions, GenerationDefaults, Piece, Sampler, SamplingConfig, TextDecoder, TokenLogprob,
};
pub use gguf::{GgufType, save_lora_gguf, unpack_gguf};
pub use merge::{MergeReport, merge_into, merge_into_gguf};
pub use model::{
    Attention, AttentionMask, CausalModel, DecoderLayer, Input, KvCache, Llama, Mlp, ModelSpec, RmsNorm, Step,
};
pub use quantization::{
    BaseQuantization, Format, LoadOptions, PackedMergeReport, QuantizationKind, Quantize, QuantizeReport,
    merge_into_packed, packed_bytes, quantize_into,
};
pub use summary::{ModelSummary, TokenizerSummary};
pub use text::{
    ChatTemplate, Conversation, Encoded, Message, SpecialTokens, StopScanner, StopTokens, Text, TextStream, Tokenizer,
};
pub use user_cache::user_cache;
