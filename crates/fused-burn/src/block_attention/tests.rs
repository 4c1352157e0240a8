#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData, Tolerance};

use super::*;
use crate::testing::normal;
use crate::{AttentionShape, Scores, causal_attention};

fn matrix(seed: u64, shape: [usize; 2]) -> Tensor<2> {
    let values = normal(seed).take(shape[0] * shape[1]).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Sequences of several lengths, whose tokens come in pieces of several sizes, side by side.
#[test]
fn pieces_of_many_sequences_attend_as_each_sequence_does_alone() {
    let capped = Scores { scale: Some(0.4), softcap: Some(1.5) };
    for (window, scores) in [(None, Scores::default()), (Some(5), Scores::default()), (Some(33), capped)] {
        pieces_attend_as_alone(window, scores);
    }
}

fn pieces_attend_as_alone(window: Option<usize>, scores: Scores) {
    let shape = BlockShape { layers: 2, heads: 6, kv_heads: 2, head_dim: 8, tokens: 4 };
    let lengths = [11, 70, 3];
    // How many tokens of each sequence come with each call.
    let calls = [[5, 66, 0], [1, 1, 2], [4, 1, 1], [1, 2, 0]];
    let qkv: Vec<[Tensor<2>; 3]> = (0..lengths.len())
        .map(|i| {
            let seed = 10 * i as u64;
            [matrix(seed, [lengths[i], 48]), matrix(seed + 1, [lengths[i], 16]), matrix(seed + 2, [lengths[i], 16])]
        })
        .collect();
    let mut blocks: Vec<Vec<Block>> =
        lengths.iter().map(|&n| (0..shape.blocks_for(n)).map(|_| shape.new_block()).collect()).collect();
    for layer in [1, 0] {
        let mut past = [0; 3];
        let mut found: Vec<Vec<Tensor<2>>> = vec![Vec::new(); 3];
        for call in calls {
            let used: Vec<usize> = (0..3).filter(|&i| call[i] > 0).collect();
            let rows = |which: usize| {
                Tensor::cat(used.iter().map(|&i| qkv[i][which].clone().narrow(0, past[i], call[i])).collect(), 0)
            };
            let mut at = 0;
            let mut sequences: Vec<BlockRows> = Vec::new();
            for &i in &used {
                let blocks = std::mem::take(&mut blocks[i]);
                sequences.push(BlockRows { rows: at..at + call[i], past: past[i], blocks });
                at += call[i];
            }
            let y = block_attention(
                rows(0),
                rows(1),
                rows(2),
                BlockLayer { number: layer, window, scores },
                &shape,
                &mut sequences,
            );
            let mut at = 0;
            for (i, sequence) in used.into_iter().zip(sequences) {
                blocks[i] = sequence.blocks;
                found[i].push(y.clone().narrow(0, at, call[i]));
                (at, past[i]) = (at + call[i], past[i] + call[i]);
            }
        }
        assert_eq!(past, lengths);
        for (found, [q, k, v]) in found.into_iter().zip(&qkv) {
            let seq = q.dims()[0];
            let alone =
                AttentionShape { batch: 1, seq, heads: 6, kv_heads: 2, head_dim: 8, starts: None, window, scores };
            let expected = causal_attention(q.clone(), k.clone(), v.clone(), alone);
            Tensor::cat(found, 0).into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(2e-6));
        }
    }
}
