//! Keys.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{ApiError, App};

/// Routes that change what is served.
const ADMIN: [&str; 2] = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"];

/// Lets a request through that brings the key its route asks for.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (api, admin) = (app.config.api_key.as_deref(), app.config.admin_key.as_deref());
    let brought = key(request.headers());
    let is = |key: Option<&str>| key.is_some_and(|key| brought.as_deref().is_some_and(|brought| same(brought, key)));
    let is_admin = ADMIN.contains(&request.uri().path());
    let asked = if is_admin { admin.or(api) } else { api };
    if asked.is_none() || is(asked) || is(admin) {
        return next.run(request).await;
    }
    let error = if is_admin && is(api) {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "this key is for inference; loading and unloading take the administrator's",
        )
    } else if brought.is_none() {
        ApiError::new(StatusCode::UNAUTHORIZED, "no key was given: send it as `Authorization: Bearer KEY`")
            .code("invalid_api_key")
    } else {
        ApiError::new(StatusCode::UNAUTHORIZED, "the key is wrong").code("invalid_api_key")
    };
    error.into_response()
}

/// The key of a request: a bearer token, or the password that a browser has asked for.
fn key(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let text = String::from_utf8(base64(rest.trim())?).ok()?;
        return text.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

/// Compares in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    let differ = a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differ == 0
}

/// Decodes base64.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_key_comes_as_a_token_or_as_a_password() {
        let of = |value: &str| key(&HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]));
        assert_eq!(of("Bearer sk-1").as_deref(), Some("sk-1"));
        assert_eq!(of("bearer  sk-1 ").as_deref(), Some("sk-1"));
        assert_eq!(of("Basic dXNlcjpzay0x").as_deref(), Some("sk-1"));
        assert_eq!(of("Basic OmvDpHk=").as_deref(), Some("käy"));
        assert_eq!((of("Basic !"), of("Digest x"), of("sk-1")), (None, None, None));
        assert!(same("abc", "abc") && !same("abc", "abd") && !same("abc", "ab") && !same("", "a"));
    }
}
