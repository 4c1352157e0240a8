//! Every family of models against Transformers and PEFT, from the files that `tests/python/families.py` writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "families/adapters.rs"]
mod adapters;
#[path = "families/files.rs"]
mod files;
#[path = "families/gguf.rs"]
mod gguf;
#[path = "families/logits.rs"]
mod logits;
#[path = "families/served.rs"]
mod served;
#[path = "families/support.rs"]
mod support;
