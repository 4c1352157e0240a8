//! `POST /v1/completions`

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use llama_burn::{Piece, Text, TokenLogprob};
use serde_json::{Map, Value, json};

use super::chat::usage;
use super::choices::{Choices, Whole};
use super::encode::{no_text, text_error};
use super::fields::Fields;
use super::params::{MOST_LOGPROBS, Params, random};
use super::sse::{Gone, Stream, respond};
use super::{ApiError, App, Shared, logprobs, now};
use crate::request::Event;

type Result<T> = std::result::Result<T, ApiError>;

/// Without `max_tokens`, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;
/// The most prompts of a request.
const MOST_PROMPTS: usize = 1024;

pub(super) async fn complete(State(app): Shared, body: std::result::Result<Bytes, BytesRejection>) -> Response {
    answer(app, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// A prompt as it came.
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// A prompt as tokens, and what an echo of it says.
struct Encoded {
    ids: Vec<u32>,
    text: String,
}

async fn answer(app: Arc<App>, body: std::result::Result<Bytes, BytesRejection>) -> Result<Response> {
    let mut fields = Fields::of_body(body)?;
    let params = Params::read(&app, &mut fields)?;
    let prompts = prompts(&mut fields)?;
    let echo = fields.flag("echo")?;
    let logprobs = fields.count("logprobs")?;
    if let Some(top) = logprobs.filter(|top| *top > MOST_LOGPROBS) {
        return Err(ApiError::field("logprobs", format!("`logprobs` is {top}: give 0 to {MOST_LOGPROBS}")));
    }
    fields.refuse("suffix", |value| value == "")?;
    let n = params.choices;
    fields.refuse("best_of", |value| value.as_u64() == Some(n as u64))?;
    fields.finish()?;
    let encode = move |text: Option<&Text>| prompts.into_iter().map(|prompt| encoded(prompt, text, echo)).collect();
    let (prompts, text): (Vec<Encoded>, _) = app.encoded(&params.model, encode).await?;
    let mut requests = Vec::with_capacity(prompts.len() * n);
    for prompt in &prompts {
        for i in 0..n as u64 {
            let mut request = app.request(&params, text.as_ref(), prompt.ids.clone(), DEFAULT_TOKENS);
            (request.logprobs, request.prompt_logprobs) = (logprobs, echo && logprobs.is_some());
            request.sampling.seed = request.sampling.seed.wrapping_add(i);
            requests.push(request);
        }
    }
    let mut choices = Choices::submit(&app.engine, requests, text.as_ref())?;
    let id = format!("cmpl-{:016x}", random());
    let head = Head { id, created: now(), model: params.model, n, prompts, echo, text, logprobs: logprobs.is_some() };
    if !params.stream {
        let all = choices.whole().await?;
        return Ok(Json(head.whole(&all)).into_response());
    }
    let first = match choices.next().await {
        Some((_, Event::Failed(error))) => return Err(error.into()),
        first => first,
    };
    let include_usage = params.include_usage;
    Ok(respond(move |stream| async move { head.stream(&stream, choices, first, include_usage).await }))
}

fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>> {
    let wrong = || ApiError::field("prompt", "`prompt` must be a string, a list of token ids, or a list of either");
    let ids = |list: &[Value]| {
        list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect::<Option<Vec<_>>>()
    };
    let all: Vec<Prompt> = match fields.take("prompt") {
        Some(Value::String(text)) => vec![Prompt::Text(text)],
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            vec![Prompt::Tokens(ids(&list).ok_or_else(wrong)?)]
        }
        Some(Value::Array(list)) if !list.is_empty() => {
            let prompt = |one: Value| match one {
                Value::String(text) => Some(Prompt::Text(text)),
                Value::Array(list) => ids(&list).map(Prompt::Tokens),
                _ => None,
            };
            list.into_iter().map(prompt).collect::<Option<_>>().ok_or_else(wrong)?
        }
        _ => return Err(wrong()),
    };
    if all.len() > MOST_PROMPTS {
        return Err(ApiError::field("prompt", format!("{} prompts, and at most {MOST_PROMPTS} may be", all.len())));
    }
    Ok(all)
}

fn encoded(prompt: Prompt, text: Option<&Text>, echo: bool) -> Result<Encoded> {
    match prompt {
        Prompt::Text(said) => {
            let text = text.ok_or_else(|| no_text("prompt"))?;
            let mut ids = text.tokenizer.encode(&said, true).map_err(|error| text_error(error, "prompt"))?;
            // A text from nothing begins with the token that begins texts.
            if ids.is_empty() {
                ids.extend(text.tokenizer.bos_token_id());
            }
            Ok(Encoded { ids, text: said })
        }
        Prompt::Tokens(ids) => {
            let said = match text.filter(|_| echo) {
                Some(text) => text.tokenizer.decode(&ids, true).map_err(|error| text_error(error, "prompt"))?,
                None => String::new(),
            };
            Ok(Encoded { ids, text: said })
        }
    }
}

/// The fields that each part of an answer repeats.
struct Head {
    id: String,
    created: u64,
    model: String,
    /// Choices of each prompt.
    n: usize,
    prompts: Vec<Encoded>,
    echo: bool,
    text: Option<Arc<Text>>,
    logprobs: bool,
}

impl Head {
    fn part(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut part = Map::new();
        part.insert("id".into(), self.id.clone().into());
        part.insert("object".into(), "text_completion".into());
        part.insert("created".into(), self.created.into());
        part.insert("model".into(), self.model.clone().into());
        part.insert("choices".into(), choices);
        if let Some(usage) = usage {
            part.insert("usage".into(), usage);
        }
        Value::Object(part)
    }

    /// The prompt of a choice.
    fn prompt(&self, index: usize) -> &Encoded {
        &self.prompts[index / self.n]
    }

    /// Log-probabilities of the prompt's tokens, if `known` are there, and of new ones, from character `offset` on.
    fn logprobs(
        &self,
        prompt: Option<(&Encoded, &[Option<TokenLogprob>])>,
        new: &[TokenLogprob],
        offset: usize,
    ) -> (Value, usize) {
        let of_prompt = prompt.into_iter().flat_map(|(prompt, known)| {
            prompt.ids.iter().enumerate().map(|(i, id)| (*id, known.get(i).and_then(Option::as_ref)))
        });
        let all: Vec<_> = of_prompt.chain(new.iter().map(|one| (one.id, Some(one)))).collect();
        logprobs::completion(self.text.as_ref().map(|text| &text.tokenizer), &all, offset)
    }

    fn whole(&self, all: &[Whole]) -> Value {
        let choices = all.iter().enumerate().map(|(index, one)| {
            let prompt = self.prompt(index);
            let said = if self.echo { format!("{}{}", prompt.text, one.text) } else { one.text.clone() };
            let echoed = self.echo.then_some((prompt, one.prompt.as_slice()));
            json!({
                "index": index, "text": said,
                "logprobs": self.logprobs.then(|| self.logprobs(echoed, &one.logprobs, 0).0),
                "finish_reason": one.ended.map(|(reason, _)| reason.name()),
            })
        });
        let choices: Vec<_> = choices.collect();
        let new = all.iter().filter_map(|one| one.ended).map(|(_, usage)| usage.completion_tokens).sum();
        self.part(choices.into(), Some(self.usage(new)))
    }

    fn usage(&self, new: usize) -> Value {
        usage(self.prompts.iter().map(|prompt| prompt.ids.len()).sum(), new)
    }

    async fn stream(
        &self,
        stream: &Stream,
        mut choices: Choices,
        first: Option<(usize, Event)>,
        include_usage: bool,
    ) -> std::result::Result<(), Gone> {
        let count = self.prompts.len() * self.n;
        let mut offsets = vec![0; count];
        let mut echoed = vec![!self.echo; count];
        let send = |index: usize, text: &str, logprobs: Option<Value>, reason: Option<&str>| {
            let choice = json!([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}]);
            let chunk = self.part(choice, include_usage.then_some(Value::Null));
            async move { stream.send(&chunk).await }
        };
        let mut new = 0;
        let mut event = first;
        while let Some((index, next)) = event {
            let prompt = self.prompt(index);
            if !echoed[index] {
                echoed[index] = true;
                let known = match &next {
                    Event::Prompt(known) => known.as_slice(),
                    _ => &[],
                };
                let known = self.logprobs.then(|| self.logprobs(Some((prompt, known)), &[], 0));
                offsets[index] = known.as_ref().map_or(0, |(_, offset)| *offset);
                send(index, &prompt.text, known.map(|(known, _)| known), None).await?;
            }
            match next {
                Event::Prompt(_) => {}
                Event::Tokens(Piece { text, logprobs, .. }) => {
                    let known = self.logprobs.then(|| self.logprobs(None, &logprobs, offsets[index]));
                    offsets[index] = known.as_ref().map_or(0, |(_, offset)| *offset);
                    send(index, &text, known.map(|(known, _)| known), None).await?;
                }
                Event::Finished { reason, usage } => {
                    new += usage.completion_tokens;
                    send(index, "", None, Some(reason.name())).await?;
                }
                Event::Failed(error) => {
                    stream.send(&ApiError::from(error).json()).await?;
                    return stream.done().await;
                }
            }
            event = choices.next().await;
        }
        if include_usage {
            stream.send(&self.part(json!([]), Some(self.usage(new)))).await?;
        }
        stream.done().await
    }
}
