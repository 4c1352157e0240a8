//! Log-probabilities as OpenAI writes them.

use llama_burn::{TokenLogprob, Tokenizer};
use serde_json::{Map, Value, json};

/// The number that is sent for minus infinity, which JSON does not have.
const LEAST: f32 = -9999.0;

fn number(logprob: f32) -> Value {
    let logprob = if logprob.is_finite() { logprob } else { LEAST };
    json!(f64::from(logprob))
}

/// A token as text, and its bytes.
fn token(tokenizer: Option<&Tokenizer>, id: u32) -> (String, Option<Vec<u8>>) {
    let Some(tokenizer) = tokenizer else { return (format!("token_id:{id}"), None) };
    match tokenizer.token_bytes(id) {
        Some(bytes) => (String::from_utf8_lossy(&bytes).into_owned(), Some(bytes)),
        None => (String::new(), None),
    }
}

/// The `content` of a chat's logprobs.
pub(super) fn chat(tokenizer: Option<&Tokenizer>, all: &[TokenLogprob]) -> Value {
    let entry = |(id, logprob): (u32, f32)| {
        let (text, bytes) = token(tokenizer, id);
        json!({"token": text, "logprob": number(logprob), "bytes": bytes})
    };
    let content = all.iter().map(|one| {
        let mut own = entry((one.id, one.logprob));
        own["top_logprobs"] = one.top.iter().copied().map(entry).collect();
        own
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// The logprobs of a completion whose first token begins at character `offset`. Returns where the next one begins.
pub(super) fn completion(
    tokenizer: Option<&Tokenizer>,
    all: &[(u32, Option<&TokenLogprob>)],
    mut offset: usize,
) -> (Value, usize) {
    let (mut tokens, mut logprobs, mut top, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, known) in all {
        let (text, _) = token(tokenizer, *id);
        offsets.push(offset);
        offset += text.chars().count();
        tokens.push(text);
        logprobs.push(known.map_or(Value::Null, |known| number(known.logprob)));
        top.push(known.map_or(Value::Null, |known| {
            let mut best = Map::new();
            for (id, logprob) in &known.top {
                best.entry(token(tokenizer, *id).0).or_insert_with(|| number(*logprob));
            }
            Value::Object(best)
        }));
    }
    (json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}), offset)
}
