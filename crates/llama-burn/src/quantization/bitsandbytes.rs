//! Weights as bitsandbytes lays them into a checkpoint: codes under the weight's own name, and beside them what they mean.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, Device, TensorData};
use fused_burn::{BitsAndBytes, Format, PackedWeight, Scales};
use peft_burn::tensor_file::TensorFile;
use serde_json::{Value, json};

use crate::error::{LlamaError, Result};

/// The end of the name of a 4-bit weight's description, before the name of its format.
const STATE: &str = ".quant_state.bitsandbytes__";
/// Tensors beside a 4-bit weight.
const BESIDE: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
/// The scales of an 8-bit weight, in the place of `weight`, and a note of how its codes lie.
const ROWS: [&str; 2] = ["SCB", "weight_format"];

/// A packed weight of a checkpoint.
#[derive(Clone, Debug)]
struct Stored {
    format: Format,
    block: usize,
    shape: [usize; 2],
    /// The dtype of decoded values, if the file has one.
    dtype: Option<DType>,
    /// Of nested scales.
    offset: Option<f32>,
}

/// The packed weights of a checkpoint, by their names, and the tensors that belong to them.
#[derive(Debug, Default)]
pub(crate) struct StoredWeights {
    weights: BTreeMap<String, Stored>,
    beside: BTreeSet<String>,
}

impl StoredWeights {
    /// Finds them among the tensors `names`, whose files `file_of` knows.
    ///
    /// # Errors
    /// Descriptions that cannot be read, or that do not fit their tensors: all of them.
    pub fn find<'a>(names: &[&'a str], file_of: impl Fn(&str) -> Option<&'a TensorFile>) -> Result<Self> {
        let mut found = Self::default();
        let mut problems: BTreeMap<&std::path::Path, Vec<String>> = BTreeMap::new();
        for &name in names {
            let Some(file) = file_of(name) else { continue };
            let stored = if let Some((weight, kind)) = name.split_once(STATE) {
                Some((weight.to_owned(), described(file, name, kind)))
            } else if let Some(module) = name.strip_suffix(ROWS[0]).filter(|module| module.ends_with('.')) {
                let weight = format!("{module}weight");
                let rows = rows(file_of(&weight), &weight);
                Some((weight, rows))
            } else {
                None
            };
            let Some((weight, stored)) = stored else { continue };
            match stored {
                Ok(stored) => {
                    let module = weight.strip_suffix("weight").unwrap_or(&weight);
                    found.beside.extend(BESIDE.iter().map(|end| format!("{weight}{end}")));
                    found.beside.extend(ROWS.iter().map(|end| format!("{module}{end}")));
                    found.beside.insert(name.to_owned());
                    found.weights.insert(weight, stored);
                }
                Err(problem) => problems.entry(file.path()).or_default().push(format!("{name}: {problem}")),
            }
        }
        match problems.into_iter().next() {
            None => Ok(found),
            Some((path, problems)) => Err(LlamaError::Weights { path: path.to_owned(), message: problems.join("; ") }),
        }
    }

    /// Whether the tensor belongs to a packed weight.
    pub fn is_beside(&self, name: &str) -> bool {
        self.beside.contains(name)
    }

    /// The shape that a packed weight's values have.
    pub fn shape(&self, weight: &str) -> Option<&[usize]> {
        self.weights.get(weight).map(|stored| stored.shape.as_slice())
    }

    /// The format of a packed weight.
    pub fn format(&self, weight: &str) -> Option<Format> {
        self.weights.get(weight).map(|stored| stored.format)
    }

    /// The names of what lies beside a packed weight in its file.
    pub fn parts(&self, weight: &str) -> Vec<String> {
        let module = weight.strip_suffix("weight").unwrap_or(weight);
        let ends = BESIDE.iter().map(|end| format!("{weight}{end}"));
        ends.chain([format!("{module}{}", ROWS[0])]).collect()
    }

    /// A packed weight; decoded values are rounded to `dtype`, or to what the file says. `None` of one that is not packed.
    ///
    /// # Errors
    /// Tensors that are missing or of other sizes.
    pub fn read<'a>(
        &self,
        weight: &str,
        file_of: impl Fn(&str) -> Option<&'a TensorFile>,
        dtype: Option<DType>,
        device: &Device,
    ) -> Result<Option<PackedWeight>> {
        let Some(stored) = self.weights.get(weight) else { return Ok(None) };
        let data = |name: &str| -> Result<TensorData> {
            let missing = || LlamaError::MissingFiles { files: vec![name.to_owned()] };
            Ok(file_of(name).ok_or_else(missing)?.read(name)?)
        };
        let bytes = |name: &str| -> Result<Vec<u8>> { Ok(data(name)?.as_bytes().to_vec()) };
        let floats = |name: &str| -> Result<Vec<f32>> { Ok(data(name)?.convert_dtype(DType::F32).iter().collect()) };
        let scales = match (stored.format, stored.offset) {
            (Format::Int8, _) => {
                Scales::Plain(floats(&format!("{}{}", weight.strip_suffix("weight").unwrap_or(weight), ROWS[0]))?)
            }
            (_, None) => Scales::Plain(floats(&format!("{weight}.absmax"))?),
            (_, Some(offset)) => {
                let map = floats(&format!("{weight}.nested_quant_map"))?;
                if map != Format::nested_values() {
                    return Err(broken(&file_of, weight, "its nested_quant_map is not bitsandbytes' dynamic map"));
                }
                let (codes, absmax) =
                    (bytes(&format!("{weight}.absmax"))?, floats(&format!("{weight}.nested_absmax"))?);
                Scales::Nested { codes, absmax, offset }
            }
        };
        if let Some(values) = stored.format.values()
            && floats(&format!("{weight}.quant_map"))? != values
        {
            let message = format!("its quant_map is not the one of {}", stored.format.name());
            return Err(broken(&file_of, weight, &message));
        }
        let whole = BitsAndBytes {
            format: stored.format,
            block: stored.block,
            shape: stored.shape,
            codes: bytes(weight)?,
            scales,
        };
        let dtype = dtype.or(stored.dtype).unwrap_or(DType::F32);
        let made = PackedWeight::from_bitsandbytes(whole, dtype, device);
        made.map(Some).map_err(|error| broken(&file_of, weight, &error.to_string()))
    }
}

fn broken<'a>(file_of: &impl Fn(&str) -> Option<&'a TensorFile>, name: &str, message: &str) -> LlamaError {
    let path = file_of(name).map(|file| file.path().to_owned()).unwrap_or_default();
    LlamaError::Weights { path, message: format!("{name}: {message}") }
}

/// A 4-bit weight, by its description.
fn described(file: &TensorFile, name: &str, kind: &str) -> Result<Stored, String> {
    let format = match kind {
        "nf4" => Format::Nf4,
        "fp4" => Format::Fp4,
        other => return Err(format!("the format {other:?} is not supported (nf4 and fp4 are)")),
    };
    let data = file.read(name).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_slice(data.as_bytes()).map_err(|error| format!("it is no JSON: {error}"))?;
    let number = |key: &str| json.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let sizes = json.get("shape").and_then(Value::as_array);
    let sizes: Option<Vec<usize>> =
        sizes.and_then(|sizes| sizes.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect());
    let Some(&[rows, cols]) = sizes.as_deref() else { return Err("it has no shape of two sizes".to_owned()) };
    let block = number("blocksize").ok_or("it has no blocksize")?;
    if rows.checked_mul(cols).is_none() || block == 0 {
        return Err("its sizes are out of range".to_owned());
    }
    let nested = json.get("nested_blocksize").is_some();
    if nested && number("nested_blocksize") != Some(256) {
        return Err("its nested_blocksize is not 256".to_owned());
    }
    let offset = json.get("nested_offset").and_then(Value::as_f64).map(|offset| offset as f32);
    let dtype = match json.get("dtype").and_then(Value::as_str) {
        Some("bfloat16") => Some(DType::BF16),
        Some("float16") => Some(DType::F16),
        Some("float32") => Some(DType::F32),
        _ => None,
    };
    Ok(Stored { format, block, shape: [rows, cols], dtype, offset: nested.then_some(offset.unwrap_or_default()) })
}

/// An 8-bit weight, by its codes.
fn rows(file: Option<&TensorFile>, weight: &str) -> Result<Stored, String> {
    let file = file.ok_or("its weight is missing")?;
    match (file.dtype(weight).as_deref(), file.shape(weight)) {
        (Some("I8"), Some(&[rows, cols])) => {
            Ok(Stored { format: Format::Int8, block: cols, shape: [rows, cols], dtype: None, offset: None })
        }
        (dtype, shape) => Err(format!("its weight is {dtype:?} of the shape {shape:?}, expected I8 of two sizes")),
    }
}

/// The tensors of a packed weight in a checkpoint. `None` of a format that bitsandbytes does not have.
pub(crate) fn tensors_of(weight: &str, packed: &PackedWeight) -> Option<Vec<(String, TensorData)>> {
    let BitsAndBytes { format, block, shape: [rows, cols], codes, scales } = packed.to_bitsandbytes()?;
    let number = codes.len();
    let bytes = |values: Vec<u8>, shape: Vec<usize>| TensorData::from_bytes_vec(values, shape, DType::U8);
    let floats = |values: &[f32]| TensorData::new(values.to_vec(), [values.len()]);
    let module = weight.strip_suffix("weight").unwrap_or(weight);
    let Some(values) = format.values() else {
        let Scales::Plain(scales) = scales else { return None };
        return Some(vec![
            (weight.to_owned(), TensorData::from_bytes_vec(codes, vec![rows, cols], DType::I8)),
            (format!("{module}{}", ROWS[0]), floats(&scales)),
            (format!("{module}{}", ROWS[1]), TensorData::from_bytes_vec(vec![0], Vec::<usize>::new(), DType::U8)),
        ]);
    };
    let dtype = match packed.layout().dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    let mut state = json!({"quant_type": format.name(), "blocksize": block, "dtype": dtype, "shape": [rows, cols]});
    let mut all =
        vec![(weight.to_owned(), bytes(codes, vec![number, 1])), (format!("{weight}.quant_map"), floats(values))];
    match scales {
        Scales::Plain(scales) => all.push((format!("{weight}.absmax"), floats(&scales))),
        Scales::Nested { codes, absmax, offset } => {
            let number = codes.len();
            all.push((format!("{weight}.absmax"), bytes(codes, vec![number])));
            all.push((format!("{weight}.nested_absmax"), floats(&absmax)));
            all.push((format!("{weight}.nested_quant_map"), floats(Format::nested_values())));
            state["nested_blocksize"] = json!(256);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(offset);
        }
    }
    let state = state.to_string().into_bytes();
    let length = state.len();
    all.push((format!("{weight}{STATE}{}", format.name()), bytes(state, vec![length])));
    Some(all)
}
