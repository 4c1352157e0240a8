//! `peft serve`, from its start to the signal that ends it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Place, glassllm, helps};

/// The body of an answer to a request.
fn ask(address: &str, method: &str, path: &str, body: &str) -> Value {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn a_run_is_served_by_its_name_until_the_signal() {
    let place = Place::new();
    let trained = place.run("train run.toml --set training.max_steps=2");
    assert_eq!(trained.code, 0, "{}", trained.err);
    let model = glassllm().display().to_string();
    let args = ["serve", "--model", &model, "--adapters", ".", "--port", "0", "--name", "glass"];
    let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("http://")).unwrap();
    let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let models = ask(&address, "GET", "/v1/models", "");
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["glass", "run"]);
    for id in ids {
        let body = json!({"model": id, "prompt": "Alice was", "max_tokens": 4, "temperature": 0}).to_string();
        let answer = ask(&address, "POST", "/v1/completions", &body);
        let usage = &answer["usage"]["completion_tokens"];
        assert!(answer["model"] == id && usage.as_u64().is_some_and(|n| (1..=4).contains(&n)), "{answer}");
    }
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_served_is_said() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    place.run(&format!("serve --model {model} --adapters nowhere")).fails_with(&["nowhere"]);
    let help = "choose another --host or --port";
    helps(&place.run(&format!("serve --model {model} --host 256.0.0.1 --port 0")), "256.0.0.1", &[help]);
    let batch = place.run(&format!("serve --model {model} --port 0 --max-batch 0"));
    helps(&batch, "--max-batch and --max-prefill", &["leave them out for the usual sizes"]);
    place.copy_model("own");
    place.write("own/generation_config.json", r#"{"do_sample": true, "temperature": 0.6, "no_repeat_ngram_size": 2}"#);
    let said = place.run("serve --model own --host 256.0.0.1 --port 0");
    let warning =
        "generation_config.json has temperature = 0.6, top_k = 50, no_repeat_ngram_size = 2: requests that leave";
    assert!(said.err.contains(warning), "{}", said.err);
    // Both followed: it listens.
    let args = ["serve", "--model", &model, "--host", "127.0.0.1", "--port", "0"];
    let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("http://127.0.0.1")));
    child.kill().unwrap();
    child.wait().unwrap();
}
