//! Rows of an embedding that are trained themselves.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Rows of an embedding that are trained themselves (PEFT's `trainable_token_indices`).
#[derive(Module, Debug)]
pub struct TrainableTokens {
    /// The rows' values, `[n, hidden]`: they replace the base's, and start equal to them.
    pub rows: Param<Tensor<2>>,
    /// Which tokens they are.
    pub indices: Vec<usize>,
}

/// `weight` with the trained rows in their places.
pub(super) fn replace_rows(weight: Tensor<2>, tokens: &TrainableTokens) -> Tensor<2> {
    let [vocab, _] = weight.dims();
    let (place, trained) = row_map(vocab, tokens, &weight);
    let rows = tokens.rows.val().select(0, place);
    blend(weight, rows, trained)
}

/// The looked-up rows `y` (`[n, hidden]`) of `ids`, trained ones in the place of the base's.
pub(super) fn trained_rows(y: Tensor<2>, ids: &Tensor<1, Int>, tokens: &TrainableTokens) -> Tensor<2> {
    let last = tokens.indices.iter().max().map_or(0, |m| m + 1);
    // Ids above the last trained one all fall on one spare row of the map, which is not trained.
    let (place, trained) = row_map(last + 1, tokens, &y);
    let ids = ids.clone().clamp_max(last as i64);
    let rows = tokens.rows.val().select(0, place.select(0, ids.clone()));
    blend(y, rows, trained.select(0, ids))
}

/// For each of `n` tokens, its place among the trained rows (0 where it is not trained) and 1 where it is trained.
fn row_map(n: usize, tokens: &TrainableTokens, like: &Tensor<2>) -> (Tensor<1, Int>, Tensor<1>) {
    let (mut place, mut trained) = (vec![0_i32; n], vec![0.0_f32; n]);
    for (row, &token) in tokens.indices.iter().enumerate() {
        place[token] = row as i32;
        trained[token] = 1.0;
    }
    let device = like.device();
    (
        Tensor::from_data(TensorData::new(place, [n]), &device),
        Tensor::from_data(TensorData::new(trained, [n]), (&device, DType::F32)),
    )
}

/// `a` where `use_b` (`[n]`) is 0 and `b` where it is 1, row by row.
fn blend(a: Tensor<2>, b: Tensor<2>, use_b: Tensor<1>) -> Tensor<2> {
    let dtype = a.dtype();
    let [n, hidden] = a.dims();
    let use_b = use_b.greater_elem(0.5).reshape([n, 1]).expand([n, hidden]);
    a.mask_where(use_b, b.cast(dtype))
}
