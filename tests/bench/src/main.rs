//! Measures a real gateway, with a real nats-server behind it, beside the floor of the machine and nchan.
//!
//! `docs/performance.md` says how to run it and what the figures mean.

mod case;
mod client;
mod crowd;
mod floor;
mod grow;
mod h2;
mod latency;
mod link;
mod load;
mod machine;
mod payload;
mod place;
mod plot;
mod poll;
mod probe;
mod process;
mod publisher;
mod report;
mod secure;
mod server;
mod sizing;
mod target;
mod token;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::case::{Case, Figures, Scale};
use crate::grow::Point;
use crate::machine::Machine;
use crate::report::{Report, put_into};
use crate::server::{Kind, Server};

/// Measures Tidings beside the floor of the machine and nchan.
#[derive(Debug, Parser)]
#[command(name = "tidings-bench", max_term_width = 110, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Args)]
struct Run {
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
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many seconds after all have left memory is looked at; a third of it with TLS and HTTP/2, a tenth for others
    #[arg(long, default_value_t = 30.0)]
    linger: f64,
    /// How many subscribers "10,000" are
    #[arg(long, default_value_t = 10_000)]
    many: usize,
    /// Where the lines of JSON are written
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// An earlier run's lines of JSON to compare with
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// A document to put the tables into, between its comments that say so
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Shows lines written earlier, and measures nothing
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,
    /// Fails if anything was lost, repeated or out of order
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures how cost grows with subscribers, channels and topics
    Grow(Growing),
    /// Draws what `grow` has written
    Draw {
        /// Its lines of JSON
        lines: PathBuf,
        /// The picture (SVG)
        picture: PathBuf,
    },
    /// More subscribers than one process may have open files: several gateways behind one NATS
    Crowd {
        /// How many gateways
        #[arg(long, default_value_t = 3)]
        gateways: usize,
        /// How many subscribers, in all
        #[arg(long, default_value_t = 51_000)]
        subscribers: usize,
        /// How many seconds to publish, twice a second
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Where the lines of JSON are written
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// A generator of `crowd`
    #[command(hide = true)]
    Readers { gateway: SocketAddr, nats: SocketAddr, subscribers: usize, publications: u64 },
    /// The floor server, for the benchmark itself
    #[command(hide = true)]
    Floor { address: SocketAddr },
}

#[derive(Debug, Args)]
struct Growing {
    /// Which servers; repeatable [default: all that are installed]
    #[arg(long = "server", value_name = "SERVER")]
    servers: Vec<Kind>,
    /// Only this: grow-subscribers, grow-topics or grow-channels
    #[arg(long)]
    only: Option<String>,
    /// How often; the picture shows medians
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// How many seconds each point publishes
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Where the lines of JSON are written
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the picture (SVG) is written
    #[arg(long, value_name = "FILE")]
    draw: Option<PathBuf>,
}

/// Where the lines of a run go to.
#[derive(Debug)]
struct Record {
    file: Option<fs::File>,
}

fn main() -> Result<()> {
    let Arguments { command, run } = Arguments::parse();
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    match command {
        Some(Command::Floor { address }) => floor::serve(address),
        Some(Command::Grow(growing)) => grow(&growing),
        Some(Command::Crowd { gateways, subscribers, seconds, out }) => {
            let programs = prepare()?;
            let (mut report, first) = Report::begin(Machine::look(seconds, subscribers))?;
            let mut record = Record::create(out.as_deref())?;
            record.write(&first)?;
            let load = load_average();
            let figures = crowd::measure(&programs, gateways, subscribers, Duration::from_secs_f64(seconds))?;
            record.write(&report.add("crowd", Kind::Tidings, 1, load, figures)?)
        }
        Some(Command::Readers { gateway, nats, subscribers, publications }) => {
            crowd::readers(gateway, nats, subscribers, publications)
        }
        Some(Command::Draw { lines, picture }) => Ok(fs::write(picture, plot::growth(&read(&lines)?))?),
        None => table(&run),
    }
}

fn grow(growing: &Growing) -> Result<()> {
    let programs = prepare()?;
    let kinds = installed(&growing.servers)?;
    let (mut report, first) = Report::begin(Machine::look(growing.seconds, 10_000))?;
    let mut record = Record::create(growing.out.as_deref())?;
    record.write(&first)?;
    let wanted = |point: &Point| growing.only.as_deref().is_none_or(|only| only == point.growth.name());
    for round in 1..=growing.rounds {
        for point in Point::all().into_iter().filter(wanted) {
            for kind in kinds.iter().copied().filter(|kind| point.suits(*kind)) {
                let load = load_average();
                let figures = point
                    .measure(kind, &programs, Duration::from_secs_f64(growing.seconds))
                    .with_context(|| format!("{point:?} on {}, round {round}", kind.name()))?;
                record.write(&report.add(point.growth.name(), kind, round, load, figures)?)?;
            }
        }
    }
    if let Some(file) = &growing.draw {
        fs::write(file, plot::growth(&report))?;
    }
    Ok(())
}

fn table(run: &Run) -> Result<()> {
    let before = run.compare.as_deref().map(read).transpose()?;
    let report = match &run.show {
        Some(file) => read(file)?,
        None => measure(run)?,
    };
    let table = report.table(before.as_ref());
    write!(std::io::stdout(), "\n{table}")?;
    if let Some(file) = &run.markdown {
        let document = fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        let document = put_into(&document, "table", &table)?;
        fs::write(file, put_into(&document, "sizing", &sizing::table(&report))?)?;
    }
    ensure!(!run.strict || report.faults() == 0.0, "{} faults: the lines above say where", report.faults());
    Ok(())
}

fn read(file: &Path) -> Result<Report> {
    Report::read(&fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?)
}

fn measure(run: &Run) -> Result<Report> {
    let programs = prepare()?;
    let kinds = installed(&run.servers)?;
    let cases = match (run.all, run.cases.as_slice()) {
        (true, _) => Case::value_variants(),
        (false, []) => Case::ESSENTIAL,
        (false, cases) => cases,
    };
    let scale = Scale {
        lasts: Duration::from_secs_f64(run.seconds),
        lingers: Duration::from_secs_f64(run.linger),
        many: run.many,
    };
    let (mut report, first) = Report::begin(Machine::look(run.seconds, run.many))?;
    let mut record = Record::create(run.out.as_deref())?;
    record.write(&first)?;
    for round in 1..=run.rounds {
        for case in cases {
            // Each round begins with another one: what is hot or cold, throttled or not, falls on all alike.
            let turn = (0..kinds.len()).filter_map(|n| kinds.get((n + round as usize) % kinds.len()).copied());
            for kind in turn.filter(|kind| case.leaves_out(*kind).is_none()) {
                let load = load_average();
                let figures = once(*case, kind, &programs, scale)
                    .with_context(|| format!("{} on {}, round {round}", case.name(), kind.name()))?;
                record.write(&report.add(&case.name(), kind, round, load, figures)?)?;
            }
        }
    }
    Ok(report)
}

/// On a fresh server: what an earlier case has left behind is no part of the next.
fn once(case: Case, kind: Kind, programs: &Path, scale: Scale) -> Result<Figures> {
    let mut server = Server::start(kind, programs, case.setting(kind)?)?;
    case.measure(&mut server, scale)
}

/// Takes its core; tells where the programs are.
fn prepare() -> Result<PathBuf> {
    let mut core = CpuSet::new();
    core.set(1);
    sched_setaffinity(None, &core).context("the benchmark needs two cores")?;
    let program = std::env::current_exe()?;
    Ok(program.parent().context("a program stands in a folder")?.to_owned())
}

/// Those that were asked for, or all that are there.
fn installed(wanted: &[Kind]) -> Result<Vec<Kind>> {
    let mut kinds = wanted.to_vec();
    if kinds.is_empty() {
        kinds = Kind::value_variants().to_vec();
        if !server::has_nchan() {
            writeln!(std::io::stderr(), "nchan is not installed (Debian: libnginx-mod-nchan); going on without it.")?;
            kinds.retain(|kind| *kind != Kind::Nchan);
        }
    }
    Ok(kinds)
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

// === impl Record ===

impl Record {
    fn create(file: Option<&Path>) -> Result<Self> {
        Ok(Self { file: file.map(fs::File::create).transpose()? })
    }

    /// Also shows the line: a run takes long.
    fn write(&mut self, line: &str) -> Result<()> {
        writeln!(std::io::stdout(), "{line}")?;
        if let Some(file) = &mut self.file {
            writeln!(file, "{line}")?;
        }
        Ok(())
    }
}
