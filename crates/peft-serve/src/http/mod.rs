//! An OpenAI-compatible server before an [`Engine`](crate::Engine).
//!
//! [`router`] is the whole of it as an axum router; [`serve`] listens, and ends by a signal.

mod admin;
mod auth;
mod chat;
mod choices;
mod completions;
mod encode;
mod error;
mod fields;
mod logprobs;
mod models;
mod params;
mod run;
mod sse;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};

use crate::engine::Handle;
pub use error::ApiError;
pub use run::{Listening, serve, serve_until};

/// How the server is guarded.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The key that requests must send as `Authorization: Bearer ...`.
    pub api_key: Option<String>,
    /// The key for requests that load and unload adapters.
    pub admin_key: Option<String>,
    /// The largest body of a request, in bytes.
    pub body_limit: usize,
    /// How long requests that run may go on after a signal to end.
    pub shutdown_timeout: Duration,
    /// Whether adapters may be loaded and unloaded at run time.
    pub run_time_loading: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            api_key: None,
            admin_key: None,
            body_limit: 8 << 20,
            shutdown_timeout: Duration::from_secs(30),
            run_time_loading: false,
        }
    }
}

/// The state that every handler gets.
#[derive(Debug)]
struct App {
    engine: Handle,
    /// The base's name.
    base: String,
    config: HttpConfig,
    started: u64,
}

type Shared = State<Arc<App>>;

/// The server's routes, for `engine` with a base called `base`.
pub fn router(engine: Handle, base: impl Into<String>, config: HttpConfig) -> Router {
    let limit = config.body_limit;
    let app = Arc::new(App { engine, base: base.into(), config, started: now() });
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/lora_adapters", get(admin::list))
        .route("/v1/load_lora_adapter", post(admin::load))
        .route("/v1/unload_lora_adapter", post(admin::unload))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path").into_response() })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method").into_response()
        })
        .layer(from_fn_with_state(Arc::clone(&app), auth::check))
        .route("/health", get(health))
        .layer(DefaultBodyLimit::max(limit))
        .with_state(app)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn health(State(app): Shared) -> Response {
    if app.engine.is_draining() {
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down").into_response();
    }
    StatusCode::OK.into_response()
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

async fn metrics(State(app): Shared) -> Response {
    let text = app.engine.metrics_text();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
