//! `peft serve`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use llama_burn::GenerationDefaults;
use peft_learner::base::Base;
use peft_serve::http::{self, HttpConfig};
use peft_serve::{Engine, EngineConfig, ServeError, Served, Store, StoreConfig};

use crate::failure::{Failure, Result};
use crate::model_args::{DeviceArgs, DtypeArgs};
use crate::output::{self, bytes, count};
use crate::size::size;

const EXAMPLE: &str = "\
Example: every adapter below runs/, each asked for by its name
  peft serve --model models/smollm2 --adapters runs
  curl http://127.0.0.1:8000/v1/chat/completions -d '{\"model\": \"mine\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'";

/// Answer OpenAI-compatible requests, each with the adapter that it names
///
/// Adapters of every method run in one batch. They are loaded when they are asked for, within --adapter-memory, and
/// replaced while they are in use. http://HOST:PORT/ has a page that asks two of them at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Serve {
    /// The base: a Hugging Face directory, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// The base's name in requests; without it the name of its folder
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A folder of adapters or of runs; it also turns loading at run time on
    #[arg(long, value_name = "DIR")]
    adapters: Option<PathBuf>,
    /// Where to listen: 127.0.0.1 is this machine alone, 0.0.0.0 every network
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    port: u16,
    /// The key that requests must bring; also by the variable PEFT_API_KEY
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// The key that loading and unloading take instead; also by PEFT_ADMIN_KEY
    #[arg(long, value_name = "KEY")]
    admin_key: Option<String>,
    /// Requests that run together
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_batch: usize,
    /// Requests that may wait; more are told to come back
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_queue: usize,
    /// Tokens of prompts that one step takes in
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_prefill: usize,
    /// Tokens of a prompt and its answer together; without it the model's context
    #[arg(long, value_name = "N")]
    max_model_len: Option<usize>,
    /// Memory for keys and values
    #[arg(long, default_value = "2GB", value_name = "SIZE", value_parser = size)]
    cache_memory: usize,
    /// Memory for adapters
    #[arg(long, default_value = "4GB", value_name = "SIZE", value_parser = size)]
    adapter_memory: usize,
    /// The largest file of an adapter's weights
    #[arg(long, default_value = "8GB", value_name = "SIZE", value_parser = size)]
    max_adapter_file: usize,
    /// How long open requests may go on after SIGTERM
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    shutdown_timeout: u64,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Serve {
    pub fn run(self) -> Result {
        if self.max_batch == 0 || self.max_prefill == 0 {
            return Err(Failure::new(
                "--max-batch and --max-prefill are 1 at least",
                "leave them out for the usual sizes",
            ));
        }
        let base = Base::load(&self.model, self.dtype.options()?, &self.device.open()?)?;
        let defaults = GenerationDefaults::from_dir(&base.dir)?;
        let temperature = defaults.sampling_temperature().map(|temperature| format!("temperature = {temperature}"));
        let honoured = defaults.honoured(temperature.is_some());
        let of_file: Vec<_> = temperature.into_iter().chain(honoured).chain(defaults.not_honoured).collect();
        if !of_file.is_empty() {
            output::warn(format_args!(
                "generation_config.json has {}: requests that leave these open have OpenAI's defaults, not the file's (as \
                 vLLM's `--generation-config vllm`)",
                of_file.join(", ")
            ));
        }
        let folder_name = base.dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let given = (!self.model.contains("..") && !self.model.starts_with(['/', '.'])).then(|| self.model.clone());
        let is_dir = std::path::Path::new(&self.model).is_dir();
        let name = self.name.or(given.filter(|_| !is_dir)).or(folder_name).unwrap_or_else(|| "base".into());
        let served = Served::new(&name, base.model, base.text).with_dir(base.dir);
        let run_time_loading = self.adapters.is_some();
        let store = StoreConfig {
            folder: self.adapters,
            memory: self.adapter_memory,
            file_limit: self.max_adapter_file as u64,
            ..StoreConfig::default()
        };
        let store = Store::new(&served, store)?;
        let adapters = store.counts_registered();
        let config = EngineConfig {
            max_batch: self.max_batch,
            max_prefill: self.max_prefill,
            max_queue: self.max_queue,
            cache_memory: self.cache_memory,
            max_model_len: self.max_model_len,
            ..EngineConfig::default()
        };
        let engine = Engine::start(served, store, config)?;
        let http = HttpConfig {
            api_key: self.api_key.or_else(|| std::env::var("PEFT_API_KEY").ok()),
            admin_key: self.admin_key.or_else(|| std::env::var("PEFT_ADMIN_KEY").ok()),
            shutdown_timeout: Duration::from_secs(self.shutdown_timeout),
            run_time_loading,
            ..HttpConfig::default()
        };
        let address = if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let ready = |at: std::net::SocketAddr| {
            output::note(format_args!(
                "serving `{name}` with {} adapters at http://{at} ({} for keys and values, {} for adapters)",
                count(adapters),
                bytes(self.cache_memory),
                bytes(self.adapter_memory),
            ));
        };
        http::serve(&address, engine.handle(), &name, http, ready).map_err(|error| {
            Failure::new(format!("cannot listen at {address}: {error}"), "choose another --host or --port")
        })
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        Self::new(error.to_string(), "`peft serve --help` tells what each option takes")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512MB").unwrap(), 512_000_000);
        assert_eq!(size("1.5 GiB").unwrap(), 3 << 29);
        assert_eq!(size("7").unwrap(), 7);
        assert!(size("4 bananas").unwrap_err().contains("no unit"));
        assert!(size("GB").is_err() && size("-1GB").is_err());
    }
}
