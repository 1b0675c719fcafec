//! The operator: `tidings-operator --help` says what it does.

use std::process::ExitCode;

use clap::Parser;
use tidings_operator::config::Args;
use tidings_process::error_chain::chain;

#[tokio::main]
async fn main() -> ExitCode {
    match tidings_operator::run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            // The one place where the chain of causes is printed.
            eprintln!("tidings-operator: {}", chain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}
