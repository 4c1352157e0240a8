//! The pass of the server, whose rows belong to many sequences: each gets what the model gives it alone.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::TensorData;
use fused_burn::BlockRows;
use llama_burn::{Input, Step};
use peft_burn::{AdapterFiles, Pairs, Plan};
use peft_burn_workspace::{assert_close, device};
use rstest::rstest;

use super::support::Case;

#[rstest]
fn each_sequence_of_a_step_is_the_model_with_its_adapter(
    #[files("tests/fixtures/families/*/config.json")] config: PathBuf,
) {
    let case = Case::of(&config);
    let bare = case.model();
    let mut adapted = case.model();
    adapted.load_adapter(case.folder.join("lora"), "lora", false).unwrap();
    let packs = [None, Some(Arc::new(adapted.pack("lora", &Pairs::default()).unwrap()))];
    // As far as frequencies do not depend on a text's length.
    let end = case.ids[0].len().min(bare.config().fixed_context());
    let shape = bare.block_shape();
    let mut blocks: Vec<_> =
        (0..2).map(|_| (0..shape.blocks_for(end)).map(|_| shape.new_block()).collect::<Vec<_>>()).collect();
    let (mut done, mut found) = ([0; 2], [Vec::new(), Vec::new()]);
    for call in 0.. {
        let counts = [0, 1].map(|i| if call == 0 { 3 + 3 * i } else { 1 + (call + i) % 2 }.min(end - done[i]));
        let chosen: Vec<usize> = (0..2).filter(|&i| counts[i] > 0).collect();
        if chosen.is_empty() {
            break;
        }
        let (mut ids, mut sequences) = (Vec::new(), Vec::new());
        for &i in &chosen {
            let start = ids.len();
            ids.extend_from_slice(&case.ids[i][done[i]..done[i] + counts[i]]);
            sequences.push(BlockRows { rows: start..ids.len(), past: done[i], blocks: std::mem::take(&mut blocks[i]) });
        }
        let plan = Arc::new(Plan::new(chosen.iter().map(|&i| (packs[i].clone(), counts[i]))));
        let hidden = bare.serve(Step { ids, plan: Arc::clone(&plan), sequences: &mut sequences });
        let logits: Vec<f32> = bare
            .serve_logits(hidden, &plan)
            .into_iter()
            .flat_map(|(_, part)| part.into_data().iter::<f32>().collect::<Vec<_>>())
            .collect();
        let vocab = bare.config().vocab_size;
        for (&i, sequence) in chosen.iter().zip(sequences) {
            found[i].extend_from_slice(&logits[sequence.rows.start * vocab..sequence.rows.end * vocab]);
            blocks[i] = sequence.blocks;
            done[i] += counts[i];
        }
    }
    for (i, model) in [bare, adapted].iter().enumerate() {
        let alone = model.forward(&Input::from_rows(&[case.ids[i][..end].to_vec()], &device())).into_data();
        let found = TensorData::new(found[i].clone(), alone.shape().to_vec());
        assert_close(&format!("sequence {i}"), &found, &alone, 1e-5);
    }
}
