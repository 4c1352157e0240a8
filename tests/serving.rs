//! Serving: packs of adapters, the engine, and the server as its clients meet it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "serving/support.rs"]
mod support;

#[path = "serving/packs.rs"]
mod packs;

#[path = "serving/engine.rs"]
mod engine;

#[path = "serving/store.rs"]
mod store;

#[path = "serving/http.rs"]
mod http;

#[path = "serving/hostile.rs"]
mod hostile;

#[path = "serving/clients.rs"]
mod clients;
