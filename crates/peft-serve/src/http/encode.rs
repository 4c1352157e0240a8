//! Prompts as tokens, with the adapter's own tokenizer and template where it has them.

use std::sync::Arc;

use axum::http::StatusCode;
use llama_burn::{LlamaError, Text};

use super::params::Params;
use super::{ApiError, App};
use crate::request::Request;

type Result<T> = std::result::Result<T, ApiError>;

impl App {
    /// The text of the model that a request names, which reading files may take.
    fn text_of(&self, model: &str) -> Result<Option<Arc<Text>>> {
        if model == self.base {
            return Ok(self.engine.text().cloned());
        }
        Ok(self.engine.store().text(model)?)
    }

    /// Runs `encode` with the model's text where it keeps nobody waiting.
    pub(super) async fn encoded<R: Send + 'static>(
        self: &Arc<Self>,
        model: &str,
        encode: impl FnOnce(Option<&Text>) -> Result<R> + Send + 'static,
    ) -> Result<(R, Option<Arc<Text>>)> {
        let (app, model) = (Arc::clone(self), model.to_owned());
        let done = tokio::task::spawn_blocking(move || {
            let text = app.text_of(&model)?;
            Ok((encode(text.as_deref())?, text))
        });
        done.await
            .unwrap_or_else(|_| Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "encoding the prompt failed")))
    }

    /// The engine's request for the tokens of a prompt. Without a limit it may go on for `default` tokens.
    pub(super) fn request(
        &self,
        params: &Params,
        text: Option<&Arc<Text>>,
        prompt: Vec<u32>,
        default: usize,
    ) -> Request {
        let room = self.engine.longest().saturating_sub(prompt.len()).max(1);
        let stop_ids = match text {
            _ if params.ignore_eos => Vec::new(),
            Some(text) => text.stop.ids().to_vec(),
            None => self.engine.eos_ids().to_vec(),
        };
        Request {
            adapter: (params.model != self.base).then(|| params.model.as_str().into()),
            max_tokens: params.max_tokens.unwrap_or(default.min(room)),
            sampling: params.sampling.clone(),
            stop: params.stop.clone(),
            stop_ids,
            ..Request::new(prompt)
        }
    }
}

/// An error of a tokenizer or template, which `param` has caused.
pub(super) fn text_error(error: LlamaError, param: &str) -> ApiError {
    let code = if matches!(error, LlamaError::Template(_)) { "template_error" } else { "tokenizer_error" };
    ApiError::field(param, error.to_string()).code(code)
}

/// The error of a server without a tokenizer.
pub(super) fn no_text(param: &str) -> ApiError {
    ApiError::field(param, "the model has no tokenizer.json, so that only prompts of token ids can be answered")
}
