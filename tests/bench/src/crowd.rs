//! More subscribers than one process may have open files: several gateways behind one NATS, each with a generator of its
//! own, all publications to all of them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::case::Figures;
use crate::load::{Load, Pace, Plan};
use crate::place::{Ask, Place, Spread};
use crate::process::{LOAD_CORE, end, pinned};
use crate::server::{Kind, Server, Setting};

/// A generator: its own process, told over its standard input and heard over its standard output.
#[derive(Debug)]
struct Generator {
    child: Child,
    says: BufReader<ChildStdout>,
}

/// What a generator has seen.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    deliveries: u64,
    faults: u64,
    p50_ms: f64,
    p99_ms: f64,
}

const OPEN: &str = "open";

// === impl Generator ===

impl Generator {
    fn start(server: &Server, gateway: SocketAddr, subscribers: usize, publications: u64) -> Result<Self> {
        let mut command: Command = pinned(LOAD_CORE, std::env::current_exe()?);
        command.args(["readers", &gateway.to_string(), &server.publish_to().to_string()]);
        command.args([subscribers.to_string(), publications.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let says = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Self { child, says })
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a generator ended too soon");
        Ok(line.trim().to_owned())
    }

    fn tell(&mut self) -> Result<()> {
        Ok(writeln!(self.child.stdin.as_mut().context("its input is a pipe")?)?)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// What a generator does: opens its streams, says so, waits for a word, and counts what comes.
pub(crate) fn readers(gateway: SocketAddr, nats: SocketAddr, subscribers: usize, publications: u64) -> Result<()> {
    let server = Server::elsewhere(gateway, nats)?;
    let mut load = Load::new(&server)?;
    load.open(subscribers, |_| Ask::from(Place::All))?;
    let mut out = std::io::stdout();
    writeln!(out, "{OPEN}")?;
    out.flush()?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    load.forget();
    let expected = subscribers as u64 * publications;
    let deliveries = load.wait_for(expected)?;
    let faults = load.faults().sum() + load.missing_after(publications) + expected.saturating_sub(deliveries);
    let latency = load.latency();
    let quantile = |share| latency.quantile(share).unwrap_or_default();
    let seen = Seen { deliveries, faults, p50_ms: quantile(0.5), p99_ms: quantile(0.99) };
    writeln!(out, "{}", serde_json::to_string(&seen)?)?;
    Ok(())
}

/// Spreads the subscribers evenly over the gateways, publishes to all, and sums up.
pub(crate) fn measure(programs: &Path, gateways: usize, subscribers: usize, lasts: Duration) -> Result<Figures> {
    const PER_SECOND: f64 = 2.0;
    let publications = (lasts.as_secs_f64() * PER_SECOND).ceil().max(1.0) as u64;
    let server = Server::start(Kind::Tidings, programs, Setting { gateways, ..Setting::default() })?;
    let each = subscribers / gateways.max(1);
    let mut load = Load::new(&server)?;
    let before = server.used()?;
    let began = Instant::now();
    let mut generators = Vec::new();
    for gateway in server.gateways() {
        let mut generator = Generator::start(&server, gateway, each, publications)?;
        match generator.hear()? {
            said if said == OPEN => generators.push(generator),
            said => bail!("a generator says {said}"),
        }
    }
    let opened = began.elapsed();
    let open = server.used()?;
    generators.iter_mut().try_for_each(Generator::tell)?;
    let pace = Pace::PerSecond(PER_SECOND);
    let (spread, most) = (Spread::All, publications);
    load.run(Plan { pace, lasts: lasts * 2, most, publishers: 1, spread, share: 0, probes: false, turnover: false })?;
    let seen: Vec<Seen> =
        generators.iter_mut().map(|generator| Ok(serde_json::from_str(&generator.hear()?)?)).collect::<Result<_>>()?;
    let after = server.used()?;
    let all = (each * generators.len()) as f64;
    let deliveries: u64 = seen.iter().map(|seen| seen.deliveries).sum();
    let worst = |figure: fn(&Seen) -> f64| seen.iter().map(figure).fold(0.0, f64::max);
    Ok(Figures::from([
        ("gateways", generators.len() as f64),
        ("subscribers", all),
        ("published", publications as f64),
        ("deliveries", deliveries as f64),
        ("faults", seen.iter().map(|seen| seen.faults).sum::<u64>() as f64),
        ("bytes_per_subscriber", open.memory.saturating_sub(before.memory) as f64 / all),
        ("memory_open_mb", open.memory as f64 / f64::from(1 << 20)),
        ("connects_per_s", all / opened.as_secs_f64()),
        ("cpu_us_per_connect", open.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / all),
        ("cpu_us", after.cpu.saturating_sub(open.cpu).as_secs_f64() * 1e6 / deliveries.max(1) as f64),
        ("p50_ms", worst(|seen| seen.p50_ms)),
        ("p99_ms", worst(|seen| seen.p99_ms)),
    ]))
}
