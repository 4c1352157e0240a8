//! Tensors that a module carries along and does not train: constants, and values derived from its parameters.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor};

/// A tensor that is no parameter and stays out of the autodiff graph, in training too. Clones share its storage, also
/// after each of them was moved to another device; it is in no record.
#[derive(Clone, Debug)]
pub struct Constant<const D: usize> {
    value: Arc<Tensor<D>>,
    copies: Copies<Tensor<D>>,
}

impl<const D: usize> Constant<D> {
    /// Holds `tensor` as it is now.
    pub fn new(tensor: Tensor<D>) -> Self {
        let (value, copies) = (Arc::new(tensor.detach().inner()), Copies::default());
        copies.add(&value);
        Self { value, copies }
    }

    /// The tensor.
    pub fn val(&self) -> Tensor<D> {
        (*self.value).clone()
    }
}

/// The same value in several places, one for each. It keeps none of them in memory.
#[derive(Debug)]
pub(crate) struct Copies<T>(Arc<Mutex<Vec<Weak<T>>>>);

impl<T> Clone for Copies<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Copies<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Copies<T> {
    pub(crate) fn add(&self, copy: &Arc<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(copy));
    }

    /// The copy that `is` there, or else the one that `make` makes.
    pub(crate) fn get_or(&self, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let mut copies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        copies.retain(|copy| copy.strong_count() > 0);
        let known = copies.iter().filter_map(Weak::upgrade).find(|copy| is(copy));
        known.unwrap_or_else(|| {
            let copy = Arc::new(make());
            copies.push(Arc::downgrade(&copy));
            copy
        })
    }
}

impl<const D: usize> Module for Constant<D> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.value.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(self, device: &Device) -> Self {
        let there = device.clone().inner();
        let value = self.copies.get_or(|copy| copy.device() == there, || self.val().to_device(&there));
        Self { value, ..self }
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, _visitor: &mut V) {}

    fn map<F: ModuleMapper>(self, _mapper: &mut F) -> Self {
        self
    }
}

/// A constant computed when it is first asked for and then kept, clones included.
///
/// [`Cached::of_parameters`] forgets it whenever the module's parameters may have changed: Burn's optimisers and
/// records change parameters through [`Module::map`] alone, and whoever hands out a parameter to write into calls
/// [`Cached::forget`]. [`Cached::of_base`] is for values that depend on frozen weights only.
#[derive(Clone, Debug)]
pub struct Cached<const D: usize> {
    cell: Arc<OnceLock<Constant<D>>>,
    of_parameters: bool,
}

impl<const D: usize> Cached<D> {
    /// An empty one for a value that changes with the module's parameters.
    pub fn of_parameters() -> Self {
        Self { cell: Arc::default(), of_parameters: true }
    }

    /// An empty one for a value that outlives changes of the module's parameters.
    pub fn of_base() -> Self {
        Self { cell: Arc::default(), of_parameters: false }
    }

    /// The value, computed by `compute` unless it is known.
    pub fn get_or(&self, compute: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
        self.cell.get_or_init(|| Constant::new(compute())).val()
    }

    /// Empties this one; clones keep theirs.
    pub fn forget(&mut self) {
        self.cell = Arc::default();
    }

    fn moved(self, device: &Device) -> Self {
        let value = self.cell.get().cloned().map(|c| c.to_device(device));
        Self { cell: Arc::new(value.map(OnceLock::from).unwrap_or_default()), ..self }
    }
}

impl<const D: usize> Module for Cached<D> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.moved(device)
    }

    fn to_device(self, device: &Device) -> Self {
        self.moved(device)
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, _visitor: &mut V) {}

    fn map<F: ModuleMapper>(mut self, _mapper: &mut F) -> Self {
        if self.of_parameters {
            self.forget();
        }
        self
    }
}

macro_rules! display {
    ($($name:ident),*) => {$(
        impl<const D: usize> ModuleDisplayDefault for $name<D> {
            fn content(&self, content: Content) -> Option<Content> {
                content.add_single(stringify!($name)).optional()
            }
        }

        impl<const D: usize> ModuleDisplay for $name<D> {}
    )*};
}

display!(Constant, Cached);

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::module::Param;

    #[derive(Module, Debug)]
    struct Toy {
        weight: Param<Tensor<1>>,
        constant: Constant<1>,
        derived: Cached<1>,
        of_base: Cached<1>,
    }

    struct Doubles;

    impl ModuleMapper for Doubles {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|t| t.mul_scalar(2.0))
        }
    }

    #[test]
    fn clones_that_are_moved_one_by_one_share_the_copy_that_the_first_made() {
        let copies = Copies::default();
        let home = Arc::new(0);
        copies.add(&home);
        let made = std::cell::Cell::new(0);
        let moved = |place| {
            copies.get_or(
                |copy| *copy == place,
                || {
                    made.set(made.get() + 1);
                    place
                },
            )
        };
        let there = [moved(1), moved(1)];
        assert!(Arc::ptr_eq(&there[0], &there[1]) && Arc::ptr_eq(&moved(0), &home));
        assert_eq!(made.get(), 1);
        drop(there);
        moved(1);
        assert_eq!(made.get(), 2, "nobody had the copy any more");
    }

    #[test]
    fn a_derived_value_is_computed_once_until_the_parameters_are_mapped() {
        let one = Tensor::ones([1], &Device::flex());
        let toy = Toy {
            weight: Param::from_tensor(one.clone()),
            constant: Constant::new(one.clone()),
            derived: Cached::of_parameters(),
            of_base: Cached::of_base(),
        };
        let read = |toy: &Toy| toy.derived.get_or(|| toy.weight.val() + toy.constant.val()).into_scalar::<f32>();
        let toy = toy.train();
        toy.of_base.get_or(|| one.clone());
        assert_eq!(read(&toy), 2.0);
        assert_eq!(toy.derived.get_or(|| panic!("known")).into_scalar::<f32>(), 2.0);
        assert_eq!(toy.valid().derived.get_or(|| panic!("known")).into_scalar::<f32>(), 2.0);
        assert!(!toy.derived.get_or(|| panic!("known")).is_autodiff());

        let old = toy.clone();
        let toy = toy.map(&mut Doubles);
        assert_eq!(read(&toy), 3.0);
        assert_eq!(read(&old), 2.0);
        toy.of_base.get_or(|| panic!("known"));
        assert_eq!(Module::num_params(&toy), 1);
    }
}
