//! A base in bf16 or f16: adapters stay f32.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, FloatDType};
use llama_burn::Llama;
use peft_burn::{AdapterFiles, PeftConfig, PeftModel};
use peft_burn_workspace::{Inputs, device, golden, loss, relative_error, tensors};
use rstest::rstest;

use crate::combine::pairs;

#[rstest]
fn bf16_base(#[values("lora", "dora", "vera", "adalora", "ia3")] name: &str) {
    if !device().supports_dtype(DType::BF16) {
        return;
    }
    let oracle = tensors(&golden("x_bf16/oracle.safetensors"));
    let exact = &tensors(&golden(name).join("forward.safetensors"))["logits"];
    let peft = &oracle[&format!("{name}.logits")];
    let mut model = Llama::from_dir(golden("base"), Some(FloatDType::BF16), &device()).unwrap();
    model.load_adapter(&golden(name).join("adapter"), "default", false).unwrap();
    for (key, param) in model.adapter_params("default").unwrap() {
        assert_eq!(param.to_data().dtype(), DType::F32, "{key}");
    }
    let logits = model.forward(&Inputs::load().input()).into_data();
    assert_eq!(logits.dtype(), DType::BF16);
    // Both round at every step, each at its own places: we may be as far from the exact logits as PEFT is, and from PEFT
    // as far as two independent errors of that size lie apart, its square root of two.
    let rounding = relative_error(peft, exact);
    let (to_exact, to_peft) = (relative_error(&logits, exact), relative_error(&logits, peft));
    assert!(to_exact <= 1.25 * rounding, "{to_exact:.2e} from exact, PEFT {rounding:.2e}");
    assert!(
        to_peft <= rounding * std::f64::consts::SQRT_2,
        "{to_peft:.2e} from PEFT, which is {rounding:.2e} from exact"
    );

    let original = model.named_weights();
    model.merge_adapters(&["default"], true).unwrap();
    let weights: BTreeMap<_, _> = model.named_weights().into_iter().collect();
    let merged = &weights["model.layers.0.self_attn.v_proj.weight"];
    assert_eq!(merged, &oracle[&format!("{name}.merged_v0")], "merged in f32 and rounded once, as PEFT's");

    // PEFT subtracts what it added, and the rounding stays in more than half of the entries.
    model.unmerge_adapters();
    assert_eq!(model.named_weights(), original);
    assert_eq!(model.forward(&Inputs::load().input()).into_data(), logits);
}

/// PEFT rounds the pair to the base's dtype.
#[test]
fn veras_pair_is_the_same_on_a_bf16_base() {
    if !device().supports_dtype(DType::BF16) {
        return;
    }
    let oracle = tensors(&golden("x_vera_noproj/projection_oracle.safetensors"));
    let mut model = Llama::from_dir(golden("base"), Some(FloatDType::BF16), &device()).unwrap();
    let (config, _) = PeftConfig::from_dir(golden("x_vera_noproj/adapter")).unwrap();
    model.add_adapter("default", &config, 1).unwrap();
    let [a, b] = pairs(&model).remove("default").unwrap();
    assert_eq!((a.dtype(), b.dtype()), (DType::F32, DType::F32));
    assert_eq!(a.as_bytes(), oracle["vera_A"].as_bytes());
    assert_eq!(b.as_bytes(), oracle["vera_B"].as_bytes());
}

/// The gradients of all trained parameters, one after another.
fn gradients(model: Llama) -> Vec<f64> {
    let model = model.train();
    let inputs = Inputs::load();
    let grads = GradientsParams::from_grads(loss(&model, &inputs.ids, &inputs.labels).backward(), &model);
    let params = model.adapter_params("default").unwrap();
    let values = params.iter().filter_map(|(_, param)| param.grad(&grads));
    values.flat_map(|grad| grad.iter::<f64>().collect::<Vec<_>>()).collect()
}

/// f16 has three more bits than bf16: eight times nearer to the exact logits than PEFT's bf16 model is.
#[rstest]
fn f16_base(#[values("lora", "dora", "vera", "adalora", "ia3")] name: &str) {
    if !device().supports_dtype(DType::F16) {
        return;
    }
    let exact = &tensors(&golden(name).join("forward.safetensors"))["logits"];
    let mut model = Llama::from_dir(golden("base"), Some(FloatDType::F16), &device()).unwrap();
    model.load_adapter(&golden(name).join("adapter"), "default", false).unwrap();
    let logits = model.forward(&Inputs::load().input()).into_data();
    assert_eq!(logits.dtype(), DType::F16);
    let peft = &tensors(&golden("x_bf16/oracle.safetensors"))[&format!("{name}.logits")];
    let rounding = relative_error(peft, exact) / 8.0;
    let off = relative_error(&logits, exact);
    assert!(off <= 1.25 * rounding, "{off:.2e} from exact, {rounding:.2e} expected");

    let original = model.named_weights();
    model.merge_adapters(&["default"], true).unwrap();
    let merged = relative_error(&model.forward(&Inputs::load().input()).into_data(), exact);
    assert!(merged <= 1.25 * rounding, "{merged:.2e} from exact when merged, {rounding:.2e} expected");
    model.unmerge_adapters();
    assert_eq!(model.named_weights(), original);
}

/// Rounding on the way, and nothing else, keeps the gradients from those in f32 of the same weights.
#[rstest]
fn half_gradients_are_those_of_f32(
    #[values("lora", "dora", "vera", "adalora", "ia3", "loha")] name: &str,
    #[values(FloatDType::BF16, FloatDType::F16)] dtype: FloatDType,
) {
    if !device().supports_dtype(DType::from(dtype)) {
        return;
    }
    let rounded = tempfile::tempdir().unwrap();
    Llama::from_dir(golden("base"), Some(dtype), &device()).unwrap().save(rounded.path(), None).unwrap();
    let [half, single] = [dtype, FloatDType::F32].map(|dtype| {
        let mut model = Llama::from_dir(rounded.path(), Some(dtype), &device()).unwrap();
        model.load_adapter(&golden(name).join("adapter"), "default", true).unwrap();
        gradients(model)
    });
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut half.iter().zip(&single).map(|(a, b)| a - b)) / norm(&mut single.iter().copied());
    assert!(!single.is_empty() && difference <= 1e-2, "{name}: {difference:.2e} of the gradients' norm");
}
