//! GGUF files as llama.cpp reads them: metadata, then tensors one after another.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::dequantise::Kind;
use super::value::Value;
use crate::error::{LlamaError, Result};

/// Where tensors begin: at multiples of this.
const ALIGNMENT: usize = 32;

/// A tensor that will be written.
pub(super) struct Planned {
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    pub kind: Kind,
}

impl Planned {
    /// A tensor of the type `kind`, or of one that its shape allows, as llama.cpp chooses it: vectors are not rounded, and
    /// rows that no whole blocks make up are stored in smaller blocks, or in none.
    pub fn new(name: String, shape: Vec<usize>, kind: Kind) -> Self {
        let width = shape.last().copied().unwrap_or(1);
        let fits = |kind: Kind| width.is_multiple_of(kind.block().0);
        let smaller = match kind {
            Kind::Q4_K => Kind::Q5_0,
            Kind::Q5_K => Kind::Q5_1,
            Kind::Q6_K => Kind::Q8_0,
            other => other,
        };
        let kind = match kind {
            _ if shape.len() < 2 => Kind::F32,
            kind if fits(kind) => kind,
            _ if fits(smaller) => smaller,
            _ => Kind::F16,
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
            let mut bytes = tensor.kind.narrow(&numbers(i)).map_err(std::io::Error::other)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_has_the_type_that_llama_cpp_gives_it() {
        let kind = |shape: &[usize], kind| Planned::new("t".into(), shape.to_vec(), kind).kind;
        let shapes: [&[usize]; 4] = [&[256], &[2, 40], &[2, 96], &[2, 256]];
        for (wanted, expected) in [
            (Kind::Q8_0, [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q8_0]),
            (Kind::Q4_K, [Kind::F32, Kind::F16, Kind::Q5_0, Kind::Q4_K]),
            (Kind::Q5_K, [Kind::F32, Kind::F16, Kind::Q5_1, Kind::Q5_K]),
            (Kind::Q6_K, [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q6_K]),
            (Kind::BF16, [Kind::F32, Kind::BF16, Kind::BF16, Kind::BF16]),
        ] {
            assert_eq!(shapes.map(|shape| kind(shape, wanted)), expected, "{wanted:?}");
        }
    }
}
