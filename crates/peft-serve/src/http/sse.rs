//! Server-sent events.

use std::convert::Infallible;
use std::future::Future;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::Value;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

/// Chunks that a slow reader may leave lying; more wait in the engine.
const CHUNKS: usize = 32;

/// Where chunks are written.
#[derive(Clone, Debug)]
pub(super) struct Stream(Sender<Result<Bytes, Infallible>>);

/// The reader went away.
pub(super) struct Gone;

impl Stream {
    /// Writes a chunk.
    pub async fn send(&self, chunk: &Value) -> Result<(), Gone> {
        self.write(format!("data: {chunk}\n\n")).await
    }

    /// Writes the end.
    pub async fn done(&self) -> Result<(), Gone> {
        self.write("data: [DONE]\n\n".to_owned()).await
    }

    async fn write(&self, text: String) -> Result<(), Gone> {
        self.0.send(Ok(text.into())).await.map_err(|_| Gone)
    }
}

/// A response whose chunks `write` writes. Whatever it holds is dropped as soon as the reader goes away.
pub(super) fn respond<F>(write: impl FnOnce(Stream) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, chunks) = channel(CHUNKS);
    let writing = write(Stream(sender.clone()));
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            _ = writing => {}
        }
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(chunks)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
