//! Pairs of matrices that many adapters have in common, in memory once.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use burn::module::ParamId;
use burn::tensor::Tensor;
use fused_burn::SharedPair;

use super::host::host;
use crate::methods::VeraProjection;

/// The pairs of all adapters of a model that are in memory: equal values are one pair.
#[derive(Debug, Default)]
pub struct Pairs {
    known: Mutex<Vec<(ParamId, Weak<SharedPair>)>>,
}

impl Pairs {
    /// The pair with the values of `projection`.
    pub(crate) fn of(&self, projection: &VeraProjection) -> Arc<SharedPair> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, pair)| pair.strong_count() > 0);
        let id = projection.id();
        if let Some(pair) = known.iter().find(|(other, _)| *other == id).and_then(|(_, pair)| pair.upgrade()) {
            return pair;
        }
        let [a, b] = projection.tensors();
        let ([rank, inputs], [outputs, _]) = (a.dims(), b.dims());
        let [a, b] = [a, b].map(|t: Tensor<2>| host(t));
        let pair = SharedPair { rank, inputs, outputs, a, b };
        let equal = known.iter().filter_map(|(_, other)| other.upgrade()).find(|other| **other == pair);
        let pair = equal.unwrap_or_else(|| Arc::new(pair));
        known.push((id, Arc::downgrade(&pair)));
        pair
    }

    /// Bytes of the pairs that are in memory.
    pub fn num_bytes(&self) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pairs: Vec<_> = known.iter().filter_map(|(_, pair)| pair.upgrade()).collect();
        pairs.sort_by_key(Arc::as_ptr);
        pairs.dedup_by_key(|pair| Arc::as_ptr(pair));
        pairs.iter().map(|pair| 4 * (pair.a.len() + pair.b.len())).sum()
    }
}
