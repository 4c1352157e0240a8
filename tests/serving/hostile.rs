//! Hostile clients and broken files.

use std::io::Read;
use std::time::{Duration, Instant};

use peft_serve::http::HttpConfig;
use peft_serve::{EngineConfig, StoreConfig};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Response, Server};

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "world", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let server = Server::new();
    let cases = [
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"made_up": 1}), "made_up"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"stop": ""}), "stop"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"stream": true, "stream_options": {"other": 1}}), "stream_options.other"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hi"}), "messages"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": "x", "tool_call_id": "7"}]}), "messages[0].tool_call_id"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "messages[0].content[0]",
        ),
    ];
    for (extra, param) in cases {
        let answer = server.post("/v1/chat/completions", &chat(extra.clone()));
        assert_eq!((answer.status, &answer.error().1), (400, &json!(param)), "{extra}: {}", answer.body);
    }
    let nothing =
        json!({"tools": null, "response_format": {"type": "text"}, "logit_bias": null, "stop": null, "n": null});
    assert_eq!(server.post("/v1/chat/completions", &chat(nothing)).status, 200);
    let long = server.post("/v1/chat/completions", &chat(json!({"max_tokens": 255})));
    assert_eq!((long.status, long.error().2), (400, json!("context_length_exceeded")));
    for body in ["", "[]", "{", "\"x\"", "{\"model\": 1}", "{\"model\": \"world\"}"] {
        assert_eq!(server.send("POST", "/v1/completions", &[], body).status, 400, "{body}");
    }
    assert_eq!(server.get("/v1/completions").status, 405);
    assert_eq!(server.get("/v1/other").status, 404);
    assert_eq!(server.post("/v1/completions", &json!({"model": "none", "prompt": "x"})).error().1, "model");
    server.assert_at_rest();
}

#[test]
fn a_large_body_is_refused_and_a_long_prompt_is_answered_with_its_length() {
    let config = HttpConfig { body_limit: 4 << 20, ..HttpConfig::default() };
    let server = Server::with(config, EngineConfig::default(), StoreConfig::default());
    let long = server.post("/v1/completions", &json!({"model": "world", "prompt": "word ".repeat(200_000)}));
    assert_eq!((long.status, long.error().2), (400, json!("context_length_exceeded")));
    let larger = server.post("/v1/completions", &json!({"model": "world", "prompt": "word ".repeat(1 << 20)}));
    assert_eq!(larger.status, 413);
    assert!(larger.error().0.contains("larger"));
}

#[rstest]
#[case("GET", "/")]
#[case("GET", "/metrics")]
#[case("GET", "/v1/models")]
#[case("GET", "/v1/models/lora")]
#[case("GET", "/v1/lora_adapters")]
#[case("POST", "/v1/completions")]
#[case("POST", "/v1/chat/completions")]
#[case("POST", "/v1/load_lora_adapter")]
#[case("POST", "/v1/unload_lora_adapter")]
#[case("GET", "/nothing")]
#[case("PUT", "/v1/models")]
fn every_route_asks_for_a_key(#[case] method: &str, #[case] path: &str) {
    let keys =
        HttpConfig { api_key: Some("inference".into()), admin_key: Some("admin".into()), ..HttpConfig::default() };
    let server = Server::with(keys, EngineConfig::default(), StoreConfig::default());
    assert_eq!(server.get("/health").status, 200);
    let with = |key: &str| server.send(method, path, &[("authorization", key)], "{}").status;
    let without = server.send(method, path, &[], "{}");
    assert_eq!((without.status, without.error().2), (401, json!("invalid_api_key")));
    for wrong in ["Bearer wrong", "Bearer ", "inference", "Basic aW5mZXJlbmNl", "Bearer inferencf"] {
        assert_eq!(with(wrong), 401, "{wrong}");
    }
    let admin = path.contains("load_lora");
    assert_eq!(with("Bearer inference") == 403, admin);
    assert!(![401, 403].contains(&with("Bearer admin")));
    // A browser sends the key as a password.
    assert!(admin || with("Basic dTppbmZlcmVuY2U=") != 401);
}

#[test]
fn no_path_of_a_client_leaves_the_folder() {
    let server = Server::new();
    let outside = tempfile::tempdir().unwrap();
    crate::support::write_adapters(outside.path());
    let root = server.folder.path();
    std::os::unix::fs::symlink(outside.path().join("lora"), root.join("link")).unwrap();
    let absolute = root.join("lora").to_str().unwrap().to_owned();
    let parent = format!("../{}/lora", outside.path().file_name().unwrap().to_str().unwrap());
    for path in ["..", "../..", &parent, &absolute, "/etc", "link", "lora/../../x", "", "none", "lora\u{0}"] {
        let answer = server.post("/v1/load_lora_adapter", &json!({"lora_name": "new", "lora_path": path}));
        assert_eq!((answer.status, answer.error().1), (400, json!("lora_path")), "{path}: {}", answer.body);
    }
    for name in ["", "..", "a/../b", "/a", "a//b", "world", &"x".repeat(257), "a\nb"] {
        let answer = server.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": "lora"}));
        assert_eq!(answer.status, 400, "{name}");
    }
    for name in ["link", "../x", "lora/../lora"] {
        let answer = server.post("/v1/completions", &json!({"model": name, "prompt": "x"}));
        assert!([404, 500].contains(&answer.status), "{name}: {}", answer.body);
        assert!(!answer.body.contains(outside.path().to_str().unwrap()));
    }
    server.assert_at_rest();
}

#[test]
fn broken_files_are_named_and_good_ones_are_still_served() {
    let server = Server::new();
    let root = server.folder.path();
    let copy = |name: &str| {
        std::fs::create_dir_all(root.join(name)).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(root.join("lora").join(file), root.join(name).join(file)).unwrap();
        }
        root.join(name)
    };
    let weights = "adapter_model.safetensors";
    let short = copy("short").join(weights);
    let bytes = std::fs::read(&short).unwrap();
    std::fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(copy("garbage").join(weights), b"not a safetensors file").unwrap();
    std::fs::write(copy("config").join("adapter_config.json"), b"{\"peft_type\": \"NEW\"}").unwrap();
    std::fs::remove_file(copy("missing").join(weights)).unwrap();
    let pipe = copy("folder").join(weights);
    std::fs::remove_file(&pipe).unwrap();
    std::fs::create_dir(&pipe).unwrap();
    for name in ["short", "garbage", "config", "missing", "folder"] {
        let answer = server.post("/v1/completions", &json!({"model": name, "prompt": "x"}));
        assert_eq!((answer.status, answer.header("x-should-retry")), (500, Some("false")), "{name}: {}", answer.body);
        assert!(answer.error().0.contains(name), "{}", answer.body);
        assert!(!answer.body.contains(root.to_str().unwrap()), "{}", answer.body);
    }
    let good = server.text("lora", "The");
    // Repaired, it is served: nothing is remembered.
    std::fs::write(&short, &bytes).unwrap();
    assert_eq!(server.text("short", "The"), good);
    server.assert_at_rest();
}

#[test]
fn files_that_change_while_they_are_loaded_never_end_the_server() {
    let server = Server::new();
    let file = server.folder.path().join("lora/adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut i = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::write(&file, &bytes[..bytes.len() * (i % 5) / 4]).unwrap();
                i += 1;
            }
            std::fs::write(&file, &bytes).unwrap();
        });
        for _ in 0..60 {
            let body = json!({"lora_name": "lora", "lora_path": "lora", "load_inplace": true});
            let answer = server.post("/v1/load_lora_adapter", &body);
            assert!([200, 400].contains(&answer.status), "{}", answer.body);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let body = json!({"lora_name": "lora", "lora_path": "lora", "load_inplace": true});
    assert_eq!(server.post("/v1/load_lora_adapter", &body).status, 200);
    server.text("lora", "The");
    server.assert_at_rest();
}

/// Clients that go away before the first token, in the middle, and that never read.
#[test]
fn who_goes_away_frees_everything() {
    let server = Server::new();
    let long = |stream: bool| {
        json!({"model": "dora", "prompt": vec![5; 200], "max_tokens": 50, "ignore_eos": true, "stream": stream})
            .to_string()
    };
    for _ in 0..8 {
        drop(server.open("POST", "/v1/completions", &[], &long(true)));
        drop(server.open("POST", "/v1/completions", &[], &long(false)));
    }
    let mut half = server.open("POST", "/v1/completions", &[], &long(true));
    let mut some = [0; 300];
    half.read_exact(&mut some).unwrap();
    assert!(std::str::from_utf8(&some).unwrap().contains("data: "));
    drop(half);
    let slow: Vec<_> = (0..4).map(|_| server.open("POST", "/v1/completions", &[], &long(true))).collect();
    server.text("lora", "The");
    drop(slow);
    server.assert_at_rest();
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let engine = EngineConfig { max_batch: 1, max_queue: 1, ..EngineConfig::default() };
    let server = Server::with(HttpConfig::default(), engine, StoreConfig::default());
    let body = json!({"model": "world", "prompt": [5, 6], "max_tokens": 200, "ignore_eos": true}).to_string();
    let open: Vec<_> = (0..8).map(|_| server.open("POST", "/v1/completions", &[], &body)).collect();
    let answers: Vec<Response> = open.into_iter().map(Response::read).collect();
    let full: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!full.is_empty() && full.len() <= 6, "{answers:?}");
    assert!(full.iter().all(|answer| answer.header("retry-after").is_some() && answer.error().2 == "queue_full"));
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 2);
    server.assert_at_rest();
}

#[test]
fn adapters_without_room_are_refused_and_come_later() {
    let store = StoreConfig { memory: 60_000, ..StoreConfig::default() };
    let engine = EngineConfig { adapter_wait: Duration::from_millis(50), ..EngineConfig::default() };
    let server = Server::with(HttpConfig::default(), engine, store);
    let too_large = server.post("/v1/completions", &json!({"model": "lora", "prompt": "x"}));
    assert_eq!((too_large.status, too_large.header("x-should-retry")), (503, Some("false")), "{}", too_large.body);
    let pinned =
        server.post("/v1/load_lora_adapter", &json!({"lora_name": "mine", "lora_path": "ia3", "pinned": true}));
    assert_eq!(pinned.status, 200, "{}", pinned.body);
    server.text("mine", "The");
    server.assert_at_rest();
}

#[test]
fn a_template_error_has_the_templates_message() {
    let server = Server::new();
    let path = server.folder.path().join("ia3/chat_template.jinja");
    std::fs::write(path, "{{ raise_exception('roles must alternate') }}").unwrap();
    let mut body = chat(json!({}));
    body["model"] = "ia3".into();
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!((answer.status, answer.error().2), (400, json!("template_error")), "{}", answer.body);
    assert!(answer.error().0.contains("roles must alternate"));
    // The base's is another.
    assert_eq!(server.post("/v1/chat/completions", &chat(json!({}))).status, 200);
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_it_has_begun() {
    let mut server = Server::new();
    let body = json!({"model": "lora", "prompt": [5, 6, 7], "max_tokens": 100, "ignore_eos": true, "stream": true})
        .to_string();
    let open: Vec<_> = (0..3).map(|_| server.open("POST", "/v1/completions", &[], &body)).collect();
    while server.handle.open() < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.end();
    while !server.handle.is_draining() {
        std::thread::sleep(Duration::from_millis(1));
    }
    for answer in open.into_iter().map(Response::read) {
        let events = answer.events();
        assert_eq!(events[events.len() - 1]["choices"][0]["finish_reason"], "length");
    }
    server.join();
    server.assert_at_rest();
}

#[test]
fn what_does_not_end_in_time_is_told_so() {
    let http = HttpConfig { shutdown_timeout: Duration::ZERO, ..HttpConfig::default() };
    let engine = EngineConfig { max_batch: 1, ..EngineConfig::default() };
    let mut server = Server::with(http, engine, StoreConfig::default());
    let body = json!({"model": "world", "prompt": vec![5; 100], "max_tokens": 150, "ignore_eos": true, "stream": true, "n": 8}).to_string();
    let mut open = server.open("POST", "/v1/completions", &[], &body);
    let mut some = [0; 300];
    open.read_exact(&mut some).unwrap();
    let begun = Instant::now();
    server.end();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"error\"") && rest.contains("shutting down"), "{rest}");
    server.join();
    assert!(begun.elapsed() < Duration::from_secs(10));
    server.assert_at_rest();
}
