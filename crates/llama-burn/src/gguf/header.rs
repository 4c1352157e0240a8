//! The header of a GGUF file: metadata, and where each tensor lies.

use std::collections::BTreeMap;

use super::dequantise::Kind;
use super::value::{Bytes, Problem, Value};

/// A tensor of the file.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    /// As Transformers has it: rows first. The file has the dimensions the other way round.
    pub shape: Vec<usize>,
    pub kind: Kind,
    /// From the beginning of the file.
    pub start: usize,
    pub bytes: usize,
}

/// The part of a file before its tensors.
#[derive(Debug)]
pub(crate) struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Info>,
}

/// The most dimensions that ggml has.
const DIMENSIONS: u32 = 4;
/// Where tensors begin, unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// A tensor as the header has it, before it is known where tensors begin.
struct Entry {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

pub(super) fn read(file: &[u8]) -> Result<Header, Problem> {
    let mut bytes = Bytes::new(file);
    if bytes.take(4, "the magic number")? != b"GGUF" {
        return Err("it does not begin with GGUF".into());
    }
    let version = bytes.u32("the version")?;
    match version {
        2 | 3 => {}
        1 => return Err("it is of version 1, which llama.cpp does not read any more; convert the model again".into()),
        _ if version.swap_bytes() <= 3 => return Err("its numbers are big-endian; convert the model again".into()),
        _ => return Err(format!("it is of version {version}; 2 and 3 are known")),
    }
    let (tensors, values) = (bytes.u64("the number of tensors")?, bytes.u64("the number of values")?);
    // The least that each of them takes: a name's length, and a type and a value, or dimensions, a type and an offset.
    for (count, least, what) in [(values, 13, "values"), (tensors, 24, "tensors")] {
        if count > bytes.left() as u64 / least {
            return Err(format!("it names {count} {what}, and {} bytes are left", bytes.left()));
        }
    }
    let mut metadata = BTreeMap::new();
    for _ in 0..values {
        let key = bytes.text("a key")?;
        let kind = bytes.u32(&key)?;
        let value = bytes.value(kind, &key, 0)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    let mut entries = Vec::new();
    for _ in 0..tensors {
        let name = bytes.text("the name of a tensor")?;
        let n = bytes.u32(&name)?;
        if n == 0 || n > DIMENSIONS {
            return Err(format!("{name} has {n} dimensions; 1 to {DIMENSIONS} are possible"));
        }
        let dims = (0..n).map(|_| bytes.u64(&name)).collect::<Result<_, _>>()?;
        entries.push(Entry { name: name.clone(), dims, kind: bytes.u32(&name)?, offset: bytes.u64(&name)? });
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => value
            .as_u64()
            .filter(|n| n.is_power_of_two() && *n <= 1 << 20)
            .ok_or_else(|| format!("general.alignment is {value:?}; it is a power of two, up to a million"))?,
    };
    let data = bytes.at.next_multiple_of(alignment as usize);
    let tensors = place(entries, data, alignment, file.len())?;
    Ok(Header { metadata, tensors })
}

/// Where tensors lie: within the file, aligned, and none on another.
fn place(entries: Vec<Entry>, data: usize, alignment: u64, end: usize) -> Result<BTreeMap<String, Info>, Problem> {
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for Entry { name, dims, kind, offset } in entries {
        let kind = Kind::of(kind)
            .ok_or_else(|| format!("{name} is of the type {kind}; those that are read: {}", Kind::names()))?;
        let numbers = dims.iter().try_fold(1u64, |all, n| all.checked_mul(*n)).filter(|n| *n > 0);
        let (block, size) = kind.block();
        let bytes = numbers.and_then(|n| (n / block as u64).checked_mul(size as u64));
        let Some(bytes) = bytes else { return Err(format!("{name} has the impossible shape {dims:?}")) };
        if !dims[0].is_multiple_of(block as u64) {
            return Err(format!("{name} has rows of {}, and {} comes in blocks of {block}", dims[0], kind.name()));
        }
        if !offset.is_multiple_of(alignment) {
            return Err(format!("{name} begins at {offset}, which is no multiple of {alignment}"));
        }
        let range = (data as u64).checked_add(offset).and_then(|start| Some((start, start.checked_add(bytes)?)));
        let Some((start, stop)) = range.filter(|(_, stop)| *stop <= end as u64) else {
            return Err(format!("{name} reaches beyond the end of the file, which is cut off or broken"));
        };
        ranges.push((start, stop, name.clone()));
        let shape = dims.iter().rev().map(|n| *n as usize).collect();
        let info = Info { shape, kind, start: start as usize, bytes: bytes as usize };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    ranges.sort();
    for pair in ranges.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(format!("{} and {} lie on each other", pair[0].2, pair[1].2));
        }
    }
    Ok(tensors)
}
