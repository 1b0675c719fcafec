//! Measures a real gateway, with a real nats-server behind it, beside the floor of the machine and nchan.
//!
//! `docs/performance.md` says how to run it and what the figures mean.

mod case;
mod client;
mod floor;
mod latency;
mod load;
mod payload;
mod poll;
mod report;
mod server;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::case::{Case, Scale};
use crate::report::Report;
use crate::server::{Kind, Server};

/// Measures Tidings beside the floor of the machine and nchan.
#[derive(Debug, Parser)]
#[command(name = "tidings-bench", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which cases; repeatable [default: the essential ones]
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<Case>,
    /// All cases
    #[arg(long)]
    all: bool,
    /// Which servers; repeatable [default: all that are installed]
    #[arg(long = "server", value_name = "SERVER")]
    servers: Vec<Kind>,
    /// How often; the table shows medians
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// How many seconds each case publishes
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How many subscribers "10,000" are
    #[arg(long, default_value_t = 10_000)]
    many: usize,
    /// Where the lines of JSON are added
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// An earlier run's lines of JSON to compare with
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Prints the table of lines written earlier, and measures nothing
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The floor server, for the benchmark itself
    #[command(hide = true)]
    Floor { address: SocketAddr },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    if let Some(Command::Floor { address }) = arguments.command {
        return floor::serve(address);
    }
    let read = |file: &PathBuf| -> Result<Report> {
        Report::read(&fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?)
    };
    let before = arguments.before.as_ref().map(read).transpose()?;
    let mut out = std::io::stdout();
    if let Some(file) = &arguments.show {
        write!(out, "{}", read(file)?.table(before.as_ref()))?;
        return Ok(());
    }
    let report = measure(&arguments)?;
    write!(out, "\n{}", report.table(before.as_ref()))?;
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Report> {
    let program = std::env::current_exe()?;
    let programs = program.parent().context("a program stands in a folder")?;
    let mut kinds = arguments.servers.clone();
    if kinds.is_empty() {
        kinds = Kind::value_variants().to_vec();
        if !server::has_nchan() {
            say("nchan is not installed (Debian: libnginx-mod-nchan); going on without it.")?;
            kinds.retain(|kind| *kind != Kind::Nchan);
        }
    }
    let cases = match (arguments.all, arguments.cases.as_slice()) {
        (true, _) => Case::value_variants(),
        (false, []) => Case::ESSENTIAL,
        (false, cases) => cases,
    };
    let mut core = CpuSet::new();
    core.set(1);
    sched_setaffinity(None, &core).context("the benchmark needs two cores")?;
    let scale = Scale { lasts: Duration::from_secs_f64(arguments.seconds), many: arguments.many };
    let mut report = Report::default();
    for round in 1..=arguments.rounds {
        for kind in &kinds {
            for case in cases.iter().filter(|case| case.suits(*kind)) {
                // A fresh one each time: what an earlier case has left behind is no part of the next.
                let server = Server::start(*kind, programs)?;
                let load = load_average();
                let figures = case
                    .measure(&server, scale)
                    .with_context(|| format!("{} on {}, round {round}", case.name(), kind.name()))?;
                let line = report.add(*case, *kind, round, load, figures)?;
                say(&line)?;
                if let Some(file) = &arguments.out {
                    let mut file = fs::File::options().create(true).append(true).open(file)?;
                    writeln!(file, "{line}")?;
                }
            }
        }
    }
    Ok(report)
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default()
}
