//! The gateway's process.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use tidings_gateway::config::args::{Arguments, Config};
use tidings_gateway::run;
use tidings_gateway::signal::Signals;
use tracing::error;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::from(Arguments::parse());
    // To the end of `main`: dropped, it writes the last lines.
    let _flush = match config.start_logging() {
        Ok(flush) => flush,
        Err(error) => {
            eprintln!("Error: --log is not a valid filter: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = match Signals::new() {
        Ok(signals) => run::run(config, signals).await.map_err(|error| Box::new(error) as Box<dyn Error>),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = &*error, "The gateway stopped with an error.");
            ExitCode::FAILURE
        }
    }
}
