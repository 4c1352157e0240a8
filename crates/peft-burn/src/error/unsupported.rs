//! The causes of [`PeftError::Unsupported`](super::PeftError::Unsupported).

use super::not_combined::NotCombined;

/// Something that this crate does not do, with the way out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A name that folders and tensors cannot have.
    #[error("the adapter name `{name}`: use letters, digits, - and _, it names a folder and tensors")]
    AdapterName {
        /// The name.
        name: String,
    },
    /// Adapters that each bring a weight, or a bias, of their own for one layer.
    #[error("{} together: each has a {what} of its own for {path}; activate one of them at a time", adapters.join(" and "))]
    TwoOwners {
        /// The adapters.
        adapters: Vec<String>,
        /// `weight` or `bias`.
        what: &'static str,
        /// The layer.
        path: String,
    },
    /// An adapter with a vocabulary of its own beside adapters that were made for the base's.
    #[error(
        "{owner} and {} together: {owner} has {rows} rows for {path}, and the others were made for {expected}; activate one \
         of them at a time",
        others.join(" and ")
    )]
    OtherVocabulary {
        /// The adapter that brings the vocabulary.
        owner: String,
        /// The others.
        others: Vec<String>,
        /// The embedding or the head.
        path: String,
        /// Rows of the vocabulary that it brings.
        rows: usize,
        /// Rows of the base's.
        expected: usize,
    },
    /// A mixed batch over several vocabularies.
    #[error(
        "a mixed batch: {path} has another number of rows by adapter ({}); use those of one vocabulary together",
        rows.iter().map(|(rows, name)| format!("{rows} for `{name}`")).collect::<Vec<_>>().join(", ")
    )]
    MixedVocabularies {
        /// The embedding or the head.
        path: String,
        /// The numbers of rows, each with an adapter that has it.
        rows: Vec<(usize, String)>,
    },
    /// A mixed batch without texts.
    #[error("a mixed batch: name an adapter, or `{base}`, for each text")]
    MixedNoNames {
        /// The name that stands for the base alone.
        base: &'static str,
    },
    /// A mixed batch on merged adapters.
    #[error("a mixed batch: {} merged: unmerge first", adapters.join(", "))]
    MixedMerged {
        /// The merged adapters.
        adapters: Vec<String>,
    },
    /// A mixed batch while the adapters are switched off.
    #[error("a mixed batch: the adapters are disabled: enable them first")]
    MixedDisabled,
    /// A mixed batch with adapters that change parts which all texts share.
    #[error(
        "a mixed batch: {} with trainable_token_indices or trained norms: use it in batches of its own",
        adapters.join(", ")
    )]
    MixedOwnRows {
        /// The adapters.
        adapters: Vec<String>,
    },
    /// An initialisation that would change a packed weight.
    #[error(
        "init_lora_weights = {init} on a quantised base: it moves a part of the weight into the adapter, and packed weights stay \
         as they are; load the base dense (quantization none), or choose another initialisation"
    )]
    PackedInitialisation {
        /// PEFT's name of the initialisation.
        init: String,
    },
    /// Training of weights that are packed.
    #[error(
        "the weights of {} are quantised, and codes cannot be trained: load the base dense (quantization none), or train an adapter",
        first(modules)
    )]
    PackedTraining {
        /// The modules.
        modules: Vec<String>,
    },
    /// A merge into weights without room for an update: it would be lost in the rounding.
    #[error("merging into quantised weights ({}): dequantise the base first, or keep the adapter apart", modules.join(", "))]
    QuantisedMerge {
        /// The modules.
        modules: Vec<String>,
    },
    /// A merge while the adapters are switched off.
    #[error("a merge of disabled adapters: enable them first")]
    DisabledMerge,
    /// A merge on top of another.
    #[error("{} merged already: unmerge first", adapters.join(", "))]
    AlreadyMerged {
        /// The merged adapters.
        adapters: Vec<String>,
    },
    /// A merge of a head's adapter into an embedding of which rows are trained.
    #[error(
        "merging an adapter of the head while the tied embedding has trained rows: call `untie` first, or merge for good"
    )]
    TiedRows,
    /// `modules_to_save` of modules without a weight that can be copied.
    #[error("modules_to_save of {}: only linear layers, embeddings and norms; take these out", modules.join(", "))]
    ModulesToSave {
        /// The modules.
        modules: Vec<String>,
    },
    /// A module that is to be adapted, and trained whole too.
    #[error("{module} is in target_modules and in modules_to_save; take it out of one of them")]
    AdaptedAndSaved {
        /// The module.
        module: String,
    },
    /// Targets of a kind that the method does not adapt.
    #[error("{peft_type} adapts {adapts}; take these out of the targets: {}", modules.join(", "))]
    ModuleKinds {
        /// The method.
        peft_type: &'static str,
        /// The kinds that it adapts, in words.
        adapts: &'static str,
        /// The modules of other kinds.
        modules: Vec<String>,
    },
    /// A factor of adapters' scales that is not finite.
    #[error("an adapter scale times {0}")]
    Scale(f64),
    /// Rescaling where no adapter has a scale.
    #[error("rescaling: no LoRA, DoRA or AdaLoRA adapter is attached")]
    NothingToRescale,
    /// A part of AdaLoRA's training for an adapter of another method.
    #[error("`{adapter}` is {peft_type}, not ADALORA")]
    NotAdaLora {
        /// The adapter.
        adapter: String,
        /// Its method.
        peft_type: &'static str,
    },
    /// AdaLoRA's allocation for an adapter that is not trained.
    #[error("update_and_allocate of `{adapter}`, which is frozen: activate it and set_trainable(true)")]
    FrozenAllocation {
        /// The adapter.
        adapter: String,
    },
    /// AdaLoRA's allocation without gradients.
    #[error("update_and_allocate without the gradients of {path}: pass those that the optimiser step used")]
    NoGradients {
        /// The layer.
        path: String,
    },
    /// A pattern of triplets that is of another adapter.
    #[error("triplets of {path}: the pattern belongs to another adapter")]
    ForeignPattern {
        /// The layer.
        path: String,
    },
    /// An optimiser's state of which no rows can be taken out.
    #[error("cutting the optimiser's state: {0}")]
    OptimizerState(String),
    /// An initialisation that is not known.
    #[error("init_lora_weights = \"{0}\"")]
    Initialisation(String),
    /// The orthogonal initialisation at an odd rank.
    #[error("init_lora_weights = \"orthogonal\" needs an even rank, and r is {r}")]
    OddRank {
        /// The rank.
        r: usize,
    },
    /// An initialisation from more directions than a weight has.
    #[error(
        "init_lora_weights = \"{init}\" takes r of W's directions, and a weight has only {limit}: lower r from {r}"
    )]
    TooFewDirections {
        /// The initialisation.
        init: String,
        /// The rank.
        r: usize,
        /// Directions of the weight.
        limit: usize,
    },
    /// VeRA without its pair of projections.
    #[error("VeRA on {path}: there is no projection")]
    NoProjection {
        /// The layer.
        path: String,
    },
    /// Saving an adapter whose files would leave out a part that was drawn at random.
    #[error(
        "saving `{adapter}` as {init}: what it took out of the base was drawn at random, and whoever loads the file would draw \
         something else; save it as plain LoRA (save_adapter_as_lora)"
    )]
    RandomResidual {
        /// The adapter.
        adapter: String,
        /// Its initialisation, as the file would have it.
        init: String,
    },
    /// Serving an adapter with trained norms.
    #[error(
        "serving trained norms (modules_to_save: {}); merge the adapter and serve the merged model as a base",
        modules.join(", ")
    )]
    ServedNorms {
        /// The norms.
        modules: Vec<String>,
    },
    /// Serving an adapter that brings a vocabulary of its own for embedding and head.
    #[error(
        "serving `{adapter}`, which has a vocabulary of its own for embedding and head: merge it, and serve that model"
    )]
    ServedVocabulary {
        /// The adapter.
        adapter: String,
    },
    /// Embedding and head trained as one by an update that is not the same for rows and columns.
    #[error(
        "ensure_weight_tying with {key} = {value} on {embedding} and {head}: set it to {off}, or take the two out of target_modules"
    )]
    TiedUpdate {
        /// `use_dora` or `lora_dropout`.
        key: &'static str,
        /// Its value.
        value: String,
        /// The value that switches it off.
        off: &'static str,
        /// The embedding.
        embedding: String,
        /// The head.
        head: String,
    },
    /// A second adapter on parameters of a model that knows nothing of adapters.
    #[error(
        "a second adapter on parameters that have one: Burn keeps one for each; fold it in with `materialize`, or attach the \
         second to the model from before the first"
    )]
    SecondParamAdapter,
    /// A model that does not have the adapter's parameters.
    #[error("reading this adapter out of a model that it is not on; not found: {}", missing.join(", "))]
    NotOnModel {
        /// The parameters.
        missing: Vec<String>,
    },
    /// A conversion or an extraction of rank 0.
    #[error("{operation} of rank 0: a rank is 1 or more")]
    ZeroRank {
        /// `conversion` or `extraction`.
        operation: &'static str,
    },
    /// An extraction from equal models.
    #[error("extraction: the two models have the same weights")]
    SameWeights,
    /// A conversion of an adapter that changes biases, to LoRA, which has them for all layers or for none.
    #[error(
        "`{adapter}` changes biases, which LoRA can take over only where every layer has one; without: {}",
        modules.join(", ")
    )]
    UnbiasedLayers {
        /// The adapter.
        adapter: String,
        /// Layers without a bias.
        modules: Vec<String>,
    },
    /// An exact conversion of a change that is not of low rank.
    #[error("an exact conversion of {path}, whose adapter changes the whole weight: choose a rank")]
    NoExactConversion {
        /// The layer.
        path: String,
    },
    /// Adapters that cannot be combined.
    #[error("combining adapters: {0}")]
    Combining(#[from] NotCombined),
}

/// Names for a message: the first of many.
fn first(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
