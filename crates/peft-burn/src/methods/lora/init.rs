//! How LoRA's A and B begin: PEFT's `init_lora_weights`.

use burn::tensor::{DType, Device, Tensor, TensorData};
use fused_burn::Weight;

use crate::config::InitLoraWeights;
use crate::error::{Result, Unsupported};
use crate::random::TensorRng;
use crate::svd::svd;

/// The specification of one LoRA layer.
#[derive(Clone, Debug)]
pub struct LoraSpec {
    /// Rank.
    pub r: usize,
    /// Factor of the update.
    pub scaling: f64,
    /// Probability with which an input of the adapter is zeroed in training.
    pub dropout: f64,
    /// Whether B has a bias (PEFT's `lora_bias`).
    pub bias: bool,
    /// How A and B begin.
    pub init: InitLoraWeights,
}

/// A (`[r, in]`) and B (`[out, r]`) for `weight` (`[out, in]`).
pub(super) fn draw(spec: &LoraSpec, weight: &Weight, rng: &mut TensorRng) -> Result<(Tensor<2>, Tensor<2>)> {
    let device = weight.device();
    let [out, inp] = weight.dims();
    let r = spec.r;
    let bound = 1.0 / (inp as f32).sqrt();
    let zeros = || vec![0.0; out * r];
    let random = |a: Vec<f32>, b: Vec<f32>| {
        (
            Tensor::from_data(TensorData::new(a, [r, inp]), (&device, DType::F32)),
            Tensor::from_data(TensorData::new(b, [out, r]), (&device, DType::F32)),
        )
    };
    match &spec.init {
        InitLoraWeights::Default => Ok(random(rng.uniform(r * inp, bound), zeros())),
        InitLoraWeights::Gaussian => Ok(random(rng.normal(r * inp, 1.0 / r as f32), zeros())),
        InitLoraWeights::Random => {
            let a = rng.uniform(r * inp, bound);
            Ok(random(a, rng.uniform(out * r, 1.0 / (r as f32).sqrt())))
        }
        InitLoraWeights::Orthogonal => orthogonal(r, inp, out, rng, &device),
        InitLoraWeights::Pissa => pissa(weight, r, spec.scaling, None, rng),
        InitLoraWeights::PissaNiter(n) => pissa(weight, r, spec.scaling, Some(*n), rng),
        InitLoraWeights::Olora => olora(weight, r),
        InitLoraWeights::Other(name) => Err(Unsupported::Initialisation(name.clone()).into()),
    }
}

/// A = √(S/s)·Vᵀ and B = U·√(S/s) of the leading `r` singular triplets: exact, or by `n` subspace iterations
/// (`pissa_niter_n`; Halko et al. 2011), which is faster for a large weight.
fn pissa(
    weight: &Weight,
    r: usize,
    scaling: f64,
    n: Option<usize>,
    rng: &mut TensorRng,
) -> Result<(Tensor<2>, Tensor<2>)> {
    let [out, inp] = weight.dims();
    check_rank("pissa", r, out.min(inp))?;
    let weight = weight.dense().detach().cast(DType::F32);
    let (u, s, vt) = match n {
        None => svd(weight),
        Some(n) => {
            let orthogonal = |m: Tensor<2>| burn::linalg::qr(m, true).0;
            let probe = TensorData::new(rng.normal(inp * r, 1.0), [inp, r]);
            let mut q = orthogonal(weight.clone().matmul(Tensor::from_data(probe, (&weight.device(), DType::F32))));
            for _ in 0..n {
                q = orthogonal(weight.clone().matmul(orthogonal(weight.clone().transpose().matmul(q))));
            }
            let (u, s, vt) = svd(q.clone().transpose().matmul(weight));
            (q.matmul(u), s, vt)
        }
    };
    let root = s.narrow(0, 0, r).div_scalar(scaling).sqrt();
    let a = vt.slice([0..r, 0..inp]) * root.clone().reshape([r, 1]);
    let b = u.slice([0..out, 0..r]) * root.reshape([1, r]);
    Ok((a, b))
}

/// A = R\[:r\] and B = Q\[:, :r\] of W = Q·R.
fn olora(weight: &Weight, r: usize) -> Result<(Tensor<2>, Tensor<2>)> {
    let [out, inp] = weight.dims();
    check_rank("olora", r, out.min(inp))?;
    let (q, upper) = burn::linalg::qr(weight.dense().detach().cast(DType::F32), true);
    Ok((upper.slice([0..r, 0..inp]), q.slice([0..out, 0..r])))
}

/// A from the odd rows and B from the even rows of an orthogonal r×r matrix, each through a random map, over 10.
fn orthogonal(
    r: usize,
    inp: usize,
    out: usize,
    rng: &mut TensorRng,
    device: &Device,
) -> Result<(Tensor<2>, Tensor<2>)> {
    if !r.is_multiple_of(2) {
        return Err(Unsupported::OddRank { r }.into());
    }
    let half = r / 2;
    let mut normal = |rows: usize, cols: usize| {
        Tensor::<2>::from_data(TensorData::new(rng.normal(rows * cols, 1.0), [rows, cols]), (device, DType::F32))
    };
    let (q, _) = burn::linalg::qr(normal(r, r), true);
    let pairs = q.reshape([half, 2, r]);
    let even = pairs.clone().slice([0..half, 0..1, 0..r]).reshape([half, r]);
    let odd = pairs.slice([0..half, 1..2, 0..r]).reshape([half, r]);
    let a = normal(inp, half).matmul(odd).transpose().div_scalar(10.0);
    let b = normal(half, out).transpose().matmul(even).div_scalar(10.0);
    Ok((a, b))
}

fn check_rank(init: &str, r: usize, limit: usize) -> Result<()> {
    if r > limit {
        return Err(Unsupported::TooFewDirections { init: init.to_owned(), r, limit }.into());
    }
    Ok(())
}
