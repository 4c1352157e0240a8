//! Rows of a matrix that are trained themselves, in the place of the base's.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor, TensorData};
use fused_burn::Weight;

use super::named_adapters::indices;

/// PEFT's name for them on disk, after the module's path.
pub(crate) const TRAINED_ROWS: &str = "token_adapter.trainable_tokens_delta";

/// PEFT's name for the matrix that trained rows belong to, after the module's path.
pub(crate) const OWN_VOCABULARY: &str = "token_adapter.base_layer.weight";

/// Rows of an embedding or a head that are trained themselves (PEFT's `trainable_token_indices`).
#[derive(Module, Debug)]
pub struct TrainableTokens {
    /// The rows' values, `[n, hidden]`: they replace the base's, and start equal to them.
    pub rows: Param<Tensor<2>>,
    /// Which tokens they are.
    pub indices: Vec<usize>,
}

impl TrainableTokens {
    /// Trained rows of `weight` (`[vocab, hidden]`).
    pub fn of(weight: &Weight, indices: Vec<usize>) -> Self {
        let ids = self::indices(indices.iter().map(|&i| i as i32).collect(), &weight.device());
        Self { rows: Param::from_tensor(weight.select(ids).detach().cast(DType::F32)), indices }
    }

    /// `weight` (`[vocab, hidden]`) with the rows in their places.
    pub(crate) fn put_into(&self, weight: Tensor<2>) -> Tensor<2> {
        let [vocab, _] = weight.dims();
        let (place, trained) = self.map(vocab, &weight);
        let rows = self.rows.val().select(0, place);
        blend(weight, rows, trained)
    }

    /// The looked-up rows `y` (`[n, hidden]`) of `ids`, trained ones in the place of the base's.
    pub(crate) fn put_into_rows_of(&self, y: Tensor<2>, ids: &Tensor<1, Int>) -> Tensor<2> {
        let last = self.indices.iter().max().map_or(0, |m| m + 1);
        // Ids above the last trained one all fall on one spare row of the map, which is not trained.
        let (place, trained) = self.map(last + 1, &y);
        let ids = ids.clone().clamp_max(last as i64);
        let rows = self.rows.val().select(0, place.select(0, ids.clone()));
        blend(y, rows, trained.select(0, ids))
    }

    /// For each of `n` tokens, its place among the trained rows (0 where it is not trained) and 1 where it is trained.
    fn map(&self, n: usize, like: &Tensor<2>) -> (Tensor<1, Int>, Tensor<1>) {
        let (mut place, mut trained) = (vec![0_i32; n], vec![0.0_f32; n]);
        for (row, &token) in self.indices.iter().enumerate() {
            place[token] = row as i32;
            trained[token] = 1.0;
        }
        let device = like.device();
        (
            Tensor::from_data(TensorData::new(place, [n]), &device),
            Tensor::from_data(TensorData::new(trained, [n]), (&device, DType::F32)),
        )
    }
}

/// The parameters that an adapter only brings: the matrix of its trained rows, or (`frozen`) a copy that is used as it is.
pub(crate) fn never_trained(has_tokens: bool, frozen: bool) -> &'static [&'static str] {
    match (has_tokens, frozen) {
        (true, _) => &[OWN_VOCABULARY],
        (false, true) => &["weight", "bias"],
        (false, false) => &[],
    }
}

/// PEFT's name for the whole matrix that an adapter brings.
pub(crate) fn own_name(has_tokens: bool) -> &'static str {
    if has_tokens { OWN_VOCABULARY } else { "weight" }
}

/// `a` where `use_b` (`[n]`) is 0 and `b` where it is 1, row by row.
fn blend(a: Tensor<2>, b: Tensor<2>, use_b: Tensor<1>) -> Tensor<2> {
    let dtype = a.dtype();
    let [n, hidden] = a.dims();
    let use_b = use_b.greater_elem(0.5).reshape([n, 1]).expand([n, hidden]);
    a.mask_where(use_b, b.cast(dtype))
}
