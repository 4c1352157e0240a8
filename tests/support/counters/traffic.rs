//! The bytes that blocks of operations read and write, as Burn's fusion server runs them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::fusion::observer::{BlockOperations, FusionObservation, FusionObserver};
use burn::backend::ir::{BaseOperationIr, OperationIr, TensorIr, TensorStatus};

/// Bytes moved by blocks. A tensor that is made and used up within a block is in registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// By blocks that do nothing but cast, copies of other layouts among them.
    pub casts: u64,
    /// Of logits: tensors one of whose sides is the vocabulary and none the residual stream.
    pub logits: u64,
}

/// Watches blocks.
#[derive(Debug)]
pub struct Traffic {
    vocab: usize,
    hidden: usize,
    bytes: Mutex<Bytes>,
}

impl FusionObserver for Traffic {
    fn registered(&self, _: &OperationIr) {}

    fn block_starts(&self, block: BlockOperations<'_>) {
        let work = || block.iter().filter(|op| !matches!(op, OperationIr::Drop(_)) && !is_view(op));
        let casts = |op: &OperationIr| matches!(op, OperationIr::BaseFloat(BaseOperationIr::Cast(_)));
        let moved = moved(work());
        let sum = |tensors: &[&TensorIr]| tensors.iter().map(|t| size(t)).sum::<u64>();
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if work().next().is_some() && work().all(casts) {
            bytes.casts += sum(&moved);
        }
        let logits: Vec<_> = moved.into_iter().filter(|t| self.are_logits(t)).collect();
        bytes.logits += sum(&logits);
    }

    fn block_ran(&self) {}
}

impl Traffic {
    /// The bytes that `work` moves in a model of these sizes. It has to wait for the device before it returns.
    pub fn of<T>([vocab, hidden]: [usize; 2], work: impl FnOnce() -> T) -> (T, Bytes) {
        let traffic = Arc::new(Self { vocab, hidden, bytes: Mutex::default() });
        let watching = FusionObservation::new(traffic.clone());
        let result = work();
        drop(watching);
        let bytes = *traffic.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        (result, bytes)
    }

    fn are_logits(&self, tensor: &TensorIr) -> bool {
        let has = |side: usize| tensor.shape.iter().any(|own| *own == side);
        tensor.shape.num_elements() > self.vocab && has(self.vocab) && !has(self.hidden)
    }
}

/// Operations that give a tensor another shape and touch no memory.
fn is_view(op: &OperationIr) -> bool {
    use BaseOperationIr::{Expand, Permute, Reshape, SwapDims, Unfold};
    let (OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op)) = op else { return false };
    matches!(op, Reshape(_) | SwapDims(_) | Permute(_) | Expand(_) | Unfold(_))
}

/// The tensors that a block reads from memory or writes there.
fn moved<'a>(block: impl Iterator<Item = &'a OperationIr>) -> Vec<&'a TensorIr> {
    let (mut made, mut used_up, mut read) = (Vec::new(), HashSet::new(), HashSet::new());
    let mut moved = Vec::new();
    for op in block {
        for input in op.inputs() {
            let own = made.iter().any(|t: &&TensorIr| t.id == input.id);
            if own && input.status == TensorStatus::ReadWrite {
                used_up.insert(input.id);
            }
            if !own && read.insert(input.id) {
                moved.push(input);
            }
        }
        made.extend(op.outputs());
    }
    moved.extend(made.into_iter().filter(|t| !used_up.contains(&t.id)));
    moved
}

fn size(tensor: &TensorIr) -> u64 {
    (tensor.shape.num_elements() * tensor.dtype.size()) as u64
}
