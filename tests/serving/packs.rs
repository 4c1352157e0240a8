//! A pass whose rows belong to many adapters and sequences gives each what the model gives it alone.

use std::sync::Arc;

use fused_burn::BlockRows;
use llama_burn::{Input, Llama, Step};
use peft_burn::{AdapterFiles, AdapterPack, BASE, Pairs, PeftModel, Plan};
use peft_burn_workspace::{Inputs, assert_close, base, device, golden};
use rstest::rstest;

/// The base with each adapter attached, and each as a pack.
fn with(which: &str, names: &[&str], pairs: &Pairs) -> (Llama, Vec<Option<Arc<AdapterPack>>>) {
    let mut model = base(which);
    let packs = names.iter().map(|name| {
        if *name == BASE {
            return None;
        }
        if !model.adapter_names().iter().any(|known| known == name) {
            model.load_adapter(golden(name).join("adapter"), name, false).unwrap();
        }
        Some(Arc::new(model.pack(name, pairs).unwrap()))
    });
    let packs = packs.collect();
    (model, packs)
}

#[rstest]
#[case("base", &["dora", BASE, "lora", "x_lora_mts", "ia3", "vera", "vera", "adalora", BASE, "x_lora_emb", "x_vera_noproj"])]
#[case("base", &["x_init_pissa", BASE, "x_dora_emb", "x_init_olora", "x_ia3_all", "x_lora_emb", "x_lora_pattern"])]
#[case("base_bias", &["x_lora_biasall", BASE, "x_ia3_bias", "x_lora_biasonly", "x_dora_bias", "x_lora_lorabias"])]
fn each_sequence_of_a_step_is_the_model_with_its_adapter(#[case] which: &str, #[case] names: &[&str]) {
    let pairs = Pairs::default();
    let (mut model, packs) = with(which, names, &pairs);
    let bare = base(which);
    let text = Inputs::load().ids[0].clone();
    let rows: Vec<Vec<u32>> = (0..names.len()).map(|i| text.iter().map(|id| (id + i as u32) % 64).collect()).collect();
    // Pieces of different lengths; then token by token.
    let shape = bare.block_shape();
    let mut caches: Vec<_> =
        rows.iter().map(|row| (0..shape.blocks_for(row.len())).map(|_| shape.new_block()).collect()).collect();
    let mut done = vec![0; rows.len()];
    let mut found: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
    let seq = rows[0].len();
    for call in 0.. {
        let take =
            |i: usize, done: usize| if call < 2 { (2 + (i + call) % 3).min(seq - done) } else { 1.min(seq - done) };
        let chosen: Vec<(usize, usize)> =
            (0..rows.len()).map(|i| (i, take(i, done[i]))).filter(|(_, n)| *n > 0).collect();
        if chosen.is_empty() {
            break;
        }
        let mut ids = Vec::new();
        let mut sequences: Vec<BlockRows> = Vec::new();
        for &(i, n) in &chosen {
            let start = ids.len();
            ids.extend_from_slice(&rows[i][done[i]..done[i] + n]);
            sequences.push(BlockRows { rows: start..ids.len(), past: done[i], blocks: std::mem::take(&mut caches[i]) });
        }
        let plan = Arc::new(Plan::new(chosen.iter().map(|&(i, n)| (packs[i].clone(), n))));
        let hidden = bare.serve(Step { ids, plan: Arc::clone(&plan), sequences: &mut sequences });
        let logits: Vec<Vec<f32>> = bare
            .serve_logits(hidden, &plan)
            .into_iter()
            .flat_map(|(_, part)| {
                let width = part.dims()[1];
                part.into_data()
                    .iter::<f32>()
                    .collect::<Vec<_>>()
                    .chunks(width)
                    .map(<[f32]>::to_vec)
                    .collect::<Vec<_>>()
            })
            .collect();
        for (&(i, n), sequence) in chosen.iter().zip(sequences) {
            caches[i] = sequence.blocks;
            found[i].extend(logits[sequence.rows].concat());
            done[i] += n;
        }
    }
    for (i, name) in names.iter().enumerate() {
        model.set_adapter(if *name == BASE { &[] } else { std::slice::from_ref(name) }).unwrap();
        let alone = model.forward(&Input::from_rows(&rows[i..=i], &device())).into_data();
        let found = burn::tensor::TensorData::new(found[i].clone(), alone.shape().to_vec());
        assert_close(name, &found, &alone, 1e-5);
    }
    // Adapters with equal pairs have one between them.
    let named = names.iter().zip(&packs).filter(|(name, _)| **name == "vera");
    let kin: std::collections::BTreeSet<usize> = named.filter_map(|(_, pack)| Some(pack.as_ref()?.kin())).collect();
    assert!(kin.len() <= 1 && !kin.contains(&0), "{kin:?}");
}

#[test]
fn pruned_triplets_are_not_kept() {
    let pairs = Pairs::default();
    let (_, packs) = with("base", &["adalora", "lora", "ia3", "vera"], &pairs);
    let bytes: Vec<usize> = packs.iter().flatten().map(|pack| pack.num_bytes()).collect();
    assert!(bytes.iter().all(|bytes| *bytes > 0) && bytes[2] < bytes[1] && bytes[3] < bytes[1], "{bytes:?}");
    assert!(pairs.num_bytes() > 0);
    drop(packs);
    assert_eq!(pairs.num_bytes(), 0);
}
