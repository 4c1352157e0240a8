//! The device that tests run on.

use burn::tensor::Device;
#[cfg(feature = "cube")]
use burn::tensor::DeviceType;

/// The device that tests run on: the one that `PEFT_TEST_DEVICE` names (`cpu`, `cuda`, `rocm`, `metal`, `vulkan` or
/// `webgpu`: the first of its kind), or the CPU.
///
/// # Panics
/// When it names one that cannot be opened: tests that ran on another device would prove nothing.
pub fn test_device() -> Device {
    let name = std::env::var("PEFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    open(&name).unwrap_or_else(|| panic!("PEFT_TEST_DEVICE: this build or this machine has no device `{name}`"))
}

fn open(name: &str) -> Option<Device> {
    #[cfg(feature = "cube")]
    let first = |kind| Device::enumerate(kind).into_iter().next();
    match name {
        "cpu" => Some(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => first(DeviceType::Cuda),
        #[cfg(feature = "rocm")]
        "rocm" => first(DeviceType::Rocm),
        #[cfg(feature = "metal")]
        "metal" => first(DeviceType::Metal),
        #[cfg(feature = "vulkan")]
        "vulkan" => first(DeviceType::Vulkan),
        // Burn's `WebGpu` is the browser's; outside of one, WebGPU is wgpu over an interface of the system's.
        #[cfg(feature = "webgpu")]
        "webgpu" => first(DeviceType::Wgpu),
        _ => None,
    }
}
