//! Clients that others wrote: the official Python package, `async-openai`, a browser.

use peft_burn_workspace::{python_with, run_script};

use crate::support::Server;

/// Runs a script that is given the server's address, with `path` at its end.
fn talk(python: &std::path::Path, script: &str, path: &str) {
    let server = Server::new();
    let address = server.folder.path().join("address");
    std::fs::write(&address, format!("http://{}{path}", server.address)).unwrap();
    run_script(python, script, &address);
    server.assert_at_rest();
}

#[test]
fn the_openai_package_talks_to_it() {
    let Some(python) = python_with(&["openai"]) else { return };
    talk(&python, "openai_client.py", "/v1");
}

/// Where `PEFT_CHROMEDRIVER` names Chromium's driver.
#[test]
fn the_page_lets_two_adapters_answer_in_a_browser() {
    if std::env::var_os("PEFT_CHROMEDRIVER").is_none() {
        return;
    }
    let python = python_with(&["json"]).expect("PEFT_CHROMEDRIVER is set, and the browser is driven from PEFT_PYTHON");
    talk(&python, "page.py", "/");
}
