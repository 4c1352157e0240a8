//! Rayon's threads, on which the CPU's operations share their work.

use burn::tensor::Device;

/// Runs `f`, many operations one after another, on one of the threads that the CPU's operations share their work with, if
/// `device` is the CPU. From any other thread each operation would wake one of them, and be woken by it when it is done.
///
/// `f` must not wait for something else that runs here: a thread that waits for a part of its work takes up whatever there
/// is to do, which would then wait for `f`.
pub fn on_workers<R: Send>(device: &Device, f: impl FnOnce() -> R + Send) -> R {
    if device.clone().inner() == Device::flex() { rayon::scope(|_| f()) } else { f() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_workers_and_they_stay_where_they_are() {
        let device = Device::flex();
        let outer = on_workers(&device.clone().autodiff(), || {
            let outer = rayon::current_thread_index();
            assert_eq!(on_workers(&device, rayon::current_thread_index), outer);
            outer
        });
        assert!(outer.is_some() && rayon::current_thread_index().is_none());
    }
}
