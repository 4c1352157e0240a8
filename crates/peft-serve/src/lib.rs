#![doc = include_str!("../README.md")]

pub mod bench;
mod blocks;
mod engine;
mod error;
pub mod http;
mod metrics;
mod queue;
mod request;
mod sequence;
mod store;

pub use engine::{Core, Engine, EngineConfig, Handle, Served};
pub use error::{Result, ServeError};
pub use llama_burn::{Finish, Piece};
pub use metrics::Metrics;
pub use request::{Answer, Event, Request, Usage};
pub use store::{AdapterInfo, LoadOptions, Resident, State, Store, StoreConfig, StoreUse};
