//! The contract: models, completions, chat, streams, loading.

use peft_serve::http::HttpConfig;
use peft_serve::{EngineConfig, StoreConfig};
use serde_json::{Value, json};

use crate::support::{Server, configs, model, write_adapter};

#[test]
fn models_and_adapters_are_listed_by_their_public_names() {
    let server = Server::new();
    let listed = server.get("/v1/models").json();
    let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["world", "adalora", "dora", "ia3", "lora", "vera"]);
    let base = server.get("/v1/models/world").json();
    assert_eq!((&base["parent"], &base["object"]), (&Value::Null, &json!("model")));
    let vera = server.get("/v1/models/vera").json();
    assert_eq!((&vera["parent"], &vera["root"], &vera["peft_type"]), (&json!("world"), &json!("vera"), &json!("VERA")));
    assert_eq!(vera["adapter_generation"], 0);
    server.text("vera", "The");
    assert_eq!(server.get("/v1/models/vera").json()["adapter_generation"], 1);
    assert_eq!(server.get("/v1/models/none").error().2, "model_not_found");
    assert!(!server.get("/v1/models").body.contains(server.folder.path().to_str().unwrap()));
    let listed = server.get("/v1/lora_adapters").json();
    let state = |name: &str| {
        listed["data"].as_array().unwrap().iter().find(|a| a["lora_name"] == name).unwrap()["state"].clone()
    };
    assert_eq!((state("vera"), state("lora")), (json!("resident"), json!("registered")));
}

#[test]
fn completions_differ_by_adapter_and_streams_say_the_same() {
    let server = Server::new();
    let mut texts = std::collections::BTreeSet::new();
    for model in ["world", "lora", "dora", "adalora", "vera", "ia3"] {
        let text = server.text(model, "The courier");
        let body = json!({"model": model, "prompt": "The courier", "max_tokens": 12, "temperature": 0, "stream": true,
            "stream_options": {"include_usage": true}});
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let events = answer.events();
        let said: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
        assert_eq!(said, text);
        assert!(
            events
                .iter()
                .all(|e| e["model"] == model && e["id"] == events[0]["id"] && e["object"] == "text_completion")
        );
        let last = &events[events.len() - 1];
        assert_eq!((&last["choices"], last["usage"]["completion_tokens"].as_u64() > Some(0)), (&json!([]), true));
        assert!(events[..events.len() - 1].iter().all(|e| e["usage"].is_null()));
        texts.insert(text);
    }
    assert!(texts.len() >= 5, "{texts:?}");
    server.assert_at_rest();
}

#[test]
fn a_chat_has_roles_choices_logprobs_and_usage() {
    let server = Server::new();
    let mut body = json!({"model": "lora", "messages": [{"role": "system", "content": "Short."},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]}],
        "max_completion_tokens": 6, "n": 3, "seed": 5, "temperature": 1.2, "logprobs": true, "top_logprobs": 2, "user": "u"});
    let whole = server.post("/v1/chat/completions", &body);
    assert_eq!(whole.status, 200, "{}", whole.body);
    let whole = whole.json();
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!((choices.len(), &whole["object"], &whole["model"]), (3, &json!("chat.completion"), &json!("lora")));
    let contents: Vec<&str> = choices.iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
    assert!(contents[0] != contents[1] || contents[1] != contents[2]);
    for choice in choices {
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        for token in tokens {
            let top = token["top_logprobs"].as_array().unwrap();
            assert!(top.len() == 2 && top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
            assert!(
                token["logprob"].as_f64().unwrap() <= top[0]["logprob"].as_f64().unwrap() && token["bytes"].is_array()
            );
        }
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|t| t["bytes"].as_array().unwrap()).map(|b| b.as_u64().unwrap() as u8).collect();
        assert_eq!(String::from_utf8(bytes).unwrap().trim(), choice["message"]["content"].as_str().unwrap().trim());
    }
    let usage = &whole["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64(),
        usage["prompt_tokens"].as_u64().zip(usage["completion_tokens"].as_u64()).map(|(a, b)| a + b)
    );
    // The same seed, streamed: the same texts.
    body["stream"] = true.into();
    let events = server.post("/v1/chat/completions", &body).events();
    for (i, content) in contents.iter().enumerate() {
        let own: Vec<&Value> = events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == i).collect();
        assert_eq!(own[0]["delta"]["role"], "assistant");
        let said: String = own.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(said, *content);
        assert_eq!((&own[own.len() - 1]["delta"], own[own.len() - 1]["finish_reason"].is_string()), (&json!({}), true));
    }
    assert!(events.iter().all(|e| e.get("usage").is_none()));
    server.assert_at_rest();
}

#[test]
fn prompts_may_be_lists_and_ids_and_are_echoed_with_their_logprobs() {
    let server = Server::new();
    let one = json!({"model": "vera", "prompt": ["The courier", "A"], "max_tokens": 3, "temperature": 0, "echo": true, "logprobs": 1});
    let whole = server.post("/v1/completions", &one).json();
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert!(choices[0]["text"].as_str().unwrap().starts_with("The courier"));
    let known = &choices[0]["logprobs"];
    assert!(known["token_logprobs"][0].is_null() && known["token_logprobs"][1].as_f64().unwrap() < 0.0);
    assert_eq!(known["tokens"].as_array().unwrap().len(), known["text_offset"].as_array().unwrap().len());
    let ids = json!({"model": "vera", "prompt": [[5, 6, 7], [8, 9]], "max_tokens": 0, "echo": true, "logprobs": 0});
    let whole = server.post("/v1/completions", &ids).json();
    assert_eq!(whole["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&whole["usage"]["completion_tokens"], &whole["choices"][1]["finish_reason"]),
        (&json!(0), &json!("length"))
    );
    server.assert_at_rest();
}

#[test]
fn adapters_come_and_go_while_the_server_runs() {
    let server = Server::new();
    write_adapter(&model(), &configs()[0].1, 99, &server.folder.path().join("late/adapter"));
    // One that has come into the folder is there.
    let late = server.text("late", "The courier");
    let load = |body: Value| server.post("/v1/load_lora_adapter", &body);
    let done = load(json!({"lora_name": "org/alias", "lora_path": "late", "pinned": true}));
    assert_eq!((done.status, done.body.as_str()), (200, "Success: LoRA adapter 'org/alias' added successfully."));
    assert_eq!(server.text("org/alias", "The courier"), late);
    assert_eq!(server.get("/v1/models/org/alias").json()["peft_type"], "LORA");
    assert_eq!(server.get("/v1/models/org%2Falias").status, 200);
    let twice = load(json!({"lora_name": "org/alias", "lora_path": "vera"}));
    assert_eq!((twice.status, twice.error().2), (400, json!("adapter_exists")));
    let wrong =
        load(json!({"lora_name": "org/alias", "lora_path": "vera", "load_inplace": true, "expected_generation": 7}));
    assert_eq!((wrong.status, wrong.header("x-should-retry")), (409, Some("false")));
    let replaced =
        load(json!({"lora_name": "org/alias", "lora_path": "vera", "load_inplace": true, "expected_generation": 1}));
    assert_eq!(replaced.status, 200, "{}", replaced.body);
    assert_eq!(server.text("org/alias", "The courier"), server.text("vera", "The courier"));
    assert_eq!(server.get("/v1/models/org/alias").json()["adapter_generation"], 2);
    let gone = server.post("/v1/unload_lora_adapter", &json!({"lora_name": "org/alias"}));
    assert_eq!((gone.status, gone.body.as_str()), (200, "Success: LoRA adapter 'org/alias' removed successfully."));
    let body = json!({"model": "org/alias", "prompt": "x"});
    assert_eq!(server.post("/v1/completions", &body).status, 404);
    assert_eq!(server.post("/v1/unload_lora_adapter", &json!({"lora_name": "org/alias"})).status, 404);
    server.assert_at_rest();
}

#[test]
fn a_thousand_adapters_share_a_memory_that_holds_a_few() {
    let folder = tempfile::tempdir().unwrap();
    let (_, vera) = &configs()[3];
    write_adapter(&model(), vera, 1, &folder.path().join("tenant-0"));
    for i in 1..1000 {
        let to = folder.path().join(format!("tenant-{i}"));
        std::fs::create_dir(&to).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::hard_link(folder.path().join("tenant-0").join(name), to.join(name)).unwrap();
        }
    }
    let store = StoreConfig { memory: 300_000, ..StoreConfig::default() };
    let begun = std::time::Instant::now();
    let server = Server::over(folder, HttpConfig::default(), EngineConfig::default(), store);
    assert!(begun.elapsed().as_secs_f64() < 5.0);
    let first = server.text("tenant-0", "The courier");
    for i in (0..1000).step_by(37) {
        assert_eq!(server.text(&format!("tenant-{i}"), "The courier"), first);
    }
    assert!(server.handle.store().used_bytes() <= 300_000);
    server.assert_at_rest();
    // The gauges follow at the end of a step.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let metrics = server.get("/metrics").body;
    let value = |name: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(value("peft:adapter_evictions_total") > 0.0 && value("peft:adapter_loads_total") >= 28.0);
    assert_eq!((value("peft:adapters_registered"), value("vllm:num_requests_running")), (1000.0, 0.0));
    assert!(value("vllm:time_to_first_token_seconds_count") >= 28.0);
    server.assert_at_rest();
}

#[test]
fn the_page_is_there() {
    let page = Server::new().get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type").unwrap().starts_with("text/html") && page.body.contains("/v1/chat/completions")
    );
}
