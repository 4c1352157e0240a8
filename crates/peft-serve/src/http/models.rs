//! `GET /v1/models`

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{ApiError, App, Shared};
use crate::error::ServeError;
use crate::store::AdapterInfo;

impl App {
    fn base_object(&self) -> Value {
        json!({
            "id": self.base, "object": "model", "created": self.started, "owned_by": "peft", "root": self.base,
            "parent": null, "max_model_len": self.engine.context(),
        })
    }

    fn adapter_object(&self, info: &AdapterInfo) -> Value {
        json!({
            "id": &*info.name, "object": "model", "created": self.started, "owned_by": "peft", "root": &*info.name,
            "parent": self.base, "peft_type": info.peft_type, "adapter_generation": info.generation,
        })
    }
}

pub(super) async fn list(State(app): Shared) -> Response {
    // The first listing reads each adapter's configuration.
    let listed = tokio::task::spawn_blocking(move || {
        let mut all = vec![app.base_object()];
        all.extend(app.engine.store().list().iter().map(|info| app.adapter_object(info)));
        json!({"object": "list", "data": all})
    });
    match listed.await {
        Ok(listed) => Json(listed).into_response(),
        Err(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "listing the models failed").into_response(),
    }
}

pub(super) async fn one(State(app): Shared, Path(id): Path<String>) -> Response {
    if id == app.base {
        return Json(app.base_object()).into_response();
    }
    match app.engine.store().info(&id) {
        Some(info) => Json(app.adapter_object(&info)).into_response(),
        None => ApiError::from(ServeError::UnknownModel(id)).into_response(),
    }
}
