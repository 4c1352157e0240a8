//! The Llama model itself.

use peft_burn_workspace::{Inputs, assert_close, base, golden, loss, tensors};
use rstest::rstest;

#[rstest]
#[case("base")]
#[case("base_bias")]
fn logits_loss_and_hidden_states(#[case] name: &str) {
    let (model, inputs) = (base(name), Inputs::load());
    let expected = tensors(&golden(&format!("{name}_out.safetensors")));
    assert_close("logits", &model.forward(&inputs.input()).into_data(), &expected["logits"], 1e-5);
    assert_close("masked logits", &model.forward(&inputs.masked()).into_data(), &expected["logits_masked"], 1e-5);
    assert_close("loss", &loss(&model, &inputs.ids, &inputs.labels).into_data(), &expected["loss"], 1e-5);
    for (i, hidden) in model.hidden_states(&inputs.input()).into_iter().enumerate() {
        assert_close(&format!("hidden {i}"), &hidden.into_data(), &expected[&format!("hidden.{i}")], 1e-5);
    }
}
