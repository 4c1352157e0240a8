//! Calls of tools, as OpenAI and ShareGPT write them.

use serde_json::{Map, Value, json};

use super::keys::is_neutral;
use super::shape::{from_text, kind};

/// `tool_calls`, or OpenAI's older `function_call`.
pub(super) fn tool_calls(place: &str, message: &mut Map<String, Value>) -> Result<Option<Vec<Value>>, String> {
    let call = message.remove("function_call").map(from_text);
    let calls = match (message.remove("tool_calls").map(from_text), call) {
        (Some(calls), _) if !is_neutral(&calls) => calls,
        (_, Some(call)) if !is_neutral(&call) => json!([{"type": "function", "function": call}]),
        _ => return Ok(None),
    };
    let Value::Array(calls) = calls else {
        return Err(format!("`{place}.tool_calls` must be a list, not {}", kind(&calls)));
    };
    if let Some(call) = calls.iter().find(|call| !call.is_object()) {
        return Err(format!("`{place}.tool_calls` holds {}; it takes objects", kind(call)));
    }
    Ok(Some(calls))
}

/// ShareGPT writes a call as JSON text: `{"name": ..., "arguments": ...}`, or several in a list.
pub(super) fn calls_of_text(place: &str, content: Value) -> Result<Value, String> {
    let calls = match from_text(content) {
        Value::Array(calls) => calls,
        Value::Object(call) => vec![call.into()],
        other => {
            return Err(format!(
                "`{place}` calls a function and must be JSON: a name and arguments, not {}",
                kind(&other)
            ));
        }
    };
    let call = |call: Value| match call {
        Value::Object(call) if call.contains_key("name") => Ok(json!({"type": "function", "function": call})),
        _ => Err(format!("`{place}` calls a function without a `name`")),
    };
    Ok(calls.into_iter().map(call).collect::<Result<Vec<_>, _>>()?.into())
}
