//! Rows and columns taken out of AdaLoRA's matrices: what a triplet leaves when it goes.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use crate::param;

/// Keeps the flagged rows (`axis` 0) or columns (1); identity and training state stay.
pub(crate) fn keep(param: &mut Param<Tensor<2>>, axis: usize, flags: &[bool]) {
    let data = param.val().into_data();
    param::replace(param, select(&data, axis, flags));
}

/// The rows (`axis` 0) or columns (1) of a matrix in f32 that are flagged.
pub(crate) fn select(data: &TensorData, axis: usize, flags: &[bool]) -> TensorData {
    let columns = data.shape()[1];
    let index = |i: usize| if axis == 0 { i / columns } else { i % columns };
    let values: Vec<f32> = data.iter::<f32>().enumerate().filter(|(i, _)| flags[index(*i)]).map(|(_, v)| v).collect();
    let mut shape = [data.shape()[0], columns];
    shape[axis] = flags.iter().filter(|f| **f).count();
    TensorData::new(values, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flagged_rows_or_columns_are_selected() {
        let data = TensorData::new(vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
        assert_eq!(select(&data, 1, &[true, false, true]), TensorData::new(vec![1.0_f32, 3.0, 4.0, 6.0], [2, 2]));
        assert_eq!(select(&data, 0, &[false, false]), TensorData::new(Vec::<f32>::new(), [0, 3]));
    }
}
