use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Flex};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{BaseWeight, BaseWeightOps, base_linear};
use crate::packed::{Format, PackedLayout, PackedWeight, Weight};
use crate::testing::{assert_near, assert_same, computes, evaluate, random, test_device};

/// A weight of any codes.
fn packed(format: Format, nested: bool, [rows, cols]: [usize; 2], dtype: DType, device: &Device) -> PackedWeight {
    let layout = match format {
        Format::Nf4 | Format::Fp4 => PackedLayout { format, block: 64, nested, rows, cols, dtype },
        _ => PackedLayout::of(format, [rows, cols], dtype),
    };
    // No f16 in llama.cpp's blocks is large or no number.
    let code = |i: usize| (i * 37 + i / 7) as u8 & if format.block().is_some() { 0x2f } else { 0xff };
    let codes = (0..layout.num_bytes()).map(code).collect();
    let scales = (0..layout.num_scales()).map(|i| 0.5 + (i % 5) as f32 * 0.1).collect();
    PackedWeight::new(codes, scales, layout, device)
}

/// Weights of every format that rows of `cols` have room for.
fn all([rows, cols]: [usize; 2], dtype: DType, device: &Device) -> Vec<PackedWeight> {
    let mut found = Vec::new();
    for format in Format::ALL {
        if format.block().is_none_or(|(values, _)| cols.is_multiple_of(values)) {
            found.push(packed(format, false, [rows, cols], dtype, device));
        }
        if matches!(format, Format::Nf4 | Format::Fp4) {
            found.push(packed(format, true, [rows, cols], dtype, device));
        }
    }
    found
}

#[test]
fn it_is_the_product_with_the_decoded_weight_and_so_is_its_gradient() {
    for (n, inp, out) in [(1, 64, 3), (3, 40, 7), (5, 256, 33), (130, 65, 200), (257, 512, 48)] {
        for weight in all([out, inp], DType::F32, &test_device()) {
            let dense = weight.dense();
            let inputs = [random(1, [n, inp])];
            let found = evaluate(&inputs, |t| base_linear(t[0].clone(), weight.clone().into()));
            let expected = evaluate(&inputs, |t| base_linear(t[0].clone(), Weight::Dense(dense.clone())));
            assert_same(&found, &expected, 1e-4);
        }
    }
}

#[test]
fn a_weight_in_bf16_is_that_of_its_rounded_values() {
    if !computes(DType::BF16) {
        return;
    }
    for (n, inp, out) in [(1, 64, 3), (40, 256, 100)] {
        for (single, weight) in
            all([out, inp], DType::F32, &test_device()).into_iter().zip(all([out, inp], DType::BF16, &test_device()))
        {
            let dense = weight.dense();
            assert_eq!(dense.dtype(), DType::BF16);
            let rounded = single.dense().cast(DType::BF16);
            dense.clone().into_data().assert_eq(&rounded.into_data(), true);
            let inputs = [random(1, [n, inp]).cast(DType::BF16)];
            let found = evaluate(&inputs, |t| base_linear(t[0].clone(), weight.clone().into()));
            let expected = evaluate(&inputs, |t| base_linear(t[0].clone(), Weight::Dense(dense.clone())));
            assert_near(&found, &expected);
        }
    }
}

#[test]
fn rows_and_a_selection_of_them_are_those_of_the_whole() {
    for dtype in [DType::F32, DType::BF16].into_iter().filter(|dtype| computes(*dtype)) {
        for weight in all([9, 256], dtype, &test_device()).into_iter().chain(all([9, 13], dtype, &test_device())) {
            let dense = weight.dense();
            weight.rows(2, 5).into_data().assert_eq(&dense.clone().narrow(0, 2, 5).into_data(), true);
            let ids = Tensor::<1, Int>::from_ints([8, 0, 3, 3], &test_device());
            weight.select(ids.clone()).into_data().assert_eq(&dense.select(0, ids).into_data(), true);
        }
    }
}

fn ints<B: Backend>(values: Vec<i32>) -> IntTensor<B> {
    let count = values.len();
    B::int_from_data(TensorData::new(values, [count]), &Default::default())
}

fn floats<B: Backend>(values: Vec<f32>) -> FloatTensor<B> {
    let count = values.len();
    B::float_from_data(TensorData::new(values, [count]), &Default::default())
}

#[test]
fn words_decode_to_what_bytes_decode_to() {
    for dtype in [DType::F32, DType::BF16] {
        for weight in all([9, 256], dtype, &Device::flex()).into_iter().chain(all([9, 13], dtype, &Device::flex())) {
            let (layout, scales) = (*weight.layout(), weight.scales());
            let mut bytes = weight.bytes();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let words: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect();
            let words =
                BaseWeight::<Flex>::Packed { codes: ints::<Flex>(words), scales: floats::<Flex>(scales), layout };
            for (start, count) in [(0, 9), (2, 3), (8, 1)] {
                let found = Flex::weight_rows(words.clone(), start, count).into_data();
                found.assert_eq(&weight.rows(start, count).into_data(), true);
            }
        }
    }
}

#[test]
fn a_weight_goes_to_a_device_and_back() {
    for weight in all([5, 256], DType::F32, &Device::flex()) {
        let there = weight.to_device(&test_device());
        assert_eq!((there.bytes(), there.scales()), (weight.bytes(), weight.scales()));
        let back = there.to_device(&Device::flex());
        assert_eq!((back.bytes(), back.scales()), (weight.bytes(), weight.scales()));
    }
}
