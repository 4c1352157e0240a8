use burn::tensor::TensorData;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::*;

/// Codes and scales that bitsandbytes 0.50.2 makes of weights (`tests/python/quantised_cases.py`).
struct Fixture(Vec<u8>);

impl Fixture {
    fn read() -> Self {
        Self(std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/quantised.safetensors")).unwrap())
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.file().tensor(name).unwrap().data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let view = self.file();
        let view = view.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn tensor(&self, name: &str) -> Tensor<2> {
        let file = self.file();
        let view = file.tensor(name).unwrap();
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype(&view));
        Tensor::from_data(data, (&Device::flex(), dtype(&view)))
    }

    /// The keys of what was quantised: case, format, block and whether scales are nested.
    fn cases(&self) -> Vec<(String, Quantization)> {
        let file = self.file();
        let mut found = Vec::new();
        for key in file.names().into_iter().filter_map(|name| name.strip_suffix(".codes")) {
            let parts: Vec<&str> = key.split('.').collect();
            let format = match parts.get(1) {
                None => Format::Int8,
                Some(&"nf4") => Format::Nf4,
                Some(_) => Format::Fp4,
            };
            let block = parts.get(2).map_or(64, |block| block.parse().unwrap());
            found.push((key.to_owned(), Quantization { format, block, double_quantization: parts.len() == 4 }));
        }
        assert!(found.len() > 15, "{found:?}");
        found
    }

    fn weight(&self, key: &str) -> Tensor<2> {
        self.tensor(&format!("{}.weight", key.split('.').next().unwrap()))
    }

    fn stored(&self, key: &str, how: Quantization) -> BitsAndBytes {
        let absmax = format!("{key}.absmax");
        let scales = if how.double_quantization {
            Scales::Nested {
                codes: self.bytes(&absmax),
                absmax: self.floats(&format!("{key}.nested_absmax")),
                offset: self.floats(&format!("{key}.nested_offset"))[0],
            }
        } else {
            Scales::Plain(self.floats(&absmax))
        };
        let (shape, codes) = (self.weight(key).dims(), self.bytes(&format!("{key}.codes")));
        let block = if how.format == Format::Int8 { shape[1] } else { how.block };
        BitsAndBytes { format: how.format, block, shape, codes, scales }
    }
}

fn dtype(view: &TensorView<'_>) -> DType {
    match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        other => {
            assert_eq!(other, Dtype::F16);
            DType::F16
        }
    }
}

#[test]
fn tables_are_those_of_bitsandbytes() {
    let fixture = Fixture::read();
    for format in [Format::Nf4, Format::Fp4] {
        assert_eq!(fixture.floats(&format!("values.{}", format.name())), format.values().unwrap());
    }
    assert_eq!(fixture.floats("values.nested"), Format::nested_values());
}

#[test]
fn stored_weights_decode_to_the_values_of_bitsandbytes_to_the_bit() {
    let fixture = Fixture::read();
    for (key, how) in fixture.cases() {
        let (stored, expected) = (fixture.stored(&key, how), fixture.tensor(&format!("{key}.decoded")));
        let weight = PackedWeight::from_bitsandbytes(stored.clone(), expected.dtype(), &Device::flex()).unwrap();
        let (found, expected) = (weight.dense().into_data(), expected.into_data());
        assert_eq!(found.dtype(), expected.dtype());
        // FP4's second zero is negative in some of bitsandbytes' loops, and not in others.
        let expected: Vec<f32> = expected.iter::<f32>().collect();
        assert_eq!(found.iter::<f32>().collect::<Vec<_>>(), expected, "{key}");
        assert_eq!(weight.to_bitsandbytes().unwrap(), stored, "{key}");
    }
}

#[test]
fn weights_are_quantised_to_the_codes_of_bitsandbytes() {
    let fixture = Fixture::read();
    for (key, how) in fixture.cases() {
        let (weight, expected) = (fixture.weight(&key), fixture.stored(&key, how));
        let (shape, dtype) = (weight.dims(), weight.dtype());
        let packed = PackedWeight::quantize(weight.clone(), how, dtype, &Device::flex()).unwrap();
        let found = packed.to_bitsandbytes().unwrap();
        assert_eq!(found.codes, expected.codes, "{key}");
        match (&found.scales, &expected.scales) {
            (Scales::Nested { codes, absmax, offset }, Scales::Nested { codes: c, absmax: a, offset: o }) => {
                assert!(codes.iter().zip(c).all(|(x, y)| x.abs_diff(*y) <= 1), "{key}: {codes:?}, {c:?}");
                let close = |x: &f32, y: &f32| (x - y).abs() <= 1e-6 * y.abs().max(*o);
                assert!(close(offset, o) && absmax.iter().zip(a).all(|(x, y)| close(x, y)), "{key}: {absmax:?}, {a:?}");
            }
            _ => assert_eq!(found.scales, expected.scales, "{key}"),
        }
        let values: Vec<f32> = weight.into_data().iter::<f32>().collect();
        let again = PackedWeight::quantize_values(&values, shape, how, dtype, &Device::flex()).unwrap();
        assert_eq!(again.to_bitsandbytes().unwrap(), found, "{key}");
    }
}

#[test]
fn blocks_decode_to_the_values_of_gguf_py_to_the_bit() {
    let fixture = Fixture::read();
    for format in Format::ALL.into_iter().filter(|format| format.block().is_some()) {
        let key = format!("blocks.{}", format.name());
        let (blocks, expected) = (fixture.bytes(&key), fixture.floats(&format!("{key}.values")));
        let pack = |dtype| {
            let blocks = Bytes::from_bytes_vec(blocks.clone());
            PackedWeight::from_blocks(format, blocks, [3, 512], dtype, &Device::flex()).unwrap()
        };
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let found: Vec<f32> = pack(DType::F32).dense().into_data().iter::<f32>().collect();
        assert_eq!(bits(&found), bits(&expected), "{key}");
        let mut found = vec![f32::NAN; expected.len()];
        format.decode_blocks(&blocks, &mut found);
        assert_eq!(bits(&found), bits(&expected), "{key}");
        for dtype in [DType::BF16, DType::F16] {
            let rounded = Tensor::<2>::from_data(TensorData::new(expected.clone(), [3, 512]), &Device::flex());
            pack(dtype).dense().into_data().assert_eq(&rounded.cast(dtype).into_data(), true);
        }
    }
}

#[test]
fn a_weight_of_many_parts_is_that_of_each_of_them() {
    let (rows, cols) = (700, 64);
    let values: Vec<f32> = crate::testing::normal(3).take(rows * cols).collect();
    for format in [Format::Nf4, Format::Fp4, Format::Int8] {
        let pack = |values: &[f32], rows: usize| {
            let how = Quantization::new(format);
            PackedWeight::quantize_values(values, [rows, cols], how, DType::F32, &Device::flex()).unwrap()
        };
        let whole = pack(&values, rows).dense();
        for row in [0, 255, 256, 511, 699] {
            let one = pack(&values[row * cols..][..cols], 1).dense();
            whole.clone().narrow(0, row, 1).into_data().assert_eq(&one.into_data(), true);
        }
    }
}

#[test]
fn what_no_code_stands_for_is_refused_and_found() {
    let refusal = |bad: &[(usize, f32)], format: Format| {
        let mut values = vec![0.5; 3 * 70];
        bad.iter().for_each(|(i, v)| values[*i] = *v);
        let how = Quantization::new(format);
        PackedWeight::quantize_values(&values, [3, 70], how, DType::F32, &Device::flex()).unwrap_err().to_string()
    };
    for format in [Format::Nf4, Format::Fp4, Format::Int8] {
        let found = refusal(&[(72, f32::NAN), (209, f32::INFINITY)], format);
        let expected = format!("2 values have no code in {}: the first, in row 1 and column 2, is NaN", format.name());
        assert_eq!(found, expected);
    }
    let large = "1 values have no code in int8: the first, in row 2 and column 69, is -70000";
    assert_eq!(refusal(&[(209, -70_000.0)], Format::Int8), large);
    let how = |format, block| Quantization { block, ..Quantization::new(format) };
    let none = |how| PackedWeight::quantize_values(&[1.0; 4], [2, 2], how, DType::F32, &Device::flex()).unwrap_err();
    assert_eq!(none(how(Format::Q4_K, 64)), QuantizeError::Format(Format::Q4_K));
    assert_eq!(none(how(Format::Nf4, 48)), QuantizeError::Block(48));
    assert_eq!(
        PackedWeight::quantize_values(&[1.0; 4], [3, 2], how(Format::Nf4, 64), DType::F32, &Device::flex())
            .unwrap_err()
            .to_string(),
        "4 values for a matrix of 3 x 2 in nf4, which has 6"
    );
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let stored = |codes, scales| BitsAndBytes { format: Format::Nf4, block: 64, shape: [2, 64], codes, scales };
    let open = |stored| PackedWeight::from_bitsandbytes(stored, DType::F32, &Device::flex()).map(|_| ());
    let (codes, scales) = (vec![0; 64], Scales::Plain(vec![1.0; 2]));
    assert_eq!(open(stored(codes.clone(), scales.clone())), Ok(()));
    assert!(open(stored(vec![0; 63], scales)).unwrap_err().to_string().starts_with("63 bytes of codes for"));
    assert!(open(stored(codes.clone(), Scales::Plain(vec![1.0]))).is_err());
    let nested =
        |codes: usize, absmax: usize| Scales::Nested { codes: vec![0; codes], absmax: vec![0.0; absmax], offset: 1.0 };
    assert_eq!(open(stored(codes.clone(), nested(2, 1))), Ok(()));
    assert!(open(stored(codes.clone(), nested(2, 2))).is_err() && open(stored(codes.clone(), nested(1, 1))).is_err());
    let int8 = BitsAndBytes { format: Format::Int8, ..stored(vec![0; 128], nested(2, 1)) };
    assert!(open(int8).unwrap_err().to_string().ends_with("with nested scales"));
    let blocks = |bytes: usize, cols: usize| {
        let bytes = Bytes::from_bytes_vec(vec![0; bytes]);
        PackedWeight::from_blocks(Format::Q8_0, bytes, [2, cols], DType::F32, &Device::flex()).map(|_| ())
    };
    assert_eq!(blocks(2 * 2 * 34, 64), Ok(()));
    assert!(blocks(2 * 2 * 34 - 1, 64).is_err() && blocks(2 * 2 * 34, 63).is_err());
}
