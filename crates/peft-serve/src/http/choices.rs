//! The answers of one request, as they come.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use llama_burn::{Finish, Piece, Text, TokenLogprob};

use super::ApiError;
use crate::engine::Handle;
use crate::request::{Answer, Event, Request, Usage};

/// Answers that are made side by side. Dropping them cancels all.
#[derive(Debug)]
pub(super) struct Choices {
    answers: Vec<Option<Answer>>,
    /// Where to look next, so that none is passed over.
    next: usize,
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    pub prompt: Vec<Option<TokenLogprob>>,
    pub text: String,
    pub logprobs: Vec<TokenLogprob>,
    pub ended: Option<(Finish, Usage)>,
}

impl Choices {
    /// Hands the requests to the engine; all, or none.
    pub fn submit(engine: &Handle, requests: Vec<Request>, text: Option<&Arc<Text>>) -> Result<Self, ApiError> {
        let answers = requests.into_iter().map(|request| engine.submit_as(request, text.cloned()).map(Some));
        Ok(Self { answers: answers.collect::<Result<_, _>>()?, next: 0 })
    }

    /// The next event, with the number of its answer; `None` when all have ended.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        poll_fn(|context| {
            let n = self.answers.len();
            let mut open = false;
            for i in (0..n).map(|i| (self.next + i) % n) {
                let Some(answer) = &mut self.answers[i] else { continue };
                match answer.events.poll_recv(context) {
                    Poll::Ready(Some(event)) => {
                        self.next = i + 1;
                        if matches!(event, Event::Finished { .. } | Event::Failed(_)) {
                            self.answers[i] = None;
                        }
                        return Poll::Ready(Some((i, event)));
                    }
                    // The engine has ended without a word.
                    Poll::Ready(None) => {
                        self.answers[i] = None;
                        return Poll::Ready(Some((i, Event::Failed(crate::ServeError::ShuttingDown))));
                    }
                    Poll::Pending => open = true,
                }
            }
            if open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }

    /// All answers, whole.
    ///
    /// # Errors
    /// The first that fails ends all.
    pub async fn whole(mut self) -> Result<Vec<Whole>, ApiError> {
        let mut all = vec![Whole::default(); self.answers.len()];
        while let Some((i, event)) = self.next().await {
            match event {
                Event::Prompt(prompt) => all[i].prompt = prompt,
                Event::Tokens(Piece { text, logprobs, .. }) => {
                    all[i].text.push_str(&text);
                    all[i].logprobs.extend(logprobs);
                }
                Event::Finished { reason, usage } => all[i].ended = Some((reason, usage)),
                Event::Failed(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }
}
