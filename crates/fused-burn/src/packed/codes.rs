//! The values of the codes of bitsandbytes.

use super::layout::Format;
use super::nested::MAP;

/// NF4's values, by code.
pub(super) static NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// FP4's values, by code.
pub(super) static FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// One step of an 8-bit code as a share of the row's scale: bitsandbytes' 1/127 in f32.
pub(super) const INT8_STEP: f32 = 7.874_016e-3;

impl Format {
    /// The values of the 16 codes of a 4-bit format before they are scaled: bitsandbytes' `quant_map`.
    pub fn values(self) -> Option<&'static [f32; 16]> {
        match self {
            Self::Nf4 => Some(&NF4),
            Self::Fp4 => Some(&FP4),
            _ => None,
        }
    }

    /// The values of the codes of scales that are quantised too: bitsandbytes' `nested_quant_map`.
    pub fn nested_values() -> &'static [f32; 256] {
        &MAP
    }
}
