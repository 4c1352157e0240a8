//! Which class Transformers' `AutoTokenizer` takes.

use serde_json::{Map, Value};

use super::table::{CLASSES, Kind};

/// The class, without `Fast`, of families that have one of their own: `None` for those whose `tokenizer.json` is always taken as
/// it is.
fn registered(family: &str) -> Option<Option<&'static str>> {
    match family {
        "qwen2" | "qwen3" => Some(Some("Qwen2Tokenizer")),
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => Some(Some("GemmaTokenizer")),
        "mistral" | "phi3" | "olmo2" | "granite" => Some(None),
        _ => None,
    }
}

/// The class for the contents of `tokenizer_config.json` and `config.json`; `None` where `tokenizer.json` is taken as it is.
///
/// # Errors
/// The name of a class that is not supported.
pub(super) fn kind(
    config: &Map<String, Value>,
    model: &Map<String, Value>,
    tokenizer_json: &[u8],
) -> Result<Option<&'static Kind>, String> {
    let name = |object: &Map<String, Value>| object.get("tokenizer_class")?.as_str().map(str::to_owned);
    let declared = name(config).or_else(|| name(model));
    let declared = declared.as_deref().map(|name| name.strip_suffix("Fast").unwrap_or(name));
    let family = model.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let registered = registered(family);
    let of_code = has_code(config);
    if !of_code {
        // Llama 3's kind, which names the class of Llama 2.
        let llama = declared == Some("LlamaTokenizer") && family != "qwen2";
        if llama && std::str::from_utf8(tokenizer_json).is_ok_and(|json| json.contains("\"ByteLevel\"")) {
            return Ok(None);
        }
        match registered {
            Some(None) => return Ok(None),
            // Whatever a Qwen 2 file names.
            Some(Some(own)) if family == "qwen2" => return known(own),
            _ => {}
        }
    }
    match declared.or(registered.flatten()) {
        // Code of the repository's own is run by Transformers only where it is asked to, and never here.
        Some(name) if of_code && registered.is_none() && !is_known(name) => Err(format!("{name} (`auto_map`)")),
        Some(name) => known(name),
        None => Ok(None),
    }
}

/// Whether `auto_map` names a tokenizer's code.
fn has_code(config: &Map<String, Value>) -> bool {
    match config.get("auto_map") {
        Some(Value::Array(_)) => true,
        Some(Value::Object(map)) => map.get("AutoTokenizer").is_some_and(|code| !code.is_null()),
        _ => false,
    }
}

fn known(name: &str) -> Result<Option<&'static Kind>, String> {
    match CLASSES.iter().find(|kind| kind.name == name) {
        None if OTHERS.contains(&name) => Err(name.to_owned()),
        found => Ok(found),
    }
}

/// Whether Transformers has a class of this name.
fn is_known(name: &str) -> bool {
    OTHERS.contains(&name) || AS_IS.contains(&name) || CLASSES.iter().any(|kind| kind.name == name)
}

/// Names under which `tokenizer.json` is taken as it is, as it is under every name that Transformers does not know.
const AS_IS: &[&str] = &["PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "BloomTokenizer"];

/// Classes of Transformers 5.23 that make another tokenizer of these files than `tokenizer.json` describes.
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "AlbertTokenizer", "BartTokenizer", "BarthezTokenizer", "BartphoTokenizer", "BertGenerationTokenizer",
    "BertJapaneseTokenizer", "BertTokenizer", "BertweetTokenizer", "BigBirdTokenizer", "BioGptTokenizer",
    "BlenderbotSmallTokenizer", "BlenderbotTokenizer", "ByT5Tokenizer", "CLIPTokenizer", "CTRLTokenizer", "CamembertTokenizer",
    "CanineTokenizer", "ClvpTokenizer", "ConvBertTokenizer", "CpmAntTokenizer", "CpmTokenizer", "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer", "DiaTokenizer",
    "DistilBertTokenizer", "EsmTokenizer", "EsmcTokenizer", "FNetTokenizer", "FSMTTokenizer", "FastSpeech2ConformerTokenizer",
    "FlaubertTokenizer", "FunnelTokenizer", "GPTNeoXJapaneseTokenizer", "GPTSw3Tokenizer", "HerbertTokenizer", "LEDTokenizer",
    "LasrTokenizer", "LayoutLMv2Tokenizer", "LayoutLMv3Tokenizer", "LayoutXLMTokenizer", "LukeTokenizer", "LxmertTokenizer",
    "M2M100Tokenizer", "MBart50Tokenizer", "MBartTokenizer", "MLukeTokenizer", "MPNetTokenizer", "MarianTokenizer",
    "MarkupLMTokenizer", "MgpstrTokenizer", "MistralCommonBackend", "MobileBertTokenizer", "MvpTokenizer", "MyT5Tokenizer",
    "NllbTokenizer", "NougatTokenizer", "OpenAIGPTTokenizer", "PLBartTokenizer", "ParakeetTokenizer", "PegasusTokenizer",
    "PerceiverTokenizer", "PhobertTokenizer", "Pop2PianoTokenizer", "ProphetNetTokenizer", "RagTokenizer", "ReformerTokenizer",
    "RemBertTokenizer", "RoCBertTokenizer", "RoFormerTokenizer", "SeamlessM4TTokenizer", "SentencePieceBackend",
    "Siglip2Tokenizer", "SiglipTokenizer", "Speech2TextTokenizer", "SpeechT5Tokenizer", "SplinterTokenizer",
    "SqueezeBertTokenizer", "T5Tokenizer", "TapasTokenizer", "Tipsv2Tokenizer", "UdopTokenizer", "VideoPrismTokenizer",
    "VitsTokenizer", "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer", "WhisperTokenizer", "XGLMTokenizer",
    "XLMRobertaTokenizer", "XLMTokenizer", "XLNetTokenizer",
];
