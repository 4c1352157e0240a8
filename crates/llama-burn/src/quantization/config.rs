//! Which weights are packed and how, as Transformers' `BitsAndBytesConfig` says it.

use std::path::Path;

use burn::tensor::DType;
use fused_burn::{Format, Quantization};
use serde_json::{Value, json};

use crate::error::{LlamaError, Result};

/// Which weights of a model are packed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseQuantization {
    /// The format of the packed weights: `Nf4`, `Fp4` or `Int8`.
    pub format: Format,
    /// Values that share a scale, of the 4-bit formats.
    pub block_size: usize,
    /// Whether the scales are quantised too, of the 4-bit formats.
    pub double_quantization: bool,
    /// Modules that stay dense beside the head: whole paths, or names that are a part of them.
    pub skip_modules: Vec<String>,
}

impl BaseQuantization {
    /// In blocks of 64, as bitsandbytes does.
    pub fn new(format: Format) -> Self {
        Self { format, block_size: 64, double_quantization: false, skip_modules: Vec::new() }
    }

    /// The formats that weights can be quantised to.
    pub const FORMATS: [Format; 3] = [Format::Nf4, Format::Fp4, Format::Int8];

    /// How one weight is quantised.
    pub(crate) fn of_weight(&self) -> Quantization {
        let Self { format, block_size: block, double_quantization, .. } = *self;
        Quantization { format, block, double_quantization }
    }

    /// Whether the weight of the module at `path` is packed: a projection of a decoder layer that is not left out.
    pub fn packs(&self, path: &str) -> bool {
        path.contains(".layers.") && !self.skips(path)
    }

    /// Bytes of a packed matrix of that shape, scales included; `None` for a block size that there is not.
    pub fn num_bytes(&self, shape: [usize; 2]) -> Option<usize> {
        let layout = self.of_weight().layout(shape, DType::F32).ok()?;
        Some(layout.num_bytes() + layout.num_scales() * DType::F32.size())
    }

    /// Whether the module at `path` is one of those that are left out.
    fn skips(&self, path: &str) -> bool {
        let names = self.skip_modules.iter().map(String::as_str).chain(["lm_head"]);
        let dotted = format!(".{path}.");
        names.filter(|name| !name.is_empty()).any(|name| dotted.contains(&format!(".{name}.")))
    }

    /// The `quantization_config` of the `config.json` in `dir`, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read, and another method than bitsandbytes: every problem at once.
    pub fn of_dir(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = dir.as_ref().join("config.json");
        let text = std::fs::read(&path).map_err(LlamaError::io(&path))?;
        let json: Value = serde_json::from_slice(&text).map_err(LlamaError::json(&path))?;
        match json.get("quantization_config").filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => Self::from_json(value).map(Some).map_err(|problems| {
                let problems = problems.iter().map(|p| format!("quantization_config: {p}")).collect();
                LlamaError::Config { path, problems }
            }),
        }
    }

    /// Reads a `quantization_config`.
    ///
    /// # Errors
    /// Everything in it that is not supported.
    pub(crate) fn from_json(json: &Value) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let flag = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(false);
        let (four, eight) = (flag("load_in_4bit"), flag("load_in_8bit"));
        let method = json.get("quant_method").and_then(Value::as_str);
        match method {
            Some("bitsandbytes") => {}
            None if four || eight => {}
            Some(other) => problems.push(format!(
                "quant_method is {other:?}, and only \"bitsandbytes\" is read; take the original checkpoint, and \
                 quantise it when it is loaded"
            )),
            None => problems.push("it names no quant_method".to_owned()),
        }
        let kind = json.get("bnb_4bit_quant_type").and_then(Value::as_str).unwrap_or("fp4");
        let format = match (four, eight, kind) {
            (true, true, _) => {
                problems.push("load_in_4bit and load_in_8bit are both true".to_owned());
                Format::Nf4
            }
            (_, true, _) => Format::Int8,
            (_, _, "nf4") => Format::Nf4,
            (_, _, "fp4") => Format::Fp4,
            (_, _, other) => {
                problems.push(format!("bnb_4bit_quant_type is {other:?}; nf4 and fp4 are known"));
                Format::Nf4
            }
        };
        if problems.is_empty() && !four && !eight {
            problems.push("neither load_in_4bit nor load_in_8bit is true".to_owned());
        }
        let storage = json.get("bnb_4bit_quant_storage").and_then(Value::as_str).unwrap_or("uint8");
        if four && storage != "uint8" {
            problems.push(format!("bnb_4bit_quant_storage is {storage:?}; only \"uint8\" is read"));
        }
        if flag("llm_int8_has_fp16_weight") {
            problems.push("llm_int8_has_fp16_weight is true, and only packed weights are supported".to_owned());
        }
        let skipped = json.get("llm_int8_skip_modules").and_then(Value::as_array);
        let skipped = skipped.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            format,
            block_size: 64,
            double_quantization: four && flag("bnb_4bit_use_double_quant"),
            skip_modules: skipped.collect(),
        })
    }

    /// As Transformers writes it, for weights that are decoded to `dtype`.
    pub(crate) fn to_json(&self, dtype: DType) -> Value {
        let compute = match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        let four = self.format != Format::Int8;
        let skipped = (!self.skip_modules.is_empty()).then(|| {
            let mut all = self.skip_modules.clone();
            all.push("lm_head".to_owned());
            all
        });
        json!({
            "_load_in_4bit": four,
            "_load_in_8bit": !four,
            "bnb_4bit_compute_dtype": compute,
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": if self.format == Format::Nf4 { "nf4" } else { "fp4" },
            "bnb_4bit_use_double_quant": self.double_quantization,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": skipped,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": four,
            "load_in_8bit": !four,
            "quant_method": "bitsandbytes",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let skip_modules = vec!["down_proj".to_owned()];
        for format in BaseQuantization::FORMATS {
            let double_quantization = format != Format::Int8;
            let own = BaseQuantization {
                double_quantization,
                skip_modules: skip_modules.clone(),
                ..BaseQuantization::new(format)
            };
            let again = BaseQuantization::from_json(&own.to_json(DType::BF16)).unwrap();
            assert_eq!((again.format, again.double_quantization), (format, double_quantization));
            assert!(again.skips("model.layers.0.mlp.down_proj") && again.skips("lm_head"));
            assert!(!again.skips("model.layers.0.mlp.up_proj"));
        }
    }

    #[test]
    fn another_method_is_refused_with_the_way_out() {
        let problems = BaseQuantization::from_json(&json!({"quant_method": "gptq", "bits": 4})).unwrap_err().join("; ");
        assert!(problems.contains("\"gptq\"") && problems.contains("original checkpoint"), "{problems}");
        let both = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": true,
            "bnb_4bit_quant_storage": "bfloat16"});
        assert_eq!(BaseQuantization::from_json(&both).unwrap_err().len(), 2);
    }

    #[test]
    fn names_of_modules_are_whole_parts_of_a_path() {
        let own = BaseQuantization {
            skip_modules: ["layers.1", "o_proj", "model.layers.0.mlp"].map(str::to_owned).into(),
            ..BaseQuantization::new(Format::Nf4)
        };
        for (path, skipped) in [
            ("model.layers.1.mlp.up_proj", true),
            ("model.layers.11.mlp.up_proj", false),
            ("model.layers.3.self_attn.o_proj", true),
            ("model.layers.0.mlp.gate_proj", true),
            ("model.layers.0.self_attn.q_proj", false),
        ] {
            assert_eq!(own.skips(path), skipped, "{path}");
        }
    }
}
