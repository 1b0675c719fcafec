//! Writes what is generated from the types in this crate.
//!
//! - `crdgen`: prints the CustomResourceDefinition as YAML.
//! - `crdgen docs`: prints the reference of the Channel as Markdown.

use std::io::Write;
use std::process::ExitCode;

use tidings_crds::{definition, reference};

const USAGE: &str = "usage: crdgen [docs]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] => print(&definition::crd_yaml()),
        ["docs"] => print(&reference::markdown()),
        _ => Err(std::io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> std::io::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes())
}
