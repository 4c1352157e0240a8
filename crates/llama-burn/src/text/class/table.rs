//! The tokenizer classes of Transformers 5 that are reachable for the families of this crate, each with its pipeline.

use serde_json::{Value, json};

/// Settings of a class from its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Whether text gets a space in front.
    pub prefix_space: bool,
    /// Whether every piece of text between special tokens gets that space, and not the first one alone (Llama's).
    pub legacy: bool,
    /// Whether a token's place in the text leaves out the space before it (RoBERTa's).
    pub trim_offsets: bool,
}

/// How text is taken apart and put together again, as `tokenizer.json` writes it.
pub(super) struct Pipeline {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
}

/// The special tokens round a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Those of `tokenizer.json`'s post-processor.
    OfFile,
    /// None, whatever the file says.
    Nothing,
    /// `bos_token` in front.
    Bos,
    /// `cls_token` in front and `sep_token` behind.
    Roberta,
}

/// Special tokens that lose their flags (`lstrip`, `rstrip`, ...) in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::text) enum PlainFlags {
    /// None.
    #[default]
    No,
    /// All of them.
    All,
    /// Those that `extra_special_tokens` lists by their text.
    Extra,
}

/// A class.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its name without `Fast`.
    pub name: &'static str,
    /// Its special tokens, where no file names them.
    pub tokens: &'static [(&'static str, &'static str)],
    /// `add_prefix_space`, where the configuration does not say.
    pub prefix_space: bool,
    /// Whether characters outside of the vocabulary become bytes (SentencePiece's manner).
    pub fallback: bool,
    /// Whether what is no token at all becomes `unk_token`.
    pub unknown: bool,
    pub pipeline: fn(&Settings) -> Pipeline,
    pub frame: Frame,
    pub plain_flags: PlainFlags,
    /// The key of a token that makes the class treat a text otherwise.
    pub refused: Option<&'static str>,
}

/// A class of bytes in GPT-2's manner.
const BYTES: Kind = Kind {
    name: "GPT2Tokenizer",
    tokens: &[("unk_token", END), ("bos_token", END), ("eos_token", END)],
    prefix_space: false,
    fallback: false,
    unknown: false,
    pipeline: gpt2,
    frame: Frame::OfFile,
    plain_flags: PlainFlags::No,
    refused: None,
};

const END: &str = "<|endoftext|>";
const LLAMA_TOKENS: &[(&str, &str)] = &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")];
const QWEN_TOKENS: &[(&str, &str)] = &[("unk_token", END), ("eos_token", END), ("pad_token", END)];

/// All of them.
pub(super) const CLASSES: &[Kind] = &[
    Kind { name: "LlamaTokenizer", tokens: LLAMA_TOKENS, prefix_space: true, fallback: true, pipeline: llama, ..BYTES },
    Kind {
        name: "CodeLlamaTokenizer",
        tokens: &[
            ("unk_token", "<unk>"),
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("prefix_token", "▁<PRE>"),
            ("middle_token", "▁<MID>"),
            ("suffix_token", "▁<SUF>"),
            ("eot_token", "▁<EOT>"),
            ("fill_token", "<FILL_ME>"),
        ],
        prefix_space: true,
        fallback: true,
        unknown: true,
        pipeline: code_llama,
        frame: Frame::Bos,
        // A text with it is one to fill in, whose parts come in another order.
        refused: Some("fill_token"),
        ..BYTES
    },
    Kind {
        name: "GemmaTokenizer",
        tokens: &[
            ("unk_token", "<unk>"),
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        fallback: true,
        unknown: true,
        pipeline: gemma,
        ..BYTES
    },
    Kind {
        name: "Qwen2Tokenizer",
        tokens: QWEN_TOKENS,
        pipeline: |settings| qwen(QWEN2, settings),
        plain_flags: PlainFlags::All,
        ..BYTES
    },
    Kind { name: "Qwen3_5Tokenizer", tokens: QWEN_TOKENS, pipeline: |settings| qwen(QWEN3_5, settings), ..BYTES },
    BYTES,
    // Its post-processor only trims places.
    Kind { name: "CodeGenTokenizer", frame: Frame::OfFile, ..BYTES },
    Kind {
        name: "GPTNeoXTokenizer",
        tokens: &[("unk_token", END), ("bos_token", END), ("eos_token", END), ("pad_token", "<|padding|>")],
        pipeline: |settings| Pipeline { normalizer: nfc(), ..gpt2(settings) },
        frame: Frame::Nothing,
        ..BYTES
    },
    Kind {
        name: "CohereTokenizer",
        tokens: &[
            ("unk_token", "<UNK>"),
            ("bos_token", "<BOS_TOKEN>"),
            ("eos_token", "<|END_OF_TURN_TOKEN|>"),
            ("pad_token", "<PAD>"),
            ("cls_token", "<CLS>"),
            ("sep_token", "<SEP>"),
            ("mask_token", "<MASK_TOKEN>"),
        ],
        pipeline: cohere,
        plain_flags: PlainFlags::Extra,
        ..BYTES
    },
    Kind {
        name: "RobertaTokenizer",
        tokens: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        frame: Frame::Roberta,
        ..BYTES
    },
];

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn nfc() -> Value {
    json!({ "type": "NFC" })
}

/// Bytes written as characters, split by GPT-2's expression where `regex`.
fn bytes(prefix_space: bool, regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": regex })
}

fn gpt2(settings: &Settings) -> Pipeline {
    Pipeline { normalizer: Value::Null, pre_tokenizer: bytes(settings.prefix_space, true), decoder: bytes(true, true) }
}

fn qwen(expression: &str, settings: &Settings) -> Pipeline {
    let split = json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false });
    let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [split, bytes(settings.prefix_space, false)] });
    Pipeline { normalizer: nfc(), pre_tokenizer, decoder: bytes(true, true) }
}

fn cohere(settings: &Settings) -> Pipeline {
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [digits, bytes(settings.prefix_space, true)] });
    Pipeline { normalizer: nfc(), pre_tokenizer, decoder: bytes(settings.prefix_space, true) }
}

/// Spaces written as `▁`, and bytes as their numbers; the first space goes where `strip`.
fn pieces(strip: bool) -> Value {
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if strip {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": decoders })
}

fn metaspace(scheme: &str) -> Value {
    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false })
}

fn llama(settings: &Settings) -> Pipeline {
    let scheme = match (settings.prefix_space, settings.legacy) {
        (true, true) => "always",
        (true, false) => "first",
        (false, _) => "never",
    };
    Pipeline { normalizer: Value::Null, pre_tokenizer: metaspace(scheme), decoder: pieces(settings.prefix_space) }
}

fn code_llama(settings: &Settings) -> Pipeline {
    let scheme = if settings.prefix_space { "first" } else { "never" };
    Pipeline { normalizer: Value::Null, pre_tokenizer: metaspace(scheme), decoder: pieces(true) }
}

fn gemma(_: &Settings) -> Pipeline {
    let space = json!({ "String": " " });
    Pipeline {
        normalizer: json!({ "type": "Replace", "pattern": space, "content": "▁" }),
        pre_tokenizer: json!({ "type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": false }),
        decoder: pieces(false),
    }
}
