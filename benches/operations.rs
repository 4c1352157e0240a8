//! The operations of a step, forward and backward, in the sizes of SmolLM2-135M with 4 x 128 tokens.
//!
//! ```text
//! cargo bench --bench operations [-- FILTER]
//! ```
//!
//! The items per second are multiply-adds: twice as many floating-point operations. What a projection needs is counted
//! without its adapter, so that the rates of the methods compare their cost.
#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::tensor::{Device, Distribution, Int, Tensor};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fused_burn::{AttentionShape, Scores, causal_attention, cross_entropy, rms_norm, rope, scaled_swiglu, swiglu};
use peft_burn::{
    AdaLoraConfig, Ia3Config, LoraConfig, PeftConfig, PeftLinear, PeftModel, PeftState, TargetModules, VeraConfig,
    layers,
};

const TOKENS: usize = 512;
const WIDTH: usize = 576;
const INNER: usize = 1536;
const VOCAB: usize = 49_152;

fn main() {
    divan::main();
}

/// A tensor that backward is to reach.
fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex().autodiff()).require_grad()
}

/// `f` and its backward, with the gradient of the first input read out: a value that nobody reads may not be computed.
fn both<const D: usize, const E: usize>(
    bencher: Bencher<'_, '_>,
    x: Tensor<D>,
    f: impl Fn(Tensor<D>) -> Tensor<E> + Sync,
) {
    bencher.bench_local(|| {
        let grads = f(x.clone()).sum().backward();
        black_box(x.grad(&grads).map(Tensor::into_data))
    });
}

#[derive(Module, Debug)]
struct Net {
    up: PeftLinear,
    #[module(skip)]
    adapters: PeftState,
}

layers!(Net { up }, adapters);

/// A method by its name; `base` is the layer alone.
#[divan::bench(args = ["base", "lora", "dora", "vera", "adalora", "ia3"])]
fn projection(bencher: Bencher<'_, '_>, method: &str) {
    let target_modules = TargetModules::list(["up"]);
    let lora = LoraConfig { r: 16, target_modules: target_modules.clone(), ..LoraConfig::default() };
    let config: Option<PeftConfig> = match method {
        "lora" => Some(lora.into()),
        "dora" => Some(LoraConfig { use_dora: true, ..lora }.into()),
        "vera" => Some(VeraConfig { target_modules, ..VeraConfig::default() }.into()),
        "adalora" => Some(AdaLoraConfig { init_r: 16, target_r: 8, target_modules, ..AdaLoraConfig::default() }.into()),
        "ia3" => Some(
            Ia3Config {
                target_modules,
                feedforward_modules: Some(peft_burn::ModuleNames::list(Vec::<String>::new())),
                ..Ia3Config::default()
            }
            .into(),
        ),
        _ => None,
    };
    let up = PeftLinear::new(random([INNER, WIDTH]).inner(), None);
    let mut net = Net { up, adapters: PeftState::default() };
    if let Some(config) = config {
        net.add_adapter("default", &config, 1).unwrap();
    }
    let net = net.train();
    both(bencher.counter(ItemsCount::new(2 * TOKENS * WIDTH * INNER)), random([TOKENS, WIDTH]), |x| net.up.forward(x));
}

/// Tokens of a row, of 2,048 in all.
#[divan::bench(args = [128, 512, 2048])]
fn attention(bencher: Bencher<'_, '_>, seq: usize) {
    let shape = AttentionShape {
        batch: 2048 / seq,
        seq,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        starts: None,
        window: None,
        scores: Scores::default(),
    };
    let [k, v] = [(); 2].map(|()| random([2048, 192]));
    // Half of the scores are masked; forward makes two products, backward five.
    let items = 7 * 2048 * seq / 2 * WIDTH;
    both(bencher.counter(ItemsCount::new(items)), random([2048, WIDTH]), |q| {
        causal_attention(q, k.clone(), v.clone(), shape.clone())
    });
}

#[divan::bench]
fn loss(bencher: Bencher<'_, '_>) {
    let weight = random([VOCAB, WIDTH]).inner();
    let weight = Tensor::from_inner(weight);
    let targets = Tensor::<1, Int>::arange(0..TOKENS as i64, &Device::flex().autodiff());
    both(bencher.counter(ItemsCount::new(2 * TOKENS * WIDTH * VOCAB)), random([TOKENS, WIDTH]), |x| {
        cross_entropy(x, weight.clone(), targets.clone(), 1.0)
    });
}

#[divan::bench]
fn norm(bencher: Bencher<'_, '_>) {
    let gain = random([WIDTH]);
    both(bencher, random([TOKENS, WIDTH]), |x| rms_norm(x, gain.clone(), 1e-5));
}

#[divan::bench]
fn rotation(bencher: Bencher<'_, '_>) {
    let [cos, sin] = [(); 2].map(|()| Tensor::from_inner(random([128, 32]).inner()));
    both(bencher, random([TOKENS, WIDTH]), |x| rope(x, cos.clone(), sin.clone()));
}

#[divan::bench(args = ["plain", "scaled"])]
fn gated_activation(bencher: Bencher<'_, '_>, which: &str) {
    let (up, l) = (random([TOKENS, INNER]), random([INNER]));
    both(bencher, random([TOKENS, INNER]), |gate| match which {
        "scaled" => scaled_swiglu(gate, up.clone(), l.clone()),
        _ => swiglu(gate, up.clone()),
    });
}
