//! From text, prompts and conversations to token ids, and back.
//!
//! [`Text`] is what a model directory knows of text: its [`Tokenizer`], its [`ChatTemplate`] and its [`StopTokens`]. It
//! encodes the rows of a data set ([`Encoded`]: ids, and which of them are learned) and the prompts of generation.

pub(crate) mod adapter;
mod added;
mod beside;
mod chat;
mod class;
mod encode;
mod fingerprint;
mod message;
mod special;
mod stop;
mod stop_strings;
mod stream;
mod tokenizer;
mod vocabulary;
mod whole_json;

pub use chat::ChatTemplate;
pub use encode::{Encoded, Text};
pub use message::{Conversation, Message};
pub use special::SpecialTokens;
pub use stop::StopTokens;
pub use stop_strings::StopScanner;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
