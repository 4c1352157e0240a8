//! All that a program with a language model usually names: `use llama_burn::prelude::*;`.

pub use crate::{
    CausalModel, ChatTemplate, Conversation, Generate, GenerateOptions, Input, Llama, LlamaConfig, LlamaError, Message,
    SamplingConfig, Text, Tokenizer,
};
