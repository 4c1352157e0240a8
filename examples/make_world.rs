//! Writes everything the embedded model is made from, out of the seeds alone.
//!
//! ```text
//! cargo run --release --example make_world [-- runs/world]
//! ```
//!
//! Into `datasets/world`, which is committed: the tokenizer, the fine-tuning set, the questions that measure what is
//! kept of the old skills, and a sample of the text. Into the folder named on the command line (`runs/world`), which is
//! not: the text to train the model on, `corpus.jsonl` and `corpus-valid.jsonl`.

mod corpus;

use std::path::Path;

use corpus::{DOCUMENTS, write, write_corpus, write_rows};
use serde_json::{Value, json};
use small_world::{SEED, TURN_END, TURN_START, Task, World, prompt, questions};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerBuilder};

const SAMPLES: usize = 16;
const QUESTIONS: usize = 100;

const VOCABULARY: usize = 2048;
/// In the order of their ids, from 0.
const SPECIAL_TOKENS: [&str; 5] = ["<pad>", "<bos>", "<eos>", TURN_START, TURN_END];

const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn main() -> tokenizers::Result<()> {
    let corpus_dir = std::env::args().nth(1).unwrap_or_else(|| "runs/world".to_owned());
    let data_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/world");
    std::fs::create_dir_all(&data_dir)?;

    let world = World::new(SEED);
    let [corpus, valid] = write_corpus(Path::new(&corpus_dir), &world, DOCUMENTS)?;
    write(&data_dir.join("sample.txt"), &(valid[..SAMPLES].join("\n\n----\n\n") + "\n"))?;

    let task = Task::embedded(&world);
    for (name, rows) in [("task-train.jsonl", &task.train), ("task-valid.jsonl", &task.valid)] {
        let rows = rows.iter().map(|row| json!({ "prompt": row.prompt, "completion": row.completion }));
        write_rows(&data_dir.join(name), rows)?;
    }
    let kept = questions(&world, QUESTIONS, 4);
    let kept = kept.iter().map(|e| json!({ "prompt": prompt(&e.question), "completion": format!(" {}", e.answer) }));
    write_rows(&data_dir.join("world-valid.jsonl"), kept)?;

    write(&data_dir.join("tokenizer.json"), &tokenizer(&corpus)?)?;
    write(&data_dir.join("tokenizer_config.json"), &(serde_json::to_string_pretty(&tokenizer_config())? + "\n"))?;
    println!("{DOCUMENTS} documents, {} bytes of text", corpus.iter().map(String::len).sum::<usize>());
    Ok(())
}

/// The text of `tokenizer.json`: byte-level BPE, which begins every text with `<bos>`.
fn tokenizer(corpus: &[String]) -> tokenizers::Result<String> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)).to_vec())
        .build();
    let bytes = ByteLevel::new(false, true, true);
    let begin = TemplateProcessing::builder()
        .try_single("<bos> $A")?
        .try_pair("<bos> $A $B")?
        .special_tokens(vec![("<bos>", 1)])
        .build()?;
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(Some(begin))
        .with_decoder(Some(bytes))
        .build()?;
    // The markers are tokens by themselves: the merges are learned from the words between them.
    let words = corpus.iter().map(|text| text.replace(TURN_START, "").replace(TURN_END, ""));
    tokenizer.train(&mut trainer, words)?;
    Ok(tokenizer.to_string(false)? + "\n")
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "additional_special_tokens": [TURN_START, TURN_END],
        "model_max_length": 256,
        "chat_template": CHAT_TEMPLATE,
    })
}
