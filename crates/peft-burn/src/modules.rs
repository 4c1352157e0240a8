//! The modules of a base model, as far as adapters care.

/// The kind of a module, as far as adapters care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleKind {
    /// A linear layer, weight `[out, in]`.
    Linear,
    /// The linear layer that makes the model's output: `lm_head`, or the `score` of a classifier. Not part of
    /// `all-linear`.
    OutputHead,
    /// A table of embeddings, weight `[in, out]` with `in` the size of the vocabulary.
    Embedding,
    /// Anything else; no method adapts it, but it may be saved whole.
    Other,
}

/// A module of the base model, by its path in the Hugging Face model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleInfo {
    /// For example `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Its kind.
    pub kind: ModuleKind,
    /// Width of the input; the size of the vocabulary for an embedding.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// Whether it adds a bias of `out_features`.
    pub bias: bool,
}

impl ModuleInfo {
    /// A linear layer without a bias.
    pub fn linear(path: impl Into<String>, in_features: usize, out_features: usize) -> Self {
        Self { path: path.into(), kind: ModuleKind::Linear, in_features, out_features, bias: false }
    }

    /// The model's output layer, without a bias.
    pub fn output_head(path: impl Into<String>, in_features: usize, out_features: usize) -> Self {
        Self { kind: ModuleKind::OutputHead, ..Self::linear(path, in_features, out_features) }
    }

    /// A table of `vocabulary` embeddings.
    pub fn embedding(path: impl Into<String>, vocabulary: usize, width: usize) -> Self {
        Self { kind: ModuleKind::Embedding, ..Self::linear(path, vocabulary, width) }
    }

    /// Another module with a weight of `width` elements, such as a norm; 0 if it has none of its own.
    pub fn other(path: impl Into<String>, width: usize) -> Self {
        Self { kind: ModuleKind::Other, ..Self::linear(path, 1, width) }
    }

    /// The same module, with or without a bias.
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// Number of parameters: weight and bias.
    pub fn parameters(&self) -> usize {
        self.in_features * self.out_features + self.bias_parameters()
    }

    /// Number of parameters of the bias.
    pub fn bias_parameters(&self) -> usize {
        if self.bias { self.out_features } else { 0 }
    }
}

/// Whether a listed name means the module: the whole path, or its end after a dot.
pub(crate) fn names_module(name: &str, path: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

pub(crate) fn last_segment(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The likeliest name that was meant: another path if a path was given, else a last segment.
pub(crate) fn suggestion(name: &str, modules: &[ModuleInfo]) -> String {
    let candidates = modules
        .iter()
        .filter(|module| module.kind != ModuleKind::Other)
        .map(|module| if name.contains('.') { module.path.as_str() } else { last_segment(&module.path) });
    let likeliest = candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match likeliest {
        Some((_, candidate)) if candidate == name => String::new(),
        Some((likeness, candidate)) if likeness > 0.6 => format!(", did you mean `{candidate}`?"),
        _ => String::new(),
    }
}
