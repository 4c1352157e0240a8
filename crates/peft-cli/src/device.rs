//! `--device`: where the model computes.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

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

impl DeviceName {
    /// The device itself.
    ///
    /// # Errors
    /// A device that is not compiled in, with the Cargo feature that brings it.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            // Each GPU gets its arm, `#[cfg(feature = ...)]`, with the feature of that name.
            absent => Err(Failure::new(
                format!("this build of peft has no device `{absent}`"),
                format!("build it with `--features {}`, or use --device cpu", absent.feature()),
            )),
        }
    }

    fn feature(self) -> &'static str {
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
        for device in [DeviceName::Metal, DeviceName::Rocm(0)] {
            if let Err(failure) = device.open() {
                let text = format!("{failure:?}");
                assert!(text.contains(&format!("--features {}", device.feature())), "{text}");
            }
        }
    }
}
