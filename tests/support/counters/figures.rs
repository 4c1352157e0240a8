//! The figures, as JSON and as a row of a table.

use serde::Serialize;

/// The figures of a method in one shape and dtype.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub method: &'static str,
    /// Rows by tokens.
    pub shape: String,
    /// The base's.
    pub dtype: String,
    pub launches_forward_per_layer: f64,
    pub launches_backward_per_layer: f64,
    /// Of a step of the whole model.
    pub launches_outside: f64,
    /// Bytes that a layer keeps for backward, for each token.
    pub kept_bytes_per_token_layer: f64,
    /// Bytes read and written in a step of the whole model by blocks that cast and do nothing else.
    pub cast_bytes: f64,
    /// Bytes read and written in a step in tensors of logits' size, for each logit.
    pub bytes_per_logit: f64,
    /// Bytes of the pool's pages at most, of the deeper model that was counted.
    pub peak_bytes: u64,
    /// Reads by the host in a step.
    pub device_reads: usize,
}

/// The head of a table in Markdown.
pub fn header() -> &'static str {
    "| method | shape | base | launches a layer: forward | backward | outside | kept B a token and layer | casts, MB a step | B a logit | peak, MiB | reads |\n\
     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
}

/// A row of it.
pub fn row(figures: &Figures) -> String {
    format!(
        "| {} | {} | {} | {:.1} | {:.1} | {:.0} | {:.0} | {:.2} | {:.1} | {:.0} | {} |",
        figures.method,
        figures.shape,
        figures.dtype,
        figures.launches_forward_per_layer,
        figures.launches_backward_per_layer,
        figures.launches_outside,
        figures.kept_bytes_per_token_layer,
        figures.cast_bytes / 1e6,
        figures.bytes_per_logit,
        figures.peak_bytes as f64 / f64::from(1 << 20),
        figures.device_reads,
    )
}
