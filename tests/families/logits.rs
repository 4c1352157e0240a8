//! Logits and generated text.

use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::{FloatDType, Tensor, TensorData};
use llama_burn::{CausalModel, Generate, GenerateOptions, Input, Llama};
use peft_burn_workspace::{assert_close, device};
use rstest::rstest;

use super::support::Case;

/// `[batch, seq, vocab]` without the columns that are padding.
fn visible(data: &TensorData, hidden: &[Vec<bool>]) -> TensorData {
    let vocab = *data.shape().last().unwrap();
    let values: Vec<f32> = data.iter::<f32>().collect();
    let rows = values.chunks(vocab).zip(hidden.iter().flatten()).filter(|(_, hidden)| !**hidden);
    let kept: Vec<f32> = rows.flat_map(|(row, _)| row.to_vec()).collect();
    let len = kept.len();
    TensorData::new(kept, [len])
}

#[rstest]
fn are_those_of_transformers(#[files("tests/fixtures/families/*/config.json")] config: PathBuf) {
    let case = Case::of(&config);
    let model = case.model();
    assert_close("embeddings", &model.hidden_states(&case.input())[0].to_data(), &case.expected["embedded"], 1e-6);
    assert_close("logits", &model.forward(&case.input()).into_data(), &case.expected["logits"], 1e-5);
    let short = Input::from_rows(&case.first(6), &device());
    assert_close("of a short text", &model.forward(&short).into_data(), &case.expected["logits_short"], 1e-5);
    let found = visible(&model.forward(&case.masked()).into_data(), &case.hidden);
    assert_close("masked logits", &found, &visible(&case.expected["logits_masked"], &case.hidden), 1e-5);
}

/// In bf16 a scale of the embeddings is rounded as Transformers rounds it; what follows is as near to f32 as there.
#[rstest]
fn are_near_in_bf16(#[files("tests/fixtures/families/*/config.json")] config: PathBuf) {
    let case = Case::of(&config);
    if !device().supports_dtype(burn::tensor::DType::BF16) {
        return;
    }
    let model = Llama::from_dir(&case.folder, Some(FloatDType::BF16), &device()).unwrap();
    let embedded = model.hidden_states(&case.input())[0].clone().cast(FloatDType::F32).into_data();
    assert_close("embeddings", &embedded, &case.expected["embedded_bf16"], 0.0);
    let logits = model.forward(&case.input()).cast(FloatDType::F32).into_data();
    // In the mean: the largest error of a few hundred logits is a matter of luck.
    let off = |logits: &TensorData| {
        let pairs = logits.iter::<f64>().zip(case.expected["logits"].iter::<f64>());
        let (errors, squares) = pairs.fold((0.0, 0.0), |(e, s), (a, b)| (e + (a - b).powi(2), s + b * b));
        (errors / squares).sqrt()
    };
    let (ours, theirs) = (off(&logits), off(&case.expected["logits_bf16"]));
    assert!(ours <= 1.5 * theirs + 0.005, "{ours} from f32, Transformers {theirs}");
}

/// Token by token, and in pieces, with a cache: the same as at once, far beyond the window.
#[rstest]
fn of_a_cache_are_those_of_the_whole_text(
    #[files("tests/fixtures/families/*/config.json")] config: PathBuf,
    #[values(&[1; 13], &[7, 1, 1, 4], &[2, 9, 1, 1])] pieces: &[usize],
) {
    let case = Case::of(&config);
    let model = case.model();
    // Dynamic frequencies are those of the text so far, in Transformers too: keys of earlier tokens stay as they are.
    if case.folder.ends_with("qwen2_dynamic") {
        return;
    }
    let whole = case.input();
    let mut cache = model.new_cache();
    let mut start = 0;
    for &piece in pieces {
        let rows: Vec<Vec<u32>> = case.ids.iter().map(|row| row[start..start + piece].to_vec()).collect();
        let found = model.logits(model.hidden(&Input::from_rows(&rows, &device()), Some(&mut cache)));
        start += piece;
        // A text whose frequencies depend on its length is compared with the text so far.
        let so_far = if case.folder.ends_with("phi3_longrope") {
            Input::from_rows(&case.first(start), &device())
        } else {
            whole.clone()
        };
        let expected: Tensor<3> = model.forward(&so_far).narrow(1, start - piece, piece);
        let [batch, seq, vocab] = expected.dims();
        let expected = expected.reshape([batch * seq, vocab]).into_data();
        assert_close(&format!("columns up to {start}"), &found.into_data(), &expected, 1e-5);
    }
    assert_eq!(cache.len(), 13);
}

/// Prompts of different lengths in one batch, far beyond the window.
#[rstest]
fn greedy_text_is_that_of_transformers(#[files("tests/fixtures/families/*/config.json")] config: PathBuf) {
    let case = Case::of(&config);
    let Some(expected) = case.expected.get("generated") else { return };
    let rows = case.ids.iter().zip(&case.hidden);
    let prompts: Vec<Vec<u32>> =
        rows.map(|(ids, hidden)| ids.iter().zip(hidden).filter(|(_, h)| !**h).map(|(id, _)| *id).collect()).collect();
    assert_ne!(prompts[0].len(), prompts[1].len());
    let options = GenerateOptions { max_new_tokens: 12, ..GenerateOptions::default() };
    let made = case.model().generate(&prompts, &options, |_, _| ControlFlow::Continue(())).unwrap();
    let expected: Vec<i64> = expected.iter::<i64>().collect();
    assert_eq!(made.concat().into_iter().map(i64::from).collect::<Vec<_>>(), expected);
}
