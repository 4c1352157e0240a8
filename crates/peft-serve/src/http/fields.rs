//! The fields of a request's body: each is read, or refused by its name.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::ApiError;

type Result<T> = std::result::Result<T, ApiError>;

/// The fields that were not read yet.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    /// The path of the object, which stands before its fields' names in errors.
    prefix: String,
}

impl Fields {
    /// Of a body.
    pub fn of_body(body: std::result::Result<Bytes, BytesRejection>) -> Result<Self> {
        let body = body.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than this server takes")
            }
            status => ApiError::new(status, error.body_text()),
        })?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(map)) => Ok(Self { map, prefix: String::new() }),
            Ok(_) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body is no JSON object")),
            Err(error) => Err(ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not valid JSON: {error}"))),
        }
    }

    /// Of an object inside of another.
    pub fn of(map: Map<String, Value>, prefix: impl Into<String>) -> Self {
        Self { map, prefix: prefix.into() }
    }

    /// The whole name of a field.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A field's value; null is none.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    fn typed<T>(&mut self, name: &str, what: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let name = self.name(name);
        read(&value)
            .map(Some)
            .ok_or_else(|| ApiError::field(&name, format!("`{name}` must be {what}, but is {}", shown(&value))))
    }

    /// A string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>> {
        self.typed(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A string that must be there.
    pub fn required(&mut self, name: &str) -> Result<String> {
        let found = self.string(name)?;
        let name = self.name(name);
        found.ok_or_else(|| ApiError::field(&name, format!("`{name}` is missing")))
    }

    /// True or false.
    pub fn flag(&mut self, name: &str) -> Result<bool> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A count.
    pub fn count(&mut self, name: &str) -> Result<Option<usize>> {
        self.typed(name, "a whole number, 0 or above", |value| usize::try_from(value.as_u64()?).ok())
    }

    /// A whole number of any sign.
    pub fn integer(&mut self, name: &str) -> Result<Option<i64>> {
        self.typed(name, "a whole number", |value| value.as_i64().or(value.as_u64().map(|v| v.cast_signed())))
    }

    /// A number.
    pub fn number(&mut self, name: &str) -> Result<Option<f32>> {
        self.typed(name, "a number", |value| value.as_f64().map(|v| v as f32).filter(|v| v.is_finite()))
    }

    /// An object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>> {
        self.typed(name, "an object", |value| value.as_object().cloned())
    }

    /// Refuses a field unless it has a value that asks for nothing.
    pub fn refuse(&mut self, name: &str, nothing: impl Fn(&Value) -> bool) -> Result<()> {
        match self.take(name) {
            Some(value) if !nothing(&value) => Err(self.unsupported(name)),
            _ => Ok(()),
        }
    }

    fn unsupported(&self, name: &str) -> ApiError {
        let name = self.name(name);
        ApiError::field(&name, format!("`{name}` is not supported by this server; leave it out"))
            .code("unsupported_parameter")
    }

    /// Refuses what was not read.
    pub fn finish(self) -> Result<()> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(self.unsupported(name)),
            None => Ok(()),
        }
    }
}

/// A value in an error.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 60 { text } else { format!("{}...", text.chars().take(57).collect::<String>()) }
}
