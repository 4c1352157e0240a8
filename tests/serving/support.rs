//! A small model with adapters of every method, and a server of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use llama_burn::{Llama, Text};
use peft_burn::{
    AdaLoraConfig, AdapterFiles, Ia3Config, InitLoraWeights, LoraConfig, ModuleNames, PeftConfig, PeftModel,
    TargetModules, VeraConfig,
};
use peft_serve::http::{HttpConfig, serve_until};
use peft_serve::{Engine, EngineConfig, Handle, Served, Store, StoreConfig};
use serde_json::Value;

/// The folder of the small model.
pub fn world() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("datasets/world")
}

/// The small model.
pub fn model() -> Llama {
    Llama::from_dir(world(), Some(burn::tensor::FloatDType::F32), &burn::tensor::Device::flex()).unwrap()
}

/// The small model as it is served.
pub fn served() -> Served {
    Served::new("world", model(), Text::from_dir(world()).unwrap()).with_dir(world())
}

/// The methods, with values that change what the model says.
pub fn configs() -> Vec<(&'static str, PeftConfig)> {
    let targets = || TargetModules::list(["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]);
    let lora = LoraConfig {
        r: 4,
        lora_alpha: 2.0,
        target_modules: targets(),
        init_lora_weights: InitLoraWeights::Random,
        ..LoraConfig::default()
    };
    let dora = LoraConfig { use_dora: true, ..lora.clone() };
    let adalora = AdaLoraConfig {
        init_r: 4,
        target_r: 2,
        // Values drawn from N(0, 1) all over are much larger than trained ones.
        lora_alpha: 0.1,
        total_step: Some(100),
        target_modules: targets(),
        init_lora_weights: InitLoraWeights::Random,
        ..AdaLoraConfig::default()
    };
    let vera = VeraConfig { r: 16, target_modules: targets(), init_weights: false, ..VeraConfig::default() };
    let ia3 = Ia3Config {
        target_modules: TargetModules::list(["k_proj", "v_proj", "down_proj"]),
        feedforward_modules: Some(ModuleNames::List(vec!["down_proj".into()])),
        init_ia3_weights: false,
        ..Ia3Config::default()
    };
    vec![
        ("lora", PeftConfig::Lora(lora)),
        ("dora", PeftConfig::Lora(dora)),
        ("adalora", PeftConfig::AdaLora(adalora)),
        ("vera", PeftConfig::Vera(vera)),
        ("ia3", PeftConfig::Ia3(ia3)),
    ]
}

/// Writes an adapter of the small model.
pub fn write_adapter(model: &Llama, config: &PeftConfig, seed: u64, to: &Path) {
    let mut model = model.clone();
    model.add_adapter("a", config, seed).unwrap();
    model.save_adapter("a", to).unwrap();
}

/// Writes an adapter of every method into `folder`, by its name.
pub fn write_adapters(folder: &Path) {
    let model = model();
    for (i, (name, config)) in configs().iter().enumerate() {
        write_adapter(&model, config, 10 + i as u64, &folder.join(name));
    }
}

/// A server on a free port, with a folder of adapters.
pub struct Server {
    pub address: SocketAddr,
    pub handle: Handle,
    pub folder: tempfile::TempDir,
    end: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    engine: Option<Engine>,
}

impl Server {
    /// With an adapter of every method.
    pub fn new() -> Self {
        Self::with(HttpConfig::default(), EngineConfig::default(), StoreConfig::default())
    }

    pub fn with(http: HttpConfig, engine: EngineConfig, store: StoreConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_adapters(folder.path());
        Self::over(folder, http, engine, store)
    }

    pub fn over(folder: tempfile::TempDir, http: HttpConfig, engine: EngineConfig, store: StoreConfig) -> Self {
        let served = served();
        let store = StoreConfig { folder: Some(folder.path().to_owned()), ..store };
        let store = Store::new(&served, store).unwrap();
        let engine = Engine::start(served, store, engine).unwrap();
        let handle = engine.handle().clone();
        let (end, ended) = channel::<()>();
        let (ready, address) = channel();
        let served = handle.clone();
        let http = HttpConfig { run_time_loading: true, ..http };
        let thread = std::thread::spawn(move || {
            let ready = move |at| ready.send(at).unwrap();
            // It ends when the sender is gone.
            let end = move || {
                let _ = ended.recv();
            };
            serve_until("127.0.0.1:0", &served, "world", http, ready, end).unwrap();
        });
        let address = address.recv().unwrap();
        Self { address, handle, folder, end: Some(end), thread: Some(thread), engine: Some(engine) }
    }

    /// Tells the server to end, as a signal does.
    pub fn end(&mut self) {
        drop(self.end.take());
    }

    /// Waits until it has ended.
    pub fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    /// That nothing is held any more: requests, blocks, leases.
    pub fn assert_at_rest(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        let held = || {
            let leases: usize = self.handle.store().list().iter().map(|info| info.leases).sum();
            [self.handle.open(), self.handle.blocks_taken(), leases]
        };
        while held() != [0; 3] {
            assert!(Instant::now() < until, "requests, blocks, leases: {:?}", held());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &[], &body.to_string())
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        Response::read(self.open(method, path, headers, body))
    }

    /// A request that was sent; its answer is still to be read.
    pub fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // A server that refuses a body need not read it.
        let _ = stream.write_all(body.as_bytes());
        stream
    }

    /// The text of a completion.
    pub fn text(&self, model: &str, prompt: &str) -> String {
        let body = serde_json::json!({"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0});
        let answer = self.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        drop(self.engine.take());
    }
}

/// An answer, whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn read(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => break,
            }
        }
        let mut raw = Vec::new();
        reader.read_to_end(&mut raw).unwrap();
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { unchunked(&raw) } else { raw };
        Self { status, headers, body: String::from_utf8(body).unwrap() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The error's message, parameter and code.
    pub fn error(&self) -> (String, Value, Value) {
        let error = self.json()["error"].clone();
        (error["message"].as_str().unwrap().to_owned(), error["param"].clone(), error["code"].clone())
    }

    /// The events of a stream, without the last word.
    pub fn events(&self) -> Vec<Value> {
        assert!(self.body.ends_with("data: [DONE]\n\n"), "{}", self.body);
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        let data = events.map(|event| event.strip_prefix("data: ").unwrap());
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

fn unchunked(mut raw: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = raw.windows(2).position(|pair| pair == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        all.extend_from_slice(&raw[end + 2..end + 2 + size]);
        raw = &raw[end + 4 + size..];
    }
    all
}

/// As [`served`], with a name for the store's tests.
pub fn store_over(folder: &Path, config: StoreConfig) -> Store {
    Store::new(&served(), StoreConfig { folder: Some(folder.to_owned()), ..config }).unwrap()
}

/// Waits for an adapter.
pub fn lease(store: &Store, name: &str) -> Arc<peft_serve::Resident> {
    let mut asked = None;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match store.lease(name, asked) {
            peft_serve::StoreUse::Ready(resident) => return resident,
            peft_serve::StoreUse::Loading(number) => asked = Some(number),
            other => panic!("{name}: {other:?}"),
        }
        assert!(Instant::now() < until, "{name} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
