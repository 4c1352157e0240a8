//! Numbers as the types of a GGUF file: what ggml's reference encoders (`quantize_row_*_ref`, without an importance matrix)
//! make of them, to the bit.

use half::{bf16, f16};
use rayon::prelude::*;

use super::dequantise::Kind;
use super::fit::{nearest, scale_and_least, signed_scale};
use super::value::Problem;

/// Numbers that a thread takes at a time.
const RUN: usize = 1 << 14;

/// Encodes one block.
type Encoder = fn(&[f32], &mut [u8]);

impl Kind {
    /// `values`, whole blocks of them, as this type, on all threads.
    ///
    /// # Errors
    /// A type that is read and not written.
    pub fn narrow(self, values: &[f32]) -> Result<Vec<u8>, Problem> {
        let encode: Encoder = match self {
            Self::F32 => |x, out| out.copy_from_slice(&x[0].to_le_bytes()),
            Self::F16 => |x, out| out.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
            Self::BF16 => |x, out| out.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q4_K => q4_k,
            Self::Q5_K => q5_k,
            Self::Q6_K => q6_k,
            _ => return Err(format!("{} is not written", self.name())),
        };
        let (block, size) = self.block();
        let blocks = RUN / block;
        let mut out = vec![0; values.len() / block * size];
        out.par_chunks_mut(blocks * size).zip(values.par_chunks(blocks * block)).for_each(|(out, values)| {
            out.chunks_exact_mut(size).zip(values.chunks_exact(block)).for_each(|(out, x)| encode(x, out));
        });
        Ok(out)
    }
}

/// Stores `x` in half precision, and returns what is stored.
fn put_half(out: &mut [u8], x: f32) -> f32 {
    let half = f16::from_f32(x);
    out.copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Lower halves of the bytes, then upper ones.
fn put_nibbles(out: &mut [u8], codes: &[u8]) {
    let (low, high) = codes.split_at(out.len());
    out.iter_mut().zip(low).zip(high).for_each(|((byte, l), h)| *byte = l & 15 | h << 4);
}

/// The fifth bits of 32 codes.
fn fifth_bits(codes: &[u8]) -> [u8; 4] {
    codes.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4 & 1) << i).to_le_bytes()
}

fn q8_0(x: &[f32], out: &mut [u8]) {
    let d = x.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0;
    let inverse = inverse(d);
    put_half(&mut out[..2], d);
    out[2..].iter_mut().zip(x).for_each(|(q, v)| *q = (v * inverse).round() as i8 as u8);
}

fn q5_0(x: &[f32], out: &mut [u8]) {
    let most = x.iter().fold(0.0f32, |most, v| if v.abs() > most.abs() { *v } else { most });
    let d = most / -16.0;
    let inverse = inverse(d);
    let mut codes = [0; 32];
    codes.iter_mut().zip(x).for_each(|(q, v)| *q = ((v * inverse + 16.5) as i8).min(31) as u8);
    put_half(&mut out[..2], d);
    out[2..6].copy_from_slice(&fifth_bits(&codes));
    put_nibbles(&mut out[6..], &codes);
}

fn q5_1(x: &[f32], out: &mut [u8]) {
    let (mut least, mut most) = (f32::MAX, f32::MIN);
    for &v in x {
        // Not `min`, of which it is open which zero it takes.
        least = if v < least { v } else { least };
        most = if v > most { v } else { most };
    }
    let d = (most - least) / 31.0;
    let inverse = inverse(d);
    let mut codes = [0; 32];
    codes.iter_mut().zip(x).for_each(|(q, v)| *q = ((v - least) * inverse + 0.5) as u8);
    put_half(&mut out[..2], d);
    put_half(&mut out[2..4], least);
    out[4..8].copy_from_slice(&fifth_bits(&codes));
    put_nibbles(&mut out[8..], &codes);
}

/// Scales and minimums of the eight parts of a block, and the codes that are nearest with them, up to `most`: what Q4_K and
/// Q5_K share. `first` and `steps` say which scales are tried.
fn parts(x: &[f32], most: u8, first: f32, steps: u8, out: &mut [u8]) -> [u8; 256] {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0f32; 8], [0.0f32; 8]);
    for (part, (x, codes)) in x.chunks_exact(32).zip(codes.chunks_exact_mut(32)).enumerate() {
        (scales[part], mins[part]) = scale_and_least(x, codes, most, first, steps);
    }
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |most, v| if *v > most { *v } else { most });
    let (max_scale, max_min) = (largest(&scales), largest(&mins));
    let (d, min) = (put_half(&mut out[..2], max_scale / 63.0), put_half(&mut out[2..4], max_min / 63.0));
    // Six bits each: of the last four parts, the upper two lie above those of the first four.
    let six = |value: f32, max: f32| (nearest(if max > 0.0 { 63.0 / max } else { 0.0 } * value) as u8).min(63);
    let pairs: [[u8; 2]; 8] = std::array::from_fn(|i| [six(scales[i], max_scale), six(mins[i], max_min)]);
    for i in 0..4 {
        let ([scale, least], [scale4, least4]) = (pairs[i], pairs[i + 4]);
        out[4 + i] = scale | scale4 >> 4 << 6;
        out[8 + i] = least | least4 >> 4 << 6;
        out[12 + i] = scale4 & 15 | least4 << 4;
    }
    for (part, (x, codes)) in x.chunks_exact(32).zip(codes.chunks_exact_mut(32)).enumerate() {
        let [scale, least] = pairs[part].map(f32::from);
        let (scale, least) = (d * scale, min * least);
        // Of a scale that is nothing the first codes stay.
        if scale != 0.0 {
            let code = |v: f32| nearest((v + least) / scale).clamp(0, i32::from(most)) as u8;
            codes.iter_mut().zip(x).for_each(|(q, v)| *q = code(*v));
        }
    }
    codes
}

fn q4_k(x: &[f32], out: &mut [u8]) {
    let codes = parts(x, 15, -1.0, 20, out);
    out[16..].chunks_exact_mut(32).zip(codes.chunks_exact(64)).for_each(|(out, codes)| put_nibbles(out, codes));
}

fn q5_k(x: &[f32], out: &mut [u8]) {
    let codes = parts(x, 31, -0.5, 15, out);
    for (i, high) in out[16..48].iter_mut().enumerate() {
        *high = (0..8).fold(0, |bits, part| bits | (codes[part * 32 + i] >> 4) << part);
    }
    out[48..].chunks_exact_mut(32).zip(codes.chunks_exact(64)).for_each(|(out, codes)| put_nibbles(out, codes));
}

fn q6_k(x: &[f32], out: &mut [u8]) {
    let (mut codes, mut scales) = ([0; 256], [0.0f32; 16]);
    for (scale, (x, codes)) in scales.iter_mut().zip(x.chunks_exact(16).zip(codes.chunks_exact_mut(16))) {
        *scale = signed_scale(x, codes, 32);
    }
    let most = scales.iter().fold(0.0f32, |most, v| if v.abs() > most.abs() { *v } else { most });
    if most.abs() < super::fit::NOTHING {
        return out.fill(0);
    }
    let inverse = -128.0 / most;
    let d = put_half(&mut out[208..], 1.0 / inverse);
    for (part, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        let scale = nearest(inverse * scales[part]).min(127) as i8;
        out[192 + part] = scale as u8;
        let scale = d * f32::from(scale);
        if scale != 0.0 {
            codes.iter_mut().zip(x).for_each(|(q, v)| *q = (nearest(v / scale).clamp(-32, 31) + 32) as u8);
        }
    }
    // Halves of 128 numbers; in each, 64 bytes of lower bits in two layers, and 32 of upper bits in four.
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        put_nibbles(&mut out[64 * half..][..64], codes);
        for (i, high) in out[128 + 32 * half..][..32].iter_mut().enumerate() {
            *high = (0..4).fold(0, |bits, layer| bits | (codes[32 * layer + i] >> 4) << (2 * layer));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn every_type_has_the_bytes_of_ggml() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf/encoded.safetensors");
        let file = std::fs::read(file).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let values = Kind::F32.widen(file.tensor("values").unwrap().data());
        for kind in [Kind::Q8_0, Kind::Q5_0, Kind::Q5_1, Kind::Q4_K, Kind::Q5_K, Kind::Q6_K] {
            let (found, expected) = (kind.narrow(&values).unwrap(), file.tensor(kind.name()).unwrap());
            let (expected, size) = (expected.data(), kind.block().1);
            assert_eq!(found.len(), expected.len());
            for (i, (found, expected)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
                assert_eq!(found, expected, "{} block {i}", kind.name());
            }
        }
    }

    #[test]
    fn q8_0_is_within_half_a_step() {
        let values: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * (i / 32) as f32).collect();
        let bytes = Kind::Q8_0.narrow(&values).unwrap();
        assert_eq!(bytes.len(), 3 * 34);
        for (i, (found, value)) in Kind::Q8_0.widen(&bytes).iter().zip(&values).enumerate() {
            let most = values[i / 32 * 32..][..32].iter().fold(0.0f32, |most, v| most.max(v.abs()));
            // Half a step, and the rounding of the scale to 11 bits.
            assert!((found - value).abs() <= most * (0.5 / 127.0 + 1.0 / 2048.0), "{i}: {found} {value}");
        }
        // Ties go away from zero, as in ggml: 0.5 steps of 1.
        let mut tie = [0.0f32; 32];
        (tie[0], tie[1], tie[2]) = (127.0, 0.5, -0.5);
        assert_eq!(Kind::Q8_0.narrow(&tie).unwrap()[2..5], [127, 1, 255]);
    }

    #[test]
    fn more_bits_are_nearer() {
        let values: Vec<f32> = (0..4096).map(|i| ((i * i) as f32 * 0.37).sin() * 0.1).collect();
        let error = |kind: Kind| -> f32 {
            let found = kind.widen(&kind.narrow(&values).unwrap());
            found.iter().zip(&values).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
        };
        let errors = [Kind::Q4_K, Kind::Q5_K, Kind::Q6_K, Kind::Q8_0, Kind::F16, Kind::F32].map(error);
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
        assert_eq!(errors[5], 0.0);
    }

    /// A merge refuses what is not finite; if it came here all the same, it is encoded to something.
    #[test]
    fn what_is_not_finite_does_no_harm() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE] {
            let values: Vec<f32> = (0..256).map(|i| if i % 3 == 0 { odd } else { i as f32 }).collect();
            for kind in [Kind::Q8_0, Kind::Q5_0, Kind::Q5_1, Kind::Q4_K, Kind::Q5_K, Kind::Q6_K] {
                assert_eq!(kind.narrow(&values).unwrap().len(), 256 / kind.block().0 * kind.block().1);
            }
        }
        assert!(Kind::Q2_K.narrow(&[0.0; 256]).unwrap_err().contains("Q2_K is not written"));
    }
}
