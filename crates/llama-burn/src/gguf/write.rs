//! GGUF files as llama.cpp reads them: metadata, then tensors one after another.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};

use super::dequantise::Kind;
use super::value::Value;
use crate::error::{LlamaError, Result};

/// Where tensors begin: at multiples of this.
const ALIGNMENT: usize = 32;
/// Numbers in a block of Q8_0.
const BLOCK: usize = 32;

/// A tensor that will be written.
pub(super) struct Planned {
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    pub kind: Kind,
}

impl Planned {
    /// A tensor of the type `kind`, or one that its shape allows: vectors are not rounded, as in llama.cpp.
    pub fn new(name: String, shape: Vec<usize>, kind: Kind) -> Self {
        let width = shape.last().copied().unwrap_or(1);
        let kind = match kind {
            _ if shape.len() < 2 => Kind::F32,
            Kind::Q8_0 if !width.is_multiple_of(BLOCK) => Kind::F16,
            kind => kind,
        };
        Self { name, shape, kind }
    }

    fn bytes(&self) -> usize {
        let (block, size) = self.kind.block();
        self.shape.iter().product::<usize>() / block * size
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The number of a value's type in a file.
fn kind_of(value: &Value) -> u32 {
    match value {
        Value::Unsigned(n) => {
            if u32::try_from(*n).is_ok() {
                4
            } else {
                10
            }
        }
        Value::Signed(n) => {
            if i32::try_from(*n).is_ok() {
                5
            } else {
                11
            }
        }
        Value::Float(_) => 6,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::List(_) => 9,
    }
}

/// Writes `value` as the type `kind`.
fn value(bytes: &mut Vec<u8>, value: &Value, kind: u32) {
    match value {
        Value::Unsigned(n) if kind == 4 => bytes.extend((*n as u32).to_le_bytes()),
        Value::Unsigned(n) => bytes.extend(n.to_le_bytes()),
        Value::Signed(n) if kind == 5 => bytes.extend((*n as i32).to_le_bytes()),
        Value::Signed(n) => bytes.extend(n.to_le_bytes()),
        Value::Float(x) => bytes.extend((*x as f32).to_le_bytes()),
        Value::Bool(flag) => bytes.push(u8::from(*flag)),
        Value::Text(said) => text(bytes, said),
        Value::List(list) => {
            let kind = list.iter().map(kind_of).max().unwrap_or(4);
            bytes.extend(kind.to_le_bytes());
            bytes.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|entry| self::value(bytes, entry, kind));
        }
    }
}

/// Writes a file. `numbers` gives each planned tensor's numbers, row after row, when its turn comes.
///
/// # Errors
/// A file that cannot be written; it is then as it was.
pub(super) fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Planned],
    mut numbers: impl FnMut(usize) -> Vec<f32>,
) -> Result<()> {
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, entry) in metadata {
        text(&mut header, key);
        let kind = kind_of(entry);
        header.extend(kind.to_le_bytes());
        value(&mut header, entry, kind);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|n| header.extend((*n as u64).to_le_bytes()));
        header.extend(tensor.kind.id().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part"));
    let written = (|| {
        let mut out = BufWriter::new(File::create(&part)?);
        out.write_all(&header)?;
        for (i, tensor) in tensors.iter().enumerate() {
            let mut bytes = narrow(&numbers(i), tensor.kind);
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            out.write_all(&bytes)?;
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part, path)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&part);
    }
    written.map_err(LlamaError::io(path))
}

/// The bytes of numbers as the type `kind`, which is one of those that [`Planned::new`] leaves.
fn narrow(values: &[f32], kind: Kind) -> Vec<u8> {
    match kind {
        Kind::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Kind::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        Kind::Q8_0 => values.chunks(BLOCK).flat_map(q8_0).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// A block of Q8_0, as ggml's reference makes it.
fn q8_0(block: &[f32]) -> Vec<u8> {
    let d = block.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut bytes = f16::from_f32(d).to_le_bytes().to_vec();
    bytes.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_is_within_half_a_step() {
        let values: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * (i / 32) as f32).collect();
        let bytes = narrow(&values, Kind::Q8_0);
        assert_eq!(bytes.len(), 3 * 34);
        for (i, (found, value)) in Kind::Q8_0.widen(&bytes).iter().zip(&values).enumerate() {
            let most = values[i / 32 * 32..][..32].iter().fold(0.0f32, |most, v| most.max(v.abs()));
            // Half a step, and the rounding of the scale to 11 bits.
            assert!((found - value).abs() <= most * (0.5 / 127.0 + 1.0 / 2048.0), "{i}: {found} {value}");
        }
        // Ties go away from zero, as in ggml: 0.5 steps of 1.
        let mut tie = [0.0f32; 32];
        (tie[0], tie[1], tie[2]) = (127.0, 0.5, -0.5);
        assert_eq!(narrow(&tie, Kind::Q8_0)[2..5], [127, 1, 255]);
    }

    #[test]
    fn vectors_and_odd_rows_are_not_quantised() {
        let kind = |shape: &[usize]| Planned::new("t".into(), shape.to_vec(), Kind::Q8_0).kind;
        assert_eq!([kind(&[64]), kind(&[2, 40]), kind(&[2, 64])], [Kind::F32, Kind::F16, Kind::Q8_0]);
    }
}
