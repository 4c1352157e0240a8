//! A server on the loopback interface that answers as the hub does, for tests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The commit that every branch is at.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of a repository by name.
pub(super) type Files<'a> = &'a [(&'static str, &'a [u8])];

/// Serves repositories until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    repositories: BTreeMap<&'static str, BTreeMap<&'static str, Vec<u8>>>,
    /// The token without which a repository whose name begins with `private/` does not show.
    token: &'static str,
    requests: Mutex<Vec<String>>,
    break_off: AtomicBool,
    silent_at: Mutex<Option<&'static str>>,
    resumed: AtomicBool,
    stop: AtomicBool,
}

impl Server {
    pub(super) fn start(repositories: &[(&'static str, Files<'_>)]) -> Self {
        let files = |files: Files<'_>| files.iter().map(|(name, file)| (*name, file.to_vec())).collect();
        let repositories = repositories.iter().map(|(name, list)| (*name, files(list))).collect();
        let no = AtomicBool::default;
        let requests = Mutex::default();
        let (break_off, silent_at, resumed, stop) = (no(), Mutex::default(), no(), no());
        let state = State { repositories, token: "secret", requests, break_off, silent_at, resumed, stop };
        let state = Arc::new(state);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    break;
                }
                // A client that goes away is its own affair.
                let _ = stream.and_then(|stream| shared.answer(stream));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends only half of the next file that is not tiny.
    pub(super) fn break_off_once(&self) {
        self.state.break_off.store(true, Ordering::SeqCst);
    }

    /// Sends half of what is asked for at paths that contain `part`, and then nothing more.
    pub(super) fn fall_silent_at(&self, part: &'static str) {
        *self.state.silent_at.lock().unwrap() = Some(part);
    }

    /// Whether a file was asked for from its middle on.
    pub(super) fn resumed(&self) -> bool {
        self.state.resumed.load(Ordering::SeqCst)
    }

    /// The paths asked for since the last call.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl State {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let path = request.split(' ').nth(1).unwrap_or_default().to_string();
        let mut headers = BTreeMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_string());
        }
        self.requests.lock().unwrap().push(path.clone());
        let allowed = headers.get("authorization").is_some_and(|value| *value == format!("Bearer {}", self.token));
        let (status, extra, body) = self.find(&path, headers.get("range").map(String::as_str), allowed);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        if self.silent_at.lock().unwrap().is_some_and(|part| path.contains(part)) {
            stream.write_all(&body[..body.len() / 2])?;
            while !self.stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            return Ok(());
        }
        let broken = body.len() > 1000 && self.break_off.swap(false, Ordering::SeqCst);
        stream.write_all(if broken { &body[..body.len() / 2] } else { &body })
    }

    /// Status, headers and body.
    fn find(&self, path: &str, range: Option<&str>, allowed: bool) -> (&'static str, String, Vec<u8>) {
        let missing = ("404 Not Found", String::new(), b"not found".to_vec());
        let visible = |name: &str| allowed || !name.starts_with("private/");
        let api = path.strip_prefix("/api/models/").or_else(|| path.strip_prefix("/api/datasets/"));
        if let Some((name, _)) = api.and_then(|rest| rest.split_once("/revision/")) {
            let Some(files) = self.repositories.get(name).filter(|_| visible(name)) else {
                // The hub says so of what does not exist, too.
                return ("401 Unauthorized", String::new(), b"no".to_vec());
            };
            let siblings: Vec<_> = files.keys().map(|file| serde_json::json!({ "rfilename": file })).collect();
            let info = serde_json::json!({"id": name, "sha": COMMIT, "siblings": siblings});
            return ("200 OK", "Content-Type: application/json\r\n".into(), info.to_string().into_bytes());
        }
        let path = path.strip_prefix("/datasets").unwrap_or(path);
        let Some((name, file)) = path[1..].split_once(&format!("/resolve/{COMMIT}/")) else { return missing };
        let Some(file) = self.repositories.get(name).filter(|_| visible(name)).and_then(|files| files.get(file)) else {
            return missing;
        };
        let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let from = range.and_then(|(from, _)| from.parse().ok()).unwrap_or(0usize).min(file.len());
        self.resumed.fetch_or(from > 0, Ordering::SeqCst);
        let to = range.and_then(|(_, to)| to.parse::<usize>().ok()).map_or(file.len(), |to| file.len().min(to + 1));
        let etag = file.iter().fold(file.len() as u64, |hash, &byte| hash.wrapping_mul(31) + byte as u64);
        let headers = format!(
            "ETag: \"{etag:x}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\n",
            to.saturating_sub(1),
            file.len()
        );
        ("206 Partial Content", headers, file[from..to].to_vec())
    }
}
