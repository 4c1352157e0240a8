//! `POST /v1/chat/completions`

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use llama_burn::{Conversation, Message, Piece, Tokenizer};
use serde_json::{Map, Value, json};

use super::choices::Choices;
use super::encode::{no_text, text_error};
use super::fields::Fields;
use super::params::{MOST_LOGPROBS, Params, random};
use super::sse::{Gone, Stream, respond};
use super::{ApiError, App, Shared, logprobs, now};
use crate::request::{Event, Request};

type Result<T> = std::result::Result<T, ApiError>;

pub(super) async fn complete(State(app): Shared, body: std::result::Result<Bytes, BytesRejection>) -> Response {
    answer(app, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(app: Arc<App>, body: std::result::Result<Bytes, BytesRejection>) -> Result<Response> {
    let mut fields = Fields::of_body(body)?;
    let params = Params::read(&app, &mut fields)?;
    let logprobs = logprobs_of(&mut fields)?;
    let messages = messages(&mut fields)?;
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.refuse("tools", empty)?;
    fields.refuse("response_format", |value| value["type"] == "text")?;
    fields.refuse("tool_choice", |value| value == "none" || value == "auto")?;
    fields.finish()?;
    let encode = move |text: Option<&llama_burn::Text>| {
        let text = text.ok_or_else(|| no_text("messages"))?;
        text.encode_chat_prompt(&Conversation::new(messages)).map_err(|error| text_error(error, "messages"))
    };
    let (prompt, text) = app.encoded(&params.model, encode).await?;
    let request = Request { logprobs, ..app.request(&params, text.as_ref(), prompt, usize::MAX) };
    let requests = (0..params.choices as u64).map(|i| {
        let mut request = request.clone();
        request.sampling.seed = request.sampling.seed.wrapping_add(i);
        request
    });
    let mut choices = Choices::submit(&app.engine, requests.collect(), text.as_ref())?;
    let head = Head { id: format!("chatcmpl-{:016x}", random()), created: now(), model: params.model };
    if !params.stream {
        let all = choices.whole().await?;
        return Ok(
            Json(head.whole(&all, logprobs.is_some(), text.as_ref().map(|text| &text.tokenizer))).into_response()
        );
    }
    // A failure before the first word has a status of its own.
    let first = match choices.next().await {
        Some((_, Event::Failed(error))) => return Err(error.into()),
        first => first,
    };
    let n = params.choices;
    let include_usage = params.include_usage;
    Ok(respond(move |stream| async move {
        let tokenizer = text.as_ref().map(|text| &text.tokenizer);
        head.stream(&stream, choices, first, n, include_usage, tokenizer).await
    }))
}

/// How many alternatives of each token are wanted, if any are.
fn logprobs_of(fields: &mut Fields) -> Result<Option<usize>> {
    let wanted = fields.flag("logprobs")?;
    let top = fields.count("top_logprobs")?;
    match top {
        Some(top) if top > MOST_LOGPROBS => {
            Err(ApiError::field("top_logprobs", format!("`top_logprobs` is {top}: give 0 to {MOST_LOGPROBS}")))
        }
        Some(top) if top > 0 && !wanted => {
            Err(ApiError::field("top_logprobs", "`top_logprobs` goes with `logprobs: true`"))
        }
        top => Ok(wanted.then_some(top.unwrap_or(0))),
    }
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>> {
    let wrong = |name: &str, message: &str| ApiError::field(name, format!("`{name}` {message}"));
    let Some(Value::Array(all)) = fields.take("messages") else {
        return Err(wrong("messages", "must be a list of messages"));
    };
    if all.is_empty() {
        return Err(wrong("messages", "is empty: give at least one message"));
    }
    let mut messages = Vec::with_capacity(all.len());
    for (i, message) in all.into_iter().enumerate() {
        let at = format!("messages[{i}]");
        let Value::Object(map) = message else { return Err(wrong(&at, "must be an object with role and content")) };
        let mut message = Fields::of(map, format!("{at}."));
        let role = message.required("role")?;
        let content = match message.take("content") {
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => text_of(parts, &format!("{at}.content"))?,
            _ => return Err(wrong(&format!("{at}.content"), "must be a string or a list of text parts")),
        };
        let mut read = Message::new(role, content);
        for name in ["name", "reasoning_content"] {
            if let Some(value) = message.string(name)? {
                read = read.with(name, value);
            }
        }
        message.refuse("tool_calls", |value| value.as_array().is_some_and(Vec::is_empty))?;
        message.finish()?;
        messages.push(read);
    }
    Ok(messages)
}

fn text_of(parts: Vec<Value>, at: &str) -> Result<String> {
    let mut all = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => all.push_str(text),
            (kind, _) => {
                let at = format!("{at}[{i}]");
                let kind = kind.unwrap_or("nothing");
                let message = format!("`{at}` has the type {kind:?}: only parts of the type \"text\" are supported");
                return Err(ApiError::field(at, message));
            }
        }
    }
    Ok(all)
}

/// The fields that each part of an answer repeats.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn whole(&self, all: &[super::choices::Whole], wanted: bool, tokenizer: Option<&Tokenizer>) -> Value {
        let choices = all.iter().enumerate().map(|(index, one)| {
            json!({
                "index": index,
                "message": {"role": "assistant", "content": one.text, "refusal": null},
                "logprobs": wanted.then(|| logprobs::chat(tokenizer, &one.logprobs)),
                "finish_reason": one.ended.map(|(reason, _)| reason.name()),
            })
        });
        let choices: Vec<_> = choices.collect();
        let prompt = all.first().and_then(|one| one.ended).map_or(0, |(_, usage)| usage.prompt_tokens);
        let new = all.iter().filter_map(|one| one.ended).map(|(_, usage)| usage.completion_tokens).sum();
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": choices, "usage": usage(prompt, new), "system_fingerprint": null,
        })
    }

    fn chunk(&self, choices: Value, usage: Option<Value>, include_usage: bool) -> Value {
        let mut chunk = Map::new();
        chunk.insert("id".into(), self.id.clone().into());
        chunk.insert("object".into(), "chat.completion.chunk".into());
        chunk.insert("created".into(), self.created.into());
        chunk.insert("model".into(), self.model.clone().into());
        chunk.insert("choices".into(), choices);
        if include_usage {
            chunk.insert("usage".into(), usage.unwrap_or(Value::Null));
        }
        Value::Object(chunk)
    }

    async fn stream(
        &self,
        stream: &Stream,
        mut choices: Choices,
        first: Option<(usize, Event)>,
        n: usize,
        include_usage: bool,
        tokenizer: Option<&Tokenizer>,
    ) -> std::result::Result<(), Gone> {
        let send = |index: usize, delta: Value, logprobs: Option<Value>, reason: Option<&str>| {
            let choice = json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]);
            let chunk = self.chunk(choice, None, include_usage);
            async move { stream.send(&chunk).await }
        };
        for index in 0..n {
            send(index, json!({"role": "assistant", "content": ""}), None, None).await?;
        }
        let (mut prompt, mut new) = (0, 0);
        let mut event = first;
        while let Some((index, next)) = event {
            match next {
                Event::Prompt(_) => {}
                Event::Tokens(Piece { text, logprobs, .. }) => {
                    let known = (!logprobs.is_empty()).then(|| logprobs::chat(tokenizer, &logprobs));
                    send(index, json!({"content": text}), known, None).await?;
                }
                Event::Finished { reason, usage } => {
                    (prompt, new) = (usage.prompt_tokens, new + usage.completion_tokens);
                    send(index, json!({}), None, Some(reason.name())).await?;
                }
                Event::Failed(error) => {
                    stream.send(&ApiError::from(error).json()).await?;
                    return stream.done().await;
                }
            }
            event = choices.next().await;
        }
        if include_usage {
            stream.send(&self.chunk(json!([]), Some(usage(prompt, new)), true)).await?;
        }
        stream.done().await
    }
}

/// Counts of tokens as OpenAI writes them.
pub(super) fn usage(prompt: usize, new: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new})
}
