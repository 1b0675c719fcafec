//! The gateway's process.

use anyhow::Context;
use clap::Parser;
use tidings_gateway::config::args::{Arguments, Config};
use tidings_gateway::signal::Signals;
use tidings_gateway::{logging, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::from(Arguments::parse());
    logging::start(&config).context("--log cannot be read")?;
    run::run(config, Signals::new()?).await?;
    Ok(())
}
