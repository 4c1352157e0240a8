//! Products with packed weights, beside the same with a weight in bf16; and quantising. The sizes are those of a 7B model's
//! attention: 4096 x 4096.
//!
//! ```text
//! cargo bench --bench packed [-- FILTER]
//! ```
//!
//! The items per second are multiply-adds, or values that are quantised. `benches/against_bitsandbytes.py` times the same with
//! bitsandbytes.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Bytes, DType, Device, Distribution, Tensor};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fused_burn::{Format, PackedLayout, PackedWeight, Quantization, Weight, base_linear};

const SIZE: usize = 4096;
const WEIGHTS: [&str; 12] =
    ["bf16", "nf4", "nf4 nested", "int8", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"];

fn main() {
    divan::main();
}

fn random(shape: [usize; 2]) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// A weight by its format, in bf16.
fn weight(name: &str) -> Weight {
    let dtype = DType::BF16;
    let quantised = |format, double_quantization| {
        let how = Quantization { double_quantization, ..Quantization::new(format) };
        PackedWeight::quantize(random([SIZE, SIZE]), how, dtype, &Device::flex()).unwrap().into()
    };
    match name {
        "bf16" => Weight::Dense(random([SIZE, SIZE]).cast(dtype)),
        "nf4" => quantised(Format::Nf4, false),
        "nf4 nested" => quantised(Format::Nf4, true),
        "int8" => quantised(Format::Int8, false),
        name => {
            let format = Format::ALL.into_iter().find(|format| format.name() == name).unwrap();
            let bytes = PackedLayout::of(format, [SIZE, SIZE], dtype).num_bytes();
            // Any bytes are codes, and these are no large f16.
            let blocks = Bytes::from_bytes_vec((0..bytes).map(|i| (i * 37 + i / 7) as u8 & 0x2f).collect());
            PackedWeight::from_blocks(format, blocks, [SIZE, SIZE], dtype, &Device::flex()).unwrap().into()
        }
    }
}

/// The time of a token when text is generated.
#[divan::bench(args = WEIGHTS)]
fn a_row(bencher: Bencher<'_, '_>, name: &str) {
    let (x, weight) = (random([1, SIZE]).cast(DType::BF16), weight(name));
    let bencher = bencher.counter(ItemsCount::new(SIZE * SIZE));
    bencher.bench_local(|| black_box(base_linear(x.clone(), weight.clone()).into_data()));
}

/// The time of a step of 512 tokens, forward and backward.
#[divan::bench(args = WEIGHTS)]
fn a_step(bencher: Bencher<'_, '_>, name: &str) {
    let device = Device::flex().autodiff();
    let x = Tensor::<2>::random([512, SIZE], Distribution::Normal(0.0, 1.0), &device).cast(DType::BF16);
    let weight = match weight(name) {
        Weight::Dense(weight) => Weight::Dense(Tensor::from_inner(weight)),
        packed => packed,
    };
    let bencher = bencher.counter(ItemsCount::new(2 * 512 * SIZE * SIZE));
    bencher.bench_local(|| {
        let x = x.clone().detach().require_grad();
        let grads = base_linear(x.clone(), weight.clone()).sum().backward();
        black_box(x.grad(&grads).map(Tensor::into_data))
    });
}

#[divan::bench(args = ["nf4", "nf4 nested", "fp4", "int8"])]
fn quantise(bencher: Bencher<'_, '_>, name: &str) {
    let format = match name {
        "fp4" => Format::Fp4,
        "int8" => Format::Int8,
        _ => Format::Nf4,
    };
    let how = Quantization { double_quantization: name.ends_with("nested"), ..Quantization::new(format) };
    let values: Vec<f32> = random([SIZE, SIZE]).into_data().iter::<f32>().collect();
    let bencher = bencher.counter(ItemsCount::new(SIZE * SIZE));
    bencher.bench_local(|| {
        black_box(PackedWeight::quantize_values(&values, [SIZE, SIZE], how, DType::BF16, &Device::flex()).unwrap())
    });
}
