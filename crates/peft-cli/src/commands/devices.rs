//! `peft devices`

use burn::tensor::FloatDType;
use clap::Args;
use llama_burn::Dtype;
use peft_learner::device::DeviceName;
use serde_json::{Value, json};

use crate::failure::Result;
use crate::output::{self, bytes};

const EXAMPLE: &str = "\
Example: what --device takes here
  peft devices";

/// List the devices that are compiled in, and those that this machine has
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Devices {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A device, or the lack of one.
struct Row {
    device: DeviceName,
    compiled: bool,
    present: bool,
    name: Option<String>,
    memory: Option<u64>,
    dtypes: Vec<&'static str>,
}

impl Devices {
    pub fn run(self) -> Result {
        let rows: Vec<Row> = DeviceName::ALL.into_iter().flat_map(rows).collect();
        if self.json {
            return output::json(&json!({ "devices": rows.iter().map(Row::json).collect::<Vec<_>>() }));
        }
        rows.iter().try_for_each(|row| output::line(row.text()))
    }
}

fn rows(kind: DeviceName) -> Vec<Row> {
    let absent =
        |compiled| vec![Row { device: kind, compiled, present: false, name: None, memory: None, dtypes: Vec::new() }];
    let Some(found) = kind.present() else { return absent(false) };
    if found.is_empty() {
        return absent(true);
    }
    // Kinds without numbers are the first of their driver.
    let numbered = kind.at(0) != kind.at(1);
    let devices = found.into_iter().enumerate().take(if numbered { usize::MAX } else { 1 });
    devices
        .map(|(number, device)| Row {
            device: kind.at(number),
            compiled: true,
            present: true,
            name: if kind == DeviceName::Cpu { processor() } else { gpu::name(&device) },
            memory: if kind == DeviceName::Cpu { installed_memory() } else { gpu::memory(&device) },
            dtypes: Dtype::ALL
                .into_iter()
                .filter(|&dtype| device.supports_dtype(FloatDType::from(dtype)))
                .map(Dtype::name)
                .collect(),
        })
        .collect()
}

/// The facts that Burn and the driver tell of a GPU.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "metal", feature = "vulkan", feature = "webgpu"))]
mod gpu {
    use burn::tensor::Device;

    /// The card as it names itself.
    pub fn name(device: &Device) -> Option<String> {
        device.identity().map(|identity| identity.name)
    }

    /// Bytes of memory. Burn knows which card it is and not how much that has: Linux does of AMD's, and NVIDIA's own tool,
    /// which comes with the driver, of theirs. `None` of others, and of a renderer in software.
    pub fn memory(device: &Device) -> Option<u64> {
        let address = device.identity()?.physical?.pci_address?.to_string();
        amd(&address).or_else(|| nvidia(&address))
    }

    fn amd(address: &str) -> Option<u64> {
        let file = format!("/sys/bus/pci/devices/{address}/mem_info_vram_total");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    fn nvidia(address: &str) -> Option<u64> {
        let query = ["--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id", address];
        let answer = std::process::Command::new("nvidia-smi").args(query).output().ok()?;
        let mib: u64 = String::from_utf8(answer.stdout).ok()?.trim().parse().ok()?;
        Some(mib << 20)
    }
}

/// Without a GPU feature there is none to ask.
#[cfg(not(any(feature = "cuda", feature = "rocm", feature = "metal", feature = "vulkan", feature = "webgpu")))]
mod gpu {
    use burn::tensor::Device;

    pub fn name(_: &Device) -> Option<String> {
        None
    }

    pub fn memory(_: &Device) -> Option<u64> {
        None
    }
}

/// The processor as Linux names it, with its threads.
fn processor() -> Option<String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Some(match model {
        Some((_, model)) => format!("{}, {threads} threads", model.trim()),
        None => format!("{threads} threads"),
    })
}

/// Bytes of memory in this machine, where Linux tells.
fn installed_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

impl Row {
    fn text(&self) -> String {
        let device = self.device.to_string();
        if !self.compiled {
            return format!("{device:<9} not compiled in: build with --features {}", self.device.feature());
        }
        if !self.present {
            return format!("{device:<9} compiled in; none was found");
        }
        let memory = self.memory.map(|memory| format!(" · {}", bytes(memory as usize))).unwrap_or_default();
        let name = self.name.as_deref().unwrap_or("present");
        format!("{device:<9} {name}{memory} · {}", self.dtypes.join(", "))
    }

    fn json(&self) -> Value {
        json!({
            "device": self.device.to_string(),
            "compiled": self.compiled,
            "present": self.present,
            "name": self.name,
            "memory_bytes": self.memory,
            "dtypes": self.dtypes,
        })
    }
}
