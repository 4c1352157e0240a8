//! The official client.

use peft_burn_workspace::{python_with, run_script};

use crate::support::Server;

#[test]
fn the_openai_package_talks_to_it() {
    let Some(python) = python_with(&["openai"]) else { return };
    let server = Server::new();
    let address = server.folder.path().join("address");
    std::fs::write(&address, format!("http://{}/v1", server.address)).unwrap();
    run_script(&python, "openai_client.py", &address);
    server.assert_at_rest();
}
