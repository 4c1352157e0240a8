//! The types of a GGUF file's tensors, and what their blocks hold. Every value is the one of gguf-py, to the bit.

use fused_burn::Format;
use half::{bf16, f16};

/// Numbers in a block of the K types.
const K: usize = 256;

macro_rules! kinds {
    ($($name:ident = $id:literal, $block:expr, $bytes:expr;)*) => {
        /// A type that is read.
        #[allow(non_camel_case_types)] // llama.cpp's names
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind {
            $($name),*
        }

        impl Kind {
            const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The type with that number in a file.
            pub fn of(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its number in a file.
            pub fn id(self) -> u32 {
                match self {
                    $(Self::$name => $id),*
                }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }

            /// How many numbers a block holds, in how many bytes.
            pub fn block(self) -> (usize, usize) {
                match self {
                    $(Self::$name => ($block, $bytes)),*
                }
            }
        }
    };
}

kinds! {
    F32 = 0, 1, 4;
    F16 = 1, 1, 2;
    Q4_0 = 2, 32, 18;
    Q4_1 = 3, 32, 20;
    Q5_0 = 6, 32, 22;
    Q5_1 = 7, 32, 24;
    Q8_0 = 8, 32, 34;
    Q2_K = 10, K, 84;
    Q3_K = 11, K, 110;
    Q4_K = 12, K, 144;
    Q5_K = 13, K, 176;
    Q6_K = 14, K, 210;
    IQ4_NL = 20, 32, 18;
    IQ4_XS = 23, K, 136;
    BF16 = 30, 1, 2;
}

impl Kind {
    /// The names of all of them.
    pub fn names() -> String {
        Self::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
    }

    /// The same as a format of packed weights, if products read it.
    pub fn packed(self) -> Option<Format> {
        Some(match self {
            Self::Q4_0 => Format::Q4_0,
            Self::Q4_1 => Format::Q4_1,
            Self::Q5_0 => Format::Q5_0,
            Self::Q5_1 => Format::Q5_1,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4_K => Format::Q4_K,
            Self::Q5_K => Format::Q5_K,
            Self::Q6_K => Format::Q6_K,
            _ => return None,
        })
    }

    /// The numbers of whole blocks.
    pub fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let (block, size) = self.block();
        let count = bytes.len() / size;
        match self.decoder() {
            Decoder::Packed(format) => {
                let mut out = vec![0.0; count * block];
                format.decode_blocks(&bytes[..count * size], &mut out);
                out
            }
            Decoder::Own(write) => {
                let mut out = Vec::with_capacity(count * block);
                bytes.chunks_exact(size).for_each(|block| write(block, &mut out));
                out
            }
        }
    }

    fn decoder(self) -> Decoder {
        match self {
            Self::F32 => Decoder::Own(|b, out| out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Self::F16 => Decoder::Own(|b, out| out.push(half(b, 0))),
            Self::BF16 => Decoder::Own(|b, out| out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            Self::IQ4_NL => Decoder::Own(|b, out| nibbles(&b[2..], |q| half(b, 0) * LEVELS[usize::from(q)], out)),
            Self::Q2_K => Decoder::Own(q2_k),
            Self::Q3_K => Decoder::Own(q3_k),
            Self::IQ4_XS => Decoder::Own(iq4_xs),
            Self::Q4_0 => Decoder::Packed(Format::Q4_0),
            Self::Q4_1 => Decoder::Packed(Format::Q4_1),
            Self::Q5_0 => Decoder::Packed(Format::Q5_0),
            Self::Q5_1 => Decoder::Packed(Format::Q5_1),
            Self::Q8_0 => Decoder::Packed(Format::Q8_0),
            Self::Q4_K => Decoder::Packed(Format::Q4_K),
            Self::Q5_K => Decoder::Packed(Format::Q5_K),
            Self::Q6_K => Decoder::Packed(Format::Q6_K),
        }
    }
}

/// Who decodes a type's blocks.
enum Decoder {
    /// They can stay packed, too.
    Packed(Format),
    Own(fn(&[u8], &mut Vec<f32>)),
}

/// The values of IQ4's codes.
const LEVELS: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Lower halves of the bytes, then upper ones.
fn nibbles(bytes: &[u8], value: impl Fn(u8) -> f32, out: &mut Vec<f32>) {
    out.extend(bytes.iter().map(|q| value(q & 15)));
    out.extend(bytes.iter().map(|q| value(q >> 4)));
}

fn q2_k(b: &[u8], out: &mut Vec<f32>) {
    let (scales, qs, d, min) = (&b[..16], &b[16..80], half(b, 80), half(b, 82));
    for i in 0..K {
        // Halves of 128 numbers; in each, four layers of two bits over 32 bytes.
        let (part, layer, byte) = (i / 128, i % 128 / 32, i % 32);
        let q = qs[part * 32 + byte] >> (2 * layer) & 3;
        let scale = scales[i / 16];
        out.push(d * f32::from(scale & 15) * f32::from(q) - min * f32::from(scale >> 4));
    }
}

fn q3_k(b: &[u8], out: &mut Vec<f32>) {
    let (mask, qs, scales, d) = (&b[..32], &b[32..96], &b[96..108], half(b, 108));
    let scale = |i: usize| {
        let low = scales[i % 8] >> (4 * (i / 8)) & 15;
        let high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
        d * f32::from((low | high << 4) as i8 - 32)
    };
    for i in 0..K {
        let (part, layer, byte) = (i / 128, i % 128 / 32, i % 32);
        let low = qs[part * 32 + byte] >> (2 * layer) & 3;
        let high = !(mask[byte] >> (i / 32)) & 1;
        out.push(scale(i / 16) * f32::from(low as i8 - ((high << 2) as i8)));
    }
}

fn iq4_xs(b: &[u8], out: &mut Vec<f32>) {
    let (d, high, low, qs) = (half(b, 0), u16::from_le_bytes([b[2], b[3]]), &b[4..8], &b[8..]);
    for part in 0..8 {
        let l = low[part / 2] >> (4 * (part % 2)) & 15;
        let h = (high >> (2 * part) & 3) as u8;
        let scale = d * f32::from((l | h << 4) as i8 - 32);
        nibbles(&qs[part * 16..][..16], |q| scale * LEVELS[usize::from(q)], out);
    }
}
