//! The memory of a training step beside the weights: generous bounds, so that it cannot creep back.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::FloatDType;
use llama_burn::{BaseQuantization, Format, Llama, LlamaConfig, Quantize};
use peak_alloc::PeakAlloc;
use peft_burn::{Ia3Config, LoraConfig, ModuleNames, OneOrMany, PeftConfig, PeftModel, TargetModules, VeraConfig};
use peft_burn_workspace::device;
use peft_learner::data::{Batch, EvalBatches, Example};
use peft_learner::train::batch_loss;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: f64 = 1024.0 * 1024.0;
const VOCAB: usize = 16_384;
const HIDDEN: usize = 128;

fn config(layers: usize) -> LlamaConfig {
    let json = format!(
        r#"{{"model_type": "llama", "vocab_size": {VOCAB}, "hidden_size": {HIDDEN}, "intermediate_size": 256,
        "num_hidden_layers": {layers}, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": true}}"#
    );
    LlamaConfig::from_json(&json, Path::new("config.json")).unwrap()
}

fn model(layers: usize) -> Llama {
    Llama::random(config(layers), 1, &device())
}

fn lora() -> LoraConfig {
    LoraConfig {
        r: 8,
        target_modules: TargetModules::list(["q_proj", "k_proj", "v_proj", "o_proj"]),
        ..LoraConfig::default()
    }
}

fn adapted(layers: usize, config: impl Into<PeftConfig>) -> Llama {
    let mut model = model(layers);
    model.add_adapter("default", &config.into(), 1).unwrap();
    model.train()
}

/// One row of `tokens` tokens, of which all but the first are targets.
fn batch(tokens: usize) -> Batch {
    let input_ids: Vec<u32> = (0..tokens).map(|i| (i * 7919 % VOCAB) as u32).collect();
    let labels = input_ids.iter().map(|&id| id as i32).collect();
    EvalBatches::new([Example { input_ids, labels }], 1, 0).unwrap().get(0).unwrap()
}

/// The peak of what `work` holds above what there was before, in MiB.
fn peak<T>(work: impl FnOnce() -> T) -> f64 {
    let before = MEMORY.current_usage() as f64;
    MEMORY.reset_peak_usage();
    let result = work();
    let peak = MEMORY.peak_usage() as f64;
    drop(result);
    (peak - before) / MIB
}

/// Forward, loss and backward.
fn step(model: &Llama, tokens: usize) -> f64 {
    let batch = batch(tokens);
    peak(|| GradientsParams::from_grads(batch_loss(model, &batch).backward(), model))
}

/// One test, since the allocator is one.
#[test]
fn a_step_holds_no_more_than_it_must() {
    let four = adapted(4, lora());
    // The first step also makes what is kept for good, such as the rotation's table.
    step(&four, 2048);

    // The logits of 2,048 positions alone are 128 MiB, and their gradient as much again.
    let long = step(&four, 2048);
    let logits = (2048 * VOCAB * 4) as f64 / MIB;
    assert!(long < 0.75 * logits, "{long:.1} MiB, the logits would be {logits:.1}");

    // Attention's scores would make it grow with the square: 16 times.
    let short = step(&four, 512);
    assert!(long < 5.0 * short, "{long:.1} MiB for 2048 tokens, {short:.1} for 512");

    // Nothing is kept below the lowest adapted layer.
    let top = adapted(4, LoraConfig { layers_to_transform: Some(OneOrMany::One(3)), ..lora() });
    let top = step(&top, 2048);
    assert!(top < 0.6 * long, "{top:.1} MiB with the last layer adapted, {long:.1} with all");

    // Recomputed layers keep their inputs alone.
    let mut deep = adapted(12, lora());
    let kept = step(&deep, 1024);
    deep.set_gradient_checkpointing(true);
    let recomputed = step(&deep, 1024);
    assert!(recomputed < 0.55 * kept, "{recomputed:.1} MiB recomputed, {kept:.1} kept");

    // (IA)³ keeps k before it turns, and no input of a product: v is attention's, and SwiGLU makes its own result anew.
    let target_modules = TargetModules::list(["k_proj", "v_proj", "down_proj"]);
    let feedforward_modules = Some(ModuleNames::list(["down_proj"]));
    let ia3 = step(&adapted(12, Ia3Config { target_modules, feedforward_modules, ..Ia3Config::default() }), 1024);
    assert!(ia3 < kept, "{ia3:.1} MiB with (IA)³, {kept:.1} with LoRA");

    // DoRA's magnitudes read what the following operations keep anyway.
    let ends = LoraConfig { target_modules: TargetModules::list(["v_proj", "gate_proj", "up_proj"]), ..lora() };
    let plain = step(&adapted(12, ends.clone()), 1024);
    let dora = step(&adapted(12, LoraConfig { use_dora: true, ..ends }), 1024);
    assert!(dora < 1.05 * plain, "{dora:.1} MiB with DoRA, {plain:.1} with LoRA");

    // Of a packed base nothing decoded outlives its product: the dense weights are 7 MiB.
    let quantize = Quantize::To(BaseQuantization::new(Format::Nf4));
    let mut packed = Llama::random_packed(config(12), 1, FloatDType::F32, &quantize, &device());
    assert_eq!(packed.packed_weights().len(), 12 * 7);
    packed.add_adapter("default", &lora().into(), 1).unwrap();
    let packed = step(&packed.train(), 1024);
    assert!(packed < kept + 1.0, "{packed:.1} MiB with a packed base, {kept:.1} with a dense one");

    // VeRA's update exists as a part of the product alone.
    let target_modules = TargetModules::list(["q_proj", "k_proj", "v_proj", "o_proj"]);
    let vera = step(&adapted(12, VeraConfig { r: 16, target_modules, ..VeraConfig::default() }), 1024);
    assert!(vera < kept, "{vera:.1} MiB with VeRA, {kept:.1} with LoRA");

    // VeRA's pair is one for all layers and projections.
    let r = 2048;
    let target_modules = TargetModules::list(["q_proj", "o_proj"]);
    let mut base = model(12);
    let config = PeftConfig::from(VeraConfig { r, target_modules, ..VeraConfig::default() });
    let pair = (2 * r * HIDDEN * 4) as f64 / MIB;
    let attached = peak(|| base.add_adapter("default", &config, 1).unwrap());
    assert!(attached < 2.0 * pair, "{attached:.1} MiB for 24 layers of one pair of {pair:.1}");
}
