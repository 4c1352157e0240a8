//! Errors as OpenAI's clients read them.

use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, http::header};
use serde_json::{Value, json};

use crate::error::ServeError;

/// An error as a response, or as a part of a stream.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<String>,
    /// Whether official clients should try again, where the status alone would mislead them.
    retry: Option<bool>,
}

impl ApiError {
    /// An error of a status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        // A request that failed with one of these fails again for the same reason.
        let retry = matches!(status, StatusCode::CONFLICT | StatusCode::INTERNAL_SERVER_ERROR).then_some(false);
        Self { status, message: message.into(), param: None, code: None, retry }
    }

    /// A field that is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// With a name for programs.
    #[must_use]
    pub fn code(self, code: &str) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::CONFLICT => "conflict_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            _ => "internal_server_error",
        }
    }

    /// The object that stands for it.
    pub fn json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }
}

impl From<ServeError> for ApiError {
    fn from(error: ServeError) -> Self {
        let message = error.to_string();
        match error {
            ServeError::Invalid { param, code, .. } => {
                Self { param, code: code.map(str::to_owned), ..Self::new(StatusCode::BAD_REQUEST, message) }
            }
            ServeError::UnknownModel(_) => {
                let error = Self::new(StatusCode::NOT_FOUND, message).code("model_not_found");
                Self { param: Some("model".into()), ..error }
            }
            ServeError::Adapter { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("adapter_not_loadable")
            }
            ServeError::Generation { .. } => Self::new(StatusCode::CONFLICT, message).code("generation_mismatch"),
            ServeError::QueueFull { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full"),
            ServeError::NoRoom { temporary, .. } => {
                let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("adapter_memory_full");
                Self { retry: (!temporary).then_some(false), ..error }
            }
            ServeError::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down"),
            ServeError::Cancelled | ServeError::Failed(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        let headers = response.headers_mut();
        if let Some(retry) = self.retry {
            headers.insert("x-should-retry", HeaderValue::from_static(if retry { "true" } else { "false" }));
        }
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // So that a browser asks for the key.
            headers
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"peft\", charset=\"UTF-8\""));
        }
        response
    }
}
