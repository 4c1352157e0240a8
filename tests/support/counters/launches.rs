//! Launches of kernels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::cubecl::config::TypeNameFormatLevel;
use burn::cubecl::config::type_name_format;
use burn::cubecl::logging::{LaunchObservation, LaunchObserver};

/// Every kernel that was launched while this observed, by name.
#[derive(Debug, Default)]
pub struct Launches(Mutex<BTreeMap<&'static str, usize>>);

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kernel).or_default() += 1;
    }
}

impl Launches {
    /// The launches of `work`, which has to wait for the device before it returns.
    pub fn of<T>(work: impl FnOnce() -> T) -> (T, BTreeMap<String, usize>) {
        let launches = Arc::new(Self::default());
        let watching = LaunchObservation::new(launches.clone());
        let result = work();
        drop(watching);
        let mut named = BTreeMap::new();
        for (name, count) in launches.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *named.entry(type_name_format(name, TypeNameFormatLevel::Short)).or_default() += count;
        }
        (result, named)
    }
}
