//! `--device`: where the model computes.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "metal", feature = "vulkan", feature = "webgpu"))]
use burn::tensor::DeviceType;

use crate::failure::{Failure, Result};

/// A device by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// An AMD GPU by number.
    Rocm(usize),
    /// Apple's GPU.
    Metal,
    /// The GPU that Vulkan offers first.
    Vulkan,
    /// The GPU that WebGPU offers first.
    WebGpu,
}

/// Every kind of device that there is, the first of each.
pub const ALL: [DeviceName; 6] = [
    DeviceName::Cpu,
    DeviceName::Cuda(0),
    DeviceName::Rocm(0),
    DeviceName::Metal,
    DeviceName::Vulkan,
    DeviceName::WebGpu,
];

impl DeviceName {
    /// The device itself.
    ///
    /// # Errors
    /// A device that is not compiled in, with the Cargo feature that brings it, or one that this machine has not.
    pub fn open(self) -> Result<Device> {
        let Some(mut present) = self.present() else {
            return Err(Failure::new(
                format!("this build of peft has no device `{self}`"),
                format!("build it with `--features {}`, or use --device cpu", self.feature()),
            ));
        };
        let wanted = self.number();
        if wanted < present.len() {
            return Ok(present.swap_remove(wanted));
        }
        Err(Failure::new(
            format!("no device `{self}` was found: {} of its kind are here", present.len()),
            format!("check {}; `peft devices` lists what is present; or use --device cpu", self.driver()),
        ))
    }

    /// The devices of this kind on this machine, by number; `None` where the kind is not compiled in.
    pub fn present(self) -> Option<Vec<Device>> {
        match self {
            Self::Cpu => Some(vec![Device::flex()]),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Some(Device::enumerate(DeviceType::Cuda).into_iter().collect()),
            #[cfg(feature = "rocm")]
            Self::Rocm(_) => Some(Device::enumerate(DeviceType::Rocm).into_iter().collect()),
            #[cfg(feature = "metal")]
            Self::Metal => Some(Device::enumerate(DeviceType::Metal).into_iter().collect()),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Some(Device::enumerate(DeviceType::Vulkan).into_iter().collect()),
            // Burn's `WebGpu` is the browser's; outside of one, WebGPU is wgpu over an interface of the system's.
            #[cfg(feature = "webgpu")]
            Self::WebGpu => Some(Device::enumerate(DeviceType::Wgpu).into_iter().collect()),
            #[allow(unreachable_patterns, reason = "with every feature there is nothing left")]
            _ => None,
        }
    }

    /// The same kind of device, another one of it. Kinds without numbers stay as they are.
    pub fn at(self, number: usize) -> Self {
        match self {
            Self::Cuda(_) => Self::Cuda(number),
            Self::Rocm(_) => Self::Rocm(number),
            other => other,
        }
    }

    fn number(self) -> usize {
        match self {
            Self::Cuda(number) | Self::Rocm(number) => number,
            _ => 0,
        }
    }

    fn driver(self) -> &'static str {
        match self {
            Self::Cpu => "the processor",
            Self::Cuda(_) => "the NVIDIA driver (libcuda)",
            Self::Rocm(_) => "the AMD driver and ROCm's libraries",
            Self::Metal => "that this is a Mac with a GPU",
            Self::Vulkan | Self::WebGpu => "the Vulkan driver of the GPU (`vulkaninfo` shows it)",
        }
    }

    /// The Cargo feature that compiles it in.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Cpu => "default",
            Self::Cuda(_) => "cuda",
            Self::Rocm(_) => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::WebGpu => "webgpu",
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text, None),
        };
        let index = || number.map_or(Ok(0), |n| n.parse().map_err(|_| format!("`{n}` is not the number of a device")));
        match name {
            "cuda" => return Ok(Self::Cuda(index()?)),
            "rocm" => return Ok(Self::Rocm(index()?)),
            _ if number.is_some() => {}
            "cpu" => return Ok(Self::Cpu),
            "metal" => return Ok(Self::Metal),
            "vulkan" => return Ok(Self::Vulkan),
            "webgpu" => return Ok(Self::WebGpu),
            _ => {}
        }
        Err("a device is cpu, cuda[:N], rocm[:N], metal, vulkan or webgpu".into())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::Rocm(n) => write!(f, "rocm:{n}"),
            Self::Metal | Self::Vulkan | Self::WebGpu => f.write_str(self.feature()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for name in ["cpu", "cuda:0", "cuda:3", "rocm:1", "metal", "vulkan", "webgpu"] {
            assert_eq!(name.parse::<DeviceName>().map(|d| d.to_string()), Ok(name.to_owned()));
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["gpu", "cpu:1", "cuda:x", "cuda:", "metal:0", ""] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_device_that_is_not_compiled_in_names_its_feature() {
        assert!(DeviceName::Cpu.open().is_ok());
        for device in ALL.into_iter().chain([DeviceName::Cuda(9999)]) {
            if let Err(failure) = device.open() {
                let text = format!("{failure:?}");
                let way_out = match device.present() {
                    None => format!("--features {}", device.feature()),
                    Some(_) => device.driver().to_owned(),
                };
                assert!(text.contains(&way_out), "{text}");
            }
        }
    }
}
