//! Adapters on a whole model.

mod adaptable;
mod adapters;
mod attach;
mod checks;
mod fields;
mod merging;
mod names;
mod new_adapter;
mod parameter_count;
mod rescale;
mod shared_pairs;
mod state;
mod status;
mod tying;

pub use adaptable::AdaptableModel;
pub use adapters::PeftModel;
pub(crate) use checks::one_vocabulary;
pub use fields::{Layers, join};
pub(crate) use names::{device_of, file_key};
pub use parameter_count::{TrainableReport, count_parameters};
pub(crate) use shared_pairs::{set_shared_pair, shared_pair_of};
pub use state::PeftState;
pub use status::{AdapterStatus, LayerStatus, ModelStatus, Trained};
pub(crate) use tying::{tie, tied_pair, transposed};
