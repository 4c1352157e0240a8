//! Data parallel: a replica of the model on each of several devices, through Burn's distributed strategy.
//!
//! Burn runs one thread for each device and adds up gradients across them while they go backward. Each replica then makes
//! the same optimiser step; what is of the run and not of a replica (loss, metrics, checkpoints, AdaLoRA's masks) is read
//! or decided by one of them, between two meetings of all.

use std::sync::{Arc, Barrier};

use burn::tensor::Device;
use burn::tensor::distributed::{DistributedConfig, ReduceOperation};
use burn::train::{ExecutionStrategy, LearnerModel, TrainingStrategy};

use crate::error::{LearnerError, Result};

/// Where the replicas of a run wait for each other.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    barrier: Arc<Barrier>,
    /// How many there are.
    pub count: usize,
}

impl Replicas {
    pub fn new(count: usize) -> Self {
        Self { barrier: Arc::new(Barrier::new(count)), count }
    }

    /// Waits for all of them, and says to one that it is the one to act for all.
    pub fn meet(&self) -> bool {
        self.barrier.wait().is_leader()
    }
}

/// Checks that `devices` can train together.
///
/// # Errors
/// [`LearnerError::NoCollective`] for several devices that Burn has no collective for.
pub(crate) fn check(devices: &[Device]) -> Result<()> {
    // Two replicas of one device would wait for each other in the same collective.
    let twice = (1..devices.len()).any(|i| devices[..i].contains(&devices[i]));
    match devices.len() {
        0 | 1 => Ok(()),
        _ if !twice && devices.iter().all(has_collective) => Ok(()),
        devices => Err(LearnerError::NoCollective { devices }),
    }
}

/// Burn's strategy for several devices that [`check`] lets pass; `None` for a single one, which is where the model is.
pub(crate) fn strategy<L: LearnerModel>(devices: &[Device]) -> Option<TrainingStrategy<L>> {
    // A micro-batch's loss is its share of the whole step's, so that shares add up.
    let config = DistributedConfig { all_reduce_op: ReduceOperation::Sum };
    (devices.len() > 1).then(|| ExecutionStrategy::ddp(devices.to_vec(), config).into())
}

/// Burn takes every CubeCL device for one with collectives, and panics on all but CUDA's.
#[cfg(feature = "cuda")]
fn has_collective(device: &Device) -> bool {
    Device::enumerate(burn::tensor::DeviceType::Cuda).into_iter().any(|cuda| cuda == *device)
}

#[cfg(not(feature = "cuda"))]
fn has_collective(_: &Device) -> bool {
    false
}
