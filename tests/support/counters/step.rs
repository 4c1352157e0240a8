//! One training step of models of two depths, counted.

use std::collections::BTreeMap;

use burn::optim::ModuleOptimizer;
use burn::tensor::{Device, FloatDType};
use burn::train::{Interrupter, TrainStep};
use llama_burn::{Llama, LlamaConfig};
use peft_burn::PeftModel;
use peft_learner::config::TrainingConfig;
use peft_learner::data::{Batch, Example};
use peft_learner::train::{CausalLm, StepOptions, batch_loss, optimizer};

use super::figures::Figures;
use super::launches::Launches;
use super::method::{Method, adapter};
use super::reads::Reads;
use super::traffic::Traffic;
use crate::golden;

/// Steps before the counted one: the first compile and tune, and Burn's fusion settles on its blocks.
const WARMUP: usize = 3;

/// The counts of a step.
#[derive(Clone, Debug)]
pub struct Case {
    /// The model's sizes.
    pub config: LlamaConfig,
    pub method: Method,
    /// The adapter's rank.
    pub rank: usize,
    /// The base's dtype.
    pub dtype: FloatDType,
    /// Rows of a batch, and tokens of a row.
    pub batch: [usize; 2],
    /// The depths of which figures of a layer are the difference.
    pub depths: [usize; 2],
}

/// A model that any device runs, which is said to have 16 layers: what is counted of a step is of that many.
pub fn small_config() -> LlamaConfig {
    let config = LlamaConfig::from_dir(golden("base")).unwrap();
    // A vocabulary that no other side of a tensor is as long as.
    LlamaConfig { num_hidden_layers: 16, vocab_size: 500, ..config }
}

/// The counts of one depth.
#[derive(Clone, Debug, Default)]
struct Counts {
    forward: usize,
    backward: usize,
    optimizer: usize,
    kept: u64,
    casts: u64,
    logits: u64,
    peak: u64,
    reads: usize,
    by_name: BTreeMap<String, usize>,
}

/// The figures of `case` on `device`, and the launches of its deeper model's step by the kernel's name.
pub fn count(case: &Case, device: &Device) -> (Figures, BTreeMap<String, usize>) {
    let [few, more] = case.depths.map(|depth| count_depth(case, depth, device));
    let layers = case.depths[1] - case.depths[0];
    let of_layer = |f: fn(&Counts) -> u64| (f(&more) as f64 - f(&few) as f64) / layers as f64;
    let forward = of_layer(|c| c.forward as u64);
    let backward = of_layer(|c| c.backward as u64);
    // The optimiser's part is outside of the layers and grows with them: it is counted for the whole model.
    let all = of_layer(|c| (c.forward + c.backward + c.optimizer) as u64);
    let total = (few.forward + few.backward + few.optimizer) as f64;
    let whole = case.config.num_hidden_layers as f64;
    let outside = total + all * (whole - case.depths[0] as f64) - (forward + backward) * whole;
    let tokens = case.batch[0] * case.batch[1];
    let logits = case.batch[0] * (case.batch[1] - 1) * case.config.vocab_size;
    let casts = few.casts as f64 + of_layer(|c| c.casts) * (whole - case.depths[0] as f64);
    let figures = Figures {
        method: case.method.name(),
        shape: format!("{}x{}", case.batch[0], case.batch[1]),
        dtype: format!("{:?}", case.dtype).to_lowercase(),
        launches_forward_per_layer: forward,
        launches_backward_per_layer: backward,
        launches_outside: outside,
        kept_bytes_per_token_layer: of_layer(|c| c.kept) / tokens as f64,
        cast_bytes: casts,
        bytes_per_logit: few.logits as f64 / logits as f64,
        peak_bytes: more.peak,
        device_reads: more.reads,
    };
    (figures, more.by_name)
}

fn count_depth(case: &Case, depth: usize, device: &Device) -> Counts {
    let config = LlamaConfig { num_hidden_layers: depth, ..case.config.clone() };
    let vocab = config.vocab_size;
    let mut model = Llama::random_on_device(config, 0, case.dtype, device);
    model.add_adapter("default", &adapter(case.method, case.rank), 1).unwrap();
    let options = StepOptions::new(100 * (WARMUP + 1));
    let mut lm = CausalLm::new(model, "default", &options, Interrupter::new()).unwrap();
    let mut optimizer = optimizer(&TrainingConfig::default());
    for _ in 0..WARMUP {
        forward(&lm, case, vocab, device);
        both(&lm, batch(case, vocab, 1), device);
        lm = step(lm, &mut optimizer, batch(case, vocab, 0), device);
    }
    device.memory_cleanup();
    let (kept, launches_forward) = Launches::of(|| forward(&lm, case, vocab, device));
    let sizes = [vocab, case.config.hidden_size];
    // A step has two micro-batches: the first one brings AdaLoRA's regulariser, which is outside the layers, so that the
    // layers are counted in the second.
    let ((_, bytes), launches) = Launches::of(|| Traffic::of(sizes, || both(&lm, batch(case, vocab, 1), device)));
    let reads = Reads::so_far();
    let (next, whole) = Launches::of(|| step(lm, &mut optimizer, batch(case, vocab, 0), device));
    drop(next);
    let total = |named: &BTreeMap<String, usize>| named.values().sum::<usize>();
    let (forward, both) = (total(&launches_forward), total(&launches));
    Counts {
        forward,
        backward: both.saturating_sub(forward),
        optimizer: total(&whole).saturating_sub(both),
        kept,
        casts: bytes.casts,
        logits: bytes.logits,
        peak: peak(device),
        reads: Reads::so_far() - reads,
        by_name: whole,
    }
}

/// A batch whose every token but a row's last has a target, as micro-batch `micro` of its step.
fn batch(case: &Case, vocab: usize, micro: usize) -> Batch {
    let [rows, seq] = case.batch;
    let id = |i: usize| ((i * 7919 + 13) % vocab) as u32;
    let examples: Vec<_> = (0..rows)
        .map(|row| {
            let input_ids: Vec<u32> = (0..seq).map(|t| id(row * seq + t)).collect();
            Example { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
        })
        .collect();
    let batch = Batch::collate(&examples.iter().collect::<Vec<_>>(), 0);
    Batch { micro, step_targets: 2 * batch.num_targets(), ..batch }
}

fn wait(device: &Device) {
    device.sync().unwrap();
}

/// The forward pass and the loss; how many bytes are in use while the loss is there, which backward would read.
fn forward(lm: &CausalLm<Llama>, case: &Case, vocab: usize, device: &Device) -> u64 {
    let in_use = || {
        wait(device);
        device.memory_pool_usage().map_or(0, |usage| usage.bytes_in_use)
    };
    let before = in_use();
    let loss = batch_loss(&lm.model, &batch(case, vocab, 1));
    let after = in_use();
    drop(loss);
    wait(device);
    after.saturating_sub(before)
}

fn both(lm: &CausalLm<Llama>, batch: Batch, device: &Device) {
    let output = lm.step(batch);
    wait(device);
    drop(output);
    wait(device);
}

/// A whole step: forward, backward, clipping, AdamW, AdaLoRA's part, and the read.
fn step(lm: CausalLm<Llama>, optimizer: &mut ModuleOptimizer, batch: Batch, device: &Device) -> CausalLm<Llama> {
    let output = lm.step(batch);
    let next = lm.optimize(optimizer, 1e-4.into(), output.grads);
    wait(device);
    if let Some(error) = next.error() {
        // A dry run computes nothing, so that its loss may be anything.
        assert!(burn::cubecl::dry_run::dry_run(), "{error}");
    }
    next
}

/// The most bytes of the pool's pages that were ever held.
fn peak(device: &Device) -> u64 {
    device.memory_pool_report().unwrap_or_default().iter().map(|pool| pool.page_size * pool.pages_peak).sum()
}
