use burn::tensor::{DType, Device};

use super::base_linear;
use crate::packed::{Format, PackedLayout, PackedWeight, Weight};
use crate::testing::{assert_same, evaluate, random};

fn packed(format: Format, nested: bool, rows: usize, cols: usize, dtype: DType) -> PackedWeight {
    let layout = PackedLayout { format, block: 64, nested, rows, cols, dtype };
    let codes = (0..layout.num_bytes()).map(|i| (i * 37 + i / 7) as u8).collect();
    let scales = (0..layout.num_scales()).map(|i| 0.5 + (i % 5) as f32 * 0.1).collect();
    PackedWeight::new(codes, scales, layout, &Device::flex())
}

#[test]
fn it_is_the_product_with_the_decoded_weight_and_so_is_its_gradient() {
    for (n, inp, out) in [(1, 64, 3), (3, 40, 7), (130, 65, 200), (257, 128, 48)] {
        for format in [Format::Nf4, Format::Fp4] {
            for nested in [false, true] {
                let weight = packed(format, nested, out, inp, DType::F32);
                let dense = weight.dense();
                let inputs = [random(1, [n, inp])];
                let found = evaluate(&inputs, |t| base_linear(t[0].clone(), weight.clone().into()));
                let expected = evaluate(&inputs, |t| base_linear(t[0].clone(), Weight::Dense(dense.clone())));
                assert_same(&found, &expected, 1e-6);
            }
        }
    }
}
