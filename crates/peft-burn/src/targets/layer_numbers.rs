//! The numbers in `layers_to_transform`.

use crate::config::OneOrMany;
use crate::methods::MethodConfig;

/// Layer numbers as given.
pub(super) fn layer_numbers(config: &dyn MethodConfig) -> &[usize] {
    config.layers().0.map_or(&[], OneOrMany::as_slice)
}
