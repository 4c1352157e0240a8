//! How many optimiser steps a run has.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;

use crate::error::{Result, StepCountError};

/// The optimiser steps that Burn's [`SupervisedTraining`](burn::train::SupervisedTraining) makes of `epochs` epochs over
/// `loader`, with gradients accumulated over `accumulation` batches (1: not at all): AdaLoRA's `total_step`.
///
/// It goes through `loader` once, since Burn's loaders know the number of their items and not of their batches. Each
/// epoch's last, smaller group of batches is a step of its own, as in Burn.
///
/// # Errors
/// A loader without a batch, one that fails, no epochs, and `accumulation` 0.
pub fn optimizer_steps<I>(loader: &dyn DataLoader<I>, epochs: usize, accumulation: usize) -> Result<usize> {
    if epochs == 0 || accumulation == 0 {
        return Err(StepCountError::NoSteps { epochs, accumulation }.into());
    }
    let mut batches = loader.iter();
    let (mut steps, mut pending) = (0, 0);
    while let Some(batch) = batches.next() {
        batch.map_err(|error| StepCountError::Loader(Arc::new(error)))?;
        pending += 1;
        if pending == accumulation || batches.progress().is_completed() {
            (steps, pending) = (steps + 1, 0);
        }
    }
    match steps {
        0 => Err(StepCountError::NoBatches.into()),
        steps => Ok(steps * epochs),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
    use burn::data::dataset::InMemDataset;
    use burn::tensor::Device;

    #[derive(Clone)]
    struct Sum;

    impl Batcher<i32, i32> for Sum {
        fn batch(&self, items: Vec<i32>, _device: &Device) -> i32 {
            items.into_iter().sum()
        }
    }

    #[test]
    fn the_last_batches_of_an_epoch_are_a_step() {
        let loader = |n, workers| {
            let builder = DataLoaderBuilder::new(Sum).batch_size(4).num_workers(workers);
            builder.build(InMemDataset::new((0..n).collect()))
        };
        assert_eq!(optimizer_steps(&*loader(22, 0), 1, 1).unwrap(), 6);
        assert_eq!(optimizer_steps(&*loader(22, 0), 3, 4).unwrap(), 3 * 2);
        assert_eq!(optimizer_steps(&*loader(22, 2), 1, 1).unwrap(), 6, "two halves of 11");
        assert_eq!(optimizer_steps(&*loader(25, 2), 1, 1).unwrap(), 7, "12 and 13");
        for (items, epochs, accumulation) in [(0, 1, 1), (4, 0, 1), (4, 1, 0)] {
            assert!(optimizer_steps(&*loader(items, 0), epochs, accumulation).is_err());
        }
    }
}
