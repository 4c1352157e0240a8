//! Devices by the names that users give them: `cpu`, `cuda:1`, `webgpu`.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "metal", feature = "vulkan", feature = "webgpu"))]
use burn::tensor::DeviceType;

/// A device by its name. Which of them can be opened depends on the Cargo features and on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceName {
    /// The processor: `cpu`.
    #[default]
    Cpu,
    /// An NVIDIA GPU by number: `cuda`, `cuda:1`.
    Cuda(usize),
    /// An AMD GPU by number: `rocm`, `rocm:1`.
    Rocm(usize),
    /// Apple's GPU: `metal`.
    Metal,
    /// The GPU that Vulkan offers first: `vulkan`.
    Vulkan,
    /// The GPU that WebGPU offers first: `webgpu`.
    WebGpu,
}

/// A device that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.cause(), self.way_out())]
#[non_exhaustive]
pub enum DeviceError {
    /// No device is called so.
    Unknown(String),
    /// Its Cargo feature is off.
    NotCompiled(DeviceName),
    /// This machine has no such device, or not as many.
    Absent {
        /// The device that was asked for.
        device: DeviceName,
        /// How many of its kind there are.
        found: usize,
    },
}

impl DeviceError {
    /// The fault.
    pub fn cause(&self) -> String {
        match self {
            Self::Unknown(name) => format!("there is no device `{name}`"),
            Self::NotCompiled(device) => format!("this build has no device `{device}`"),
            Self::Absent { device, found } => {
                format!("no device `{device}` was found: {found} of its kind are here")
            }
        }
    }

    /// The way out.
    pub fn way_out(&self) -> String {
        match self {
            Self::Unknown(_) => "a device is cpu, cuda[:N], rocm[:N], metal, vulkan or webgpu".to_owned(),
            Self::NotCompiled(device) => {
                format!("build it with the Cargo feature `{}`, or use the device cpu", device.feature())
            }
            Self::Absent { device, .. } => {
                format!("check {}, or use the device cpu", device.driver())
            }
        }
    }
}

impl DeviceName {
    /// Every kind of device that there is, the first of each.
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Cuda(0), Self::Rocm(0), Self::Metal, Self::Vulkan, Self::WebGpu];

    /// The device itself.
    ///
    /// # Errors
    /// A device that is not compiled in, with the Cargo feature that brings it, or one that this machine has not.
    pub fn open(self) -> Result<Device, DeviceError> {
        let Some(mut present) = self.present() else {
            return Err(DeviceError::NotCompiled(self));
        };
        let wanted = self.number();
        if wanted < present.len() {
            return Ok(present.swap_remove(wanted));
        }
        Err(DeviceError::Absent { device: self, found: present.len() })
    }

    /// The device that a program's arguments name as `--device NAME` or `--device=NAME`, which are taken out of them; the
    /// processor where none is named. For programs without a parser of arguments.
    ///
    /// ```
    /// use peft_learner::device::DeviceName;
    ///
    /// let mut arguments = ["model", "--device", "cuda:1"].map(str::to_owned).to_vec();
    /// assert_eq!(DeviceName::take_from(&mut arguments), Ok(DeviceName::Cuda(1)));
    /// assert_eq!(arguments, ["model"]);
    /// ```
    ///
    /// # Errors
    /// A name that no device has, or none after `--device`.
    pub fn take_from(arguments: &mut Vec<String>) -> Result<Self, DeviceError> {
        const FLAG: &str = "--device";
        let is_flag = |a: &String| a == FLAG || a.strip_prefix(FLAG).is_some_and(|rest| rest.starts_with('='));
        let Some(at) = arguments.iter().position(is_flag) else { return Ok(Self::default()) };
        let flag = arguments.remove(at);
        match flag.split_once('=') {
            Some((_, name)) => name.parse(),
            None if at < arguments.len() => arguments.remove(at).parse(),
            None => Err(DeviceError::Unknown(String::new())),
        }
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
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number.parse::<usize>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        Ok(match (name, number) {
            ("cuda", number) => Self::Cuda(number.unwrap_or(0)),
            ("rocm", number) => Self::Rocm(number.unwrap_or(0)),
            ("cpu", None) => Self::Cpu,
            ("metal", None) => Self::Metal,
            ("vulkan", None) => Self::Vulkan,
            ("webgpu", None) => Self::WebGpu,
            _ => return Err(unknown()),
        })
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
            assert_eq!(name.parse::<DeviceName>(), Err(DeviceError::Unknown(name.to_owned())));
        }
    }

    #[test]
    fn a_device_that_is_not_compiled_in_names_its_feature() {
        assert!(DeviceName::Cpu.open().is_ok());
        for device in DeviceName::ALL.into_iter().chain([DeviceName::Cuda(9999)]) {
            if let Err(error) = device.open() {
                let way_out = match device.present() {
                    None => format!("Cargo feature `{}`", device.feature()),
                    Some(_) => device.driver().to_owned(),
                };
                assert!(error.to_string().contains(&way_out), "{error}");
            }
        }
    }

    #[test]
    fn a_device_is_taken_out_of_a_programs_arguments() {
        let take = |arguments: &[&str]| {
            let mut arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
            DeviceName::take_from(&mut arguments).map(|device| (device, arguments.join(" ")))
        };
        assert_eq!(take(&["a", "b"]), Ok((DeviceName::Cpu, "a b".into())));
        assert_eq!(take(&["a", "--device", "webgpu", "b"]), Ok((DeviceName::WebGpu, "a b".into())));
        assert_eq!(take(&["--device=rocm:2", "a"]), Ok((DeviceName::Rocm(2), "a".into())));
        assert_eq!(take(&["a", "--device"]), Err(DeviceError::Unknown("".into())));
        assert_eq!(take(&["--device", "gpu"]), Err(DeviceError::Unknown("gpu".into())));
        assert_eq!(take(&["--devices", "gpu"]), Ok((DeviceName::Cpu, "--devices gpu".into())));
    }
}
