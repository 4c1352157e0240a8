//! Adapters at run time: list, load, unload. The two latter are vLLM's.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::fields::Fields;
use super::{ApiError, App, Shared};
use crate::store::{LoadOptions, State as Place};

type Result<T> = std::result::Result<T, ApiError>;
type Body = std::result::Result<Bytes, BytesRejection>;

#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// Look into the folder again.
    #[serde(default)]
    refresh: bool,
}

pub(super) async fn list(State(app): Shared, Query(Listing { refresh }): Query<Listing>) -> Response {
    let listed = tokio::task::spawn_blocking(move || {
        let store = app.engine.store();
        if refresh {
            store.refresh();
        }
        let data: Vec<_> = store
            .list()
            .iter()
            .map(|info| {
                json!({
                    "lora_name": &*info.name, "peft_type": info.peft_type, "state": info.state.name(),
                    "adapter_generation": info.generation, "bytes": info.bytes, "pinned": info.pinned,
                    "in_use": info.leases, "resident": info.state == Place::Resident,
                })
            })
            .collect();
        json!({"object": "list", "data": data, "bytes": store.used_bytes(), "shared_bytes": store.shared_bytes()})
    });
    match listed.await {
        Ok(listed) => Json(listed).into_response(),
        Err(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "listing the adapters failed").into_response(),
    }
}

pub(super) async fn load(State(app): Shared, body: Body) -> Response {
    loaded(app, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn loaded(app: Arc<App>, body: Body) -> Result<Response> {
    app.check_loading()?;
    let mut fields = Fields::of_body(body)?;
    let (name, path) = (fields.required("lora_name")?, fields.required("lora_path")?);
    let options = LoadOptions {
        in_place: fields.flag("load_inplace")?,
        pinned: fields.flag("pinned")?,
        expected_generation: fields.count("expected_generation")?.map(|n| n as u64),
    };
    fields.finish()?;
    let shown = name.clone();
    let done = tokio::task::spawn_blocking(move || app.engine.store().load(&name, &path, &options));
    match done.await {
        Ok(done) => done
            .map(|_| format!("Success: LoRA adapter '{shown}' added successfully.").into_response())
            .map_err(Into::into),
        Err(_) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "loading the adapter failed")),
    }
}

pub(super) async fn unload(State(app): Shared, body: Body) -> Response {
    unloaded(&app, body).unwrap_or_else(IntoResponse::into_response)
}

fn unloaded(app: &App, body: Body) -> Result<Response> {
    app.check_loading()?;
    let mut fields = Fields::of_body(body)?;
    let name = fields.required("lora_name")?;
    // vLLM's clients may send the adapter's number too.
    fields.count("lora_int_id")?;
    fields.finish()?;
    app.engine.store().unload(&name)?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}

impl App {
    fn check_loading(&self) -> Result<()> {
        if self.engine.is_draining() {
            return Err(crate::ServeError::ShuttingDown.into());
        }
        if self.config.run_time_loading {
            return Ok(());
        }
        let message = "loading at run time is off: start the server with a folder of adapters";
        Err(ApiError::new(StatusCode::FORBIDDEN, message))
    }
}
