//! The Python that the reference libraries are installed in.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Python that can import `modules`: the one that `PEFT_PYTHON` names, or `python3` where that is not set. `None`, with a
/// message, where `python3` cannot: such a test has nothing to compare with.
///
/// # Panics
/// `PEFT_PYTHON` names one that cannot: a test that was told to run must not be skipped.
pub fn python_with(modules: &[&str]) -> Option<PathBuf> {
    let script = format!("import {}", modules.join(", "));
    let asked = std::env::var_os("PEFT_PYTHON").filter(|name| !name.is_empty()).map(PathBuf::from);
    let python = asked.clone().unwrap_or_else(|| "python3".into());
    let problem = match Command::new(&python).args(["-c", &script]).output() {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(asked.is_none(), "PEFT_PYTHON is {}, and `{script}` fails there: {problem}", python.display());
    eprintln!("skipped: set PEFT_PYTHON to a Python in which `{script}` works");
    None
}

/// Runs a script of `tests/python` on `argument`.
///
/// # Panics
/// When the script fails, with what it printed.
pub fn run_script(python: &Path, script: &str, argument: &Path) {
    run_script_with(python, script, &[argument.as_os_str()]);
}

/// As [`run_script`], with several arguments.
///
/// # Panics
/// When the script fails, with what it printed.
pub fn run_script_with(python: &Path, script: &str, arguments: &[&OsStr]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
