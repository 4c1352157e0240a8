//! A note in an adapter's file about the base that it was trained on: whether its weights were quantised, and how.
//!
//! An adapter learns to make up for the rounding of its base. On another base it computes something else, which is to be said.

use crate::layers::LayerRef;
use crate::model::PeftModel;

/// The key in the metadata of the file of tensors.
const KEY: &str = "base_quantization";

/// The note for an adapter of `model`; none where no weight is packed.
pub(super) fn note_of<M: PeftModel>(model: &M) -> Vec<(&'static str, String)> {
    quantization(model).map(|format| (KEY, format)).into_iter().collect()
}

/// The warning for an adapter with the note of `metadata` on `model`, if it needs one.
pub(super) fn warning<M: PeftModel>(
    model: &M,
    path: &std::path::Path,
    metadata: &std::collections::BTreeMap<String, String>,
) -> Option<String> {
    let trained = metadata.get(KEY)?;
    let present = quantization(model);
    if present.as_ref() == Some(trained) {
        return None;
    }
    let present = present.map_or("not quantised".to_owned(), |format| format!("quantised as {format}"));
    Some(format!(
        "{}: the adapter was trained on a base quantised as {trained}, and this one is {present}: it makes up for another rounding. \
         Load the base with the same quantisation, or expect a small difference",
        path.display()
    ))
}

/// The formats of the packed weights of projections, by name.
fn quantization<M: PeftModel>(model: &M) -> Option<String> {
    let mut formats: Vec<String> = Vec::new();
    for (_, layer) in model.layers() {
        let LayerRef::Linear(linear) = layer else { continue };
        if let fused_burn::Weight::Packed(weight) = linear.original_weight() {
            let layout = weight.layout();
            let name = format!("{}{}", layout.format.name(), if layout.nested { " (double)" } else { "" });
            if !formats.contains(&name) {
                formats.push(name);
            }
        }
    }
    formats.sort();
    (!formats.is_empty()).then(|| formats.join(", "))
}
