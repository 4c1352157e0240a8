//! A LoRA training step beside that of Burn's own `apply_lora`: the same model, weights, rank and optimiser, in turn.
//!
//! ```text
//! cargo run --release --example against_burn_lora [-- BLOCKS WIDTH TOKENS ROUNDS]
//! ```
//!
//! The model is a stack of residual blocks of plain linear layers, by default with the sizes of SmolLM2-135M (30 blocks of
//! width 576 and 1536, 512 tokens). Every measurement is a process of its own, so that the peak of memory is its own. The
//! first losses must agree, so that the work is the same.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::process::{Command, Stdio};
use std::time::Instant;

use burn::module::{Lora, Module, ModuleDisplay};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Distribution, Tensor};
use peft_burn::{LoraConfig, PeftConfig, PeftLinear, PeftModel, PeftState, TargetModules, layers};
use peft_learner::bench::peak_rss_mb;

const RANK: usize = 16;
const ALPHA: f64 = 32.0;
const STEPS: usize = 8;
const WARMUP: usize = 2;
const SEED: u64 = 42;

trait Layer: Module + ModuleDisplay {
    fn forward(&self, x: Tensor<2>) -> Tensor<2>;
}

impl Layer for Linear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        Linear::forward(self, x)
    }
}

impl Layer for PeftLinear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        PeftLinear::forward(self, x)
    }
}

#[derive(Module, Debug)]
struct Block<L: Layer> {
    q: L,
    o: L,
    gate: L,
    up: L,
    down: L,
}

#[derive(Module, Debug)]
struct Net<L: Layer> {
    blocks: Vec<Block<L>>,
    #[module(skip)]
    adapters: PeftState,
}

type OurBlock = Block<PeftLinear>;
type OurNet = Net<PeftLinear>;
layers!(OurBlock { q, o, gate, up, down });
layers!(OurNet { blocks }, adapters);

impl<L: Layer> Net<L> {
    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        let out = self.blocks.iter().fold(x, |x, block| {
            let x = x.clone() + block.o.forward(block.q.forward(x));
            x.clone() + block.down.forward(silu(block.gate.forward(x.clone())) + block.up.forward(x))
        });
        out.powi_scalar(2).mean()
    }

    /// Milliseconds of each step, and the first loss.
    fn time(mut self, x: Tensor<2>) -> (Vec<f64>, f64) {
        let mut optimizer = AdamWConfig::new().init();
        let (mut times, mut first) = (Vec::new(), None);
        for step in 0..WARMUP + STEPS {
            let start = Instant::now();
            let loss = self.loss(x.clone());
            let grads = GradientsParams::from_grads(loss.backward(), &self);
            self = optimizer.step(1e-4, self, grads);
            first.get_or_insert(loss.into_scalar::<f64>());
            if step >= WARMUP {
                times.push(start.elapsed().as_secs_f64() * 1000.0);
            }
        }
        (times, first.unwrap())
    }
}

fn plain(blocks: usize, width: usize, device: &Device) -> Net<Linear> {
    let linear = |inp, out| LinearConfig::new(inp, out).with_bias(false).init(device);
    let inner = width * 8 / 3;
    let block = |_| Block {
        q: linear(width, width),
        o: linear(width, width),
        gate: linear(width, inner),
        up: linear(width, inner),
        down: linear(inner, width),
    };
    Net { blocks: (0..blocks).map(block).collect(), adapters: PeftState::default() }
}

fn ours(net: Net<Linear>) -> OurNet {
    let block = |b: Block<Linear>| Block {
        q: b.q.into(),
        o: b.o.into(),
        gate: b.gate.into(),
        up: b.up.into(),
        down: b.down.into(),
    };
    let mut net = Net { blocks: net.blocks.into_iter().map(block).collect(), adapters: net.adapters };
    let target_modules = TargetModules::list(["q", "o", "gate", "up", "down"]);
    let config = LoraConfig { r: RANK, lora_alpha: ALPHA, target_modules, ..LoraConfig::default() };
    net.add_adapter("default", &PeftConfig::Lora(config), SEED).unwrap();
    net
}

/// One process: which of the two, and the sizes. Prints the median step, the peak of memory and the first loss.
fn measure(which: &str, [blocks, width, tokens]: [usize; 3]) {
    let device = Device::flex();
    device.seed(SEED);
    let net = plain(blocks, width, &device);
    let x = Tensor::<2>::random([tokens, width], Distribution::Normal(0.0, 1.0), &device);
    let x = Tensor::from_data(x.into_data(), &device.clone().autodiff());
    let (mut times, first) = match which {
        "ours" => ours(net).train().time(x),
        _ => net.train().apply_lora(Lora::new(RANK, ALPHA)).time(x),
    };
    times.sort_by(f64::total_cmp);
    println!("{} {} {first}", times[times.len() / 2], peak_rss_mb());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [which, sizes @ ..] = &arguments[..]
        && ["ours", "burn"].contains(&which.as_str())
    {
        let sizes: Vec<usize> = sizes.iter().map(|s| s.parse().unwrap()).collect();
        return measure(which, sizes.try_into().unwrap());
    }
    let given: Vec<usize> = arguments.iter().map(|s| s.parse().unwrap()).collect();
    let [blocks, width, tokens, rounds] =
        [(0, 30), (1, 576), (2, 512), (3, 3)].map(|(i, or)| *given.get(i).unwrap_or(&or));
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    println!("{blocks} blocks of width {width}, {tokens} tokens, f32, rank {RANK}; medians of {STEPS} steps");
    for round in 1..=rounds {
        let [ours, burns] = ["ours", "burn"].map(|which| {
            let sizes = [blocks, width, tokens].map(|n| n.to_string());
            let program = std::env::current_exe().unwrap();
            let done = Command::new(program).arg(which).args(sizes).stderr(Stdio::inherit()).output().unwrap();
            assert!(done.status.success(), "{which} failed");
            let text = String::from_utf8(done.stdout).unwrap();
            text.split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<f64>>()
        });
        assert!((ours[2] - burns[2]).abs() <= 1e-4 * burns[2].abs(), "first losses {} and {}", ours[2], burns[2]);
        println!(
            "round {round}: ours {:.1} ms, {:.0} MiB; apply_lora {:.1} ms, {:.0} MiB; ratios {:.2} and {:.2}",
            ours[0],
            ours[1],
            burns[0],
            burns[1],
            ours[0] / burns[0],
            ours[1] / burns[1]
        );
        times.push(ours[0] / burns[0]);
        peaks.push(ours[1] / burns[1]);
    }
    for (what, ratios) in [("time", &mut times), ("peak memory", &mut peaks)] {
        ratios.sort_by(f64::total_cmp);
        println!("{what}: {:.2} of apply_lora's ({:.2} to {:.2})", ratios[rounds / 2], ratios[0], ratios[rounds - 1]);
    }
}
