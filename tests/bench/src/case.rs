//! The cases: what is done to a server, and what is measured. Those that other servers can do as well are done to them in
//! the same run, for only ratios tell.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use jsonwebtoken::Algorithm;

use crate::link::Protocol;
use crate::load::{Load, Outcome, Pace, Plan};
use crate::place::{Ask, Place, Spread};
use crate::process::{forget_peak, peak};
use crate::server::{Kind, Server, Setting};
use crate::token::Issuer;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Case {
    /// 10,000 subscribers and silence: memory and connects.
    Idle,
    /// The same over TLS.
    IdleTls,
    /// The same on HTTP/2, a hundred streams on a connection.
    IdleHttp2,
    /// 1,000 subscribers, 50 publications a second.
    Steady1k,
    /// The same over TLS.
    Steady1kTls,
    /// The same on HTTP/2.
    Steady1kHttp2,
    /// 10,000 subscribers, 10 publications a second; new connections meanwhile.
    Steady10k,
    /// 1,000 subscribers; the next publication when everybody has the last one.
    OneInFlight,
    /// 1,000 subscribers; up to sixteen publications under way.
    SixteenInFlight,
    /// 10,000 subscribers with a token each, signed with ES256.
    ConnectEs256,
    /// The same with RS256.
    ConnectRs256,
    /// The same with HS256.
    ConnectHs256,
    /// 10,000 subscribers with a topic each, 5,000 publications a second.
    Topics,
    /// 1,000 of these alone, and then beside 9,000 who match nothing.
    Bystanders,
    /// 1,000 subscribers; then ten of them stop reading.
    Stopped,
    /// Four publishers while subscribers come and go.
    Turnover,
    /// 10,000 subscribers come at once to a gateway that has just started, 1,000 events behind.
    Resume,
}

/// Names and values of one case.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// How long each case publishes.
    pub(crate) lasts: Duration,
    /// How long after all have left memory is looked at.
    pub(crate) lingers: Duration,
    /// What stands for 10,000 subscribers; a thousand becomes a tenth of it.
    pub(crate) many: usize,
}

const MEBI: f64 = (1 << 20) as f64;

// === impl Case ===

impl Case {
    /// Those that say most in the shortest time.
    pub(crate) const ESSENTIAL: &[Self] =
        &[Self::Idle, Self::Steady1k, Self::Steady10k, Self::OneInFlight, Self::SixteenInFlight];

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Why this server is not asked for it; none if it is.
    pub(crate) fn leaves_out(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (_, Kind::Tidings) => None,
            (Self::IdleTls | Self::Steady1kTls | Self::IdleHttp2 | Self::Steady1kHttp2, Kind::Floor) => {
                Some("it knows neither TLS nor HTTP/2")
            }
            (Self::Topics | Self::Bystanders, Kind::Floor) => Some("it sends everything to everybody"),
            (Self::ConnectEs256 | Self::ConnectRs256 | Self::ConnectHs256, Kind::Floor) => Some("it checks no tokens"),
            (Self::Stopped, Kind::Floor) => Some("what its stopped readers do not take, it piles up"),
            (Self::Stopped, Kind::Nchan) => Some("it keeps 1,000 messages, and whoever has stopped loses the others"),
            (Self::Resume, _) => Some("there is no stream behind it that outlives it"),
            _ => None,
        }
    }

    fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::ConnectEs256 => Some(Algorithm::ES256),
            Self::ConnectRs256 => Some(Algorithm::RS256),
            Self::ConnectHs256 => Some(Algorithm::HS256),
            _ => None,
        }
    }

    /// What the server is asked to offer.
    pub(crate) fn setting(self, kind: Kind) -> Result<Setting> {
        let protocol = match self {
            Self::IdleTls | Self::Steady1kTls => Protocol::Tls,
            Self::IdleHttp2 | Self::Steady1kHttp2 => Protocol::Http2,
            _ => Protocol::Plain,
        };
        let algorithm = self.algorithm().filter(|_| kind == Kind::Tidings);
        Ok(Setting { protocol, issuer: algorithm.map(Issuer::new).transpose()?, ..Setting::default() })
    }

    /// Does it to a server that nobody is connected to.
    pub(crate) fn measure(self, server: &mut Server, scale: Scale) -> Result<Figures> {
        let few = scale.many / 10;
        let plan = |pace, share| Plan {
            pace,
            lasts: scale.lasts,
            most: u64::MAX,
            publishers: 1,
            spread: Spread::All,
            share,
            probes: false,
            turnover: false,
        };
        let (fifty, ten) = (Pace::PerSecond(50.0), Pace::PerSecond(10.0));
        match self {
            Self::Idle | Self::IdleTls | Self::IdleHttp2 => idle(server, scale),
            Self::Steady1k | Self::Steady1kTls | Self::Steady1kHttp2 => steady(server, few, plan(fifty, few)),
            Self::Steady10k => steady(server, scale.many, Plan { probes: true, ..plan(ten, scale.many) }),
            Self::OneInFlight => steady(server, few, plan(Pace::InFlight(1), few)),
            Self::SixteenInFlight => steady(server, few, plan(Pace::InFlight(16), few)),
            Self::ConnectEs256 | Self::ConnectRs256 | Self::ConnectHs256 => connect(server, scale.many),
            Self::Topics => {
                let spread = Spread::Topics(scale.many);
                steady(server, scale.many, Plan { spread, ..plan(Pace::PerSecond(5_000.0), 1) })
            }
            Self::Bystanders => bystanders(server, scale.many, plan(Pace::PerSecond(5_000.0), 1)),
            Self::Stopped => stopped(server, few, plan(fifty, few)),
            Self::Turnover => {
                turnover(server, few, Plan { publishers: 4, turnover: true, ..plan(Pace::PerSecond(200.0), few) })
            }
            Self::Resume => resume(server, scale.many),
        }
    }
}

fn idle(server: &Server, scale: Scale) -> Result<Figures> {
    let mut load = Load::new(server)?;
    // The first streams pay for what all share: the channel, the code, the allocator's arenas.
    load.open(10, |_| Ask::from(Place::All))?;
    let before = server.used()?;
    let took = load.open(scale.many, |_| Ask::from(Place::All))?;
    let open = server.used()?;
    load.close();
    let lingers = match (server.kind, server.protocol()) {
        (Kind::Tidings, Protocol::Plain) => scale.lingers,
        // Only a comparison, or only what comes on top: no reason to wait as long.
        (Kind::Tidings, _) => scale.lingers / 3,
        _ => scale.lingers / 10,
    };
    sleep(lingers);
    let left = server.used()?;
    let each = |value: f64| value / scale.many as f64;
    Ok(Figures::from([
        ("subscribers", scale.many as f64),
        ("faults", load.faults().sum() as f64),
        ("bytes_per_subscriber", each(open.memory.saturating_sub(before.memory) as f64)),
        ("memory_before_mb", before.memory as f64 / MEBI),
        ("memory_open_mb", open.memory as f64 / MEBI),
        ("memory_left_mb", left.memory as f64 / MEBI),
        ("memory_kept_mb", (left.memory as f64 - before.memory as f64) / MEBI),
        ("left_for_s", lingers.as_secs_f64()),
        ("connects_per_s", scale.many as f64 / took.as_secs_f64()),
        ("cpu_us_per_connect", each((open.cpu - before.cpu).as_secs_f64() * 1e6)),
    ]))
}

/// Publishes to these subscribers; also tells what memory they took before that.
pub(crate) fn steady_with_memory(server: &Server, subscribers: usize, plan: Plan) -> Result<Figures> {
    let mut load = Load::new(server)?;
    // The first stream pays for what all share. Unless everything goes to all, it receives nothing.
    let first = if let Spread::Topics(topics) = plan.spread { Place::Topic(topics) } else { Place::All };
    load.open(1, |_| Ask::from(first))?;
    let before = server.used()?;
    load.open(subscribers, |n| Ask::from(plan.spread.place(n)))?;
    // Channels that have just been opened look at their streams several times.
    sleep(Duration::from_secs(2));
    let each = server.used()?.memory.saturating_sub(before.memory) as f64 / subscribers as f64;
    let plan = if plan.spread == Spread::All { Plan { share: subscribers + 1, ..plan } } else { plan };
    warm(&mut load, plan)?;
    let mut figures = figures(&load.run(plan)?);
    figures.insert("bytes_per_subscriber", each);
    Ok(figures)
}

fn steady(server: &Server, subscribers: usize, plan: Plan) -> Result<Figures> {
    let mut load = Load::new(server)?;
    load.open(subscribers, |n| Ask::from(plan.spread.place(n)))?;
    warm(&mut load, plan)?;
    let mut figures = figures(&load.run(plan)?);
    if server.kind == Kind::Tidings {
        // What went wrong on the way from NATS and was repaired: it costs, and nobody sees it.
        figures.insert("holes", server.metric("tidings_holes_total")?);
        figures.insert("backfills", server.metric("tidings_backfills_total")?);
    }
    Ok(figures)
}

/// Caches and buffers find their size first.
fn warm(load: &mut Load<'_>, plan: Plan) -> Result<()> {
    load.run(Plan { lasts: Duration::from_millis(500), probes: false, ..plan })?;
    Ok(())
}

/// With tokens where the server checks any: one for each of many users, each used by few.
fn connect(server: &Server, subscribers: usize) -> Result<Figures> {
    const USERS: usize = 500;
    let issuer = server.setting.issuer.as_ref();
    let tokens = issuer.map(|issuer| issuer.tokens(USERS.min(subscribers))).transpose()?.unwrap_or_default();
    let check = issuer.map(Issuer::check_takes).transpose()?.unwrap_or_default().as_secs_f64() * 1e6;
    let ask = |n: usize| {
        let token = tokens.get(n % tokens.len().max(1)).map(String::as_str);
        Ask { token, ..Ask::from(Place::All) }
    };
    let mut load = Load::new(server)?;
    load.open(USERS.min(subscribers), ask)?;
    let before = server.used()?;
    load.open(subscribers, ask)?;
    let each = (server.used()?.cpu - before.cpu).as_secs_f64() * 1e6 / subscribers as f64;
    let mut figures = Figures::from([
        ("subscribers", subscribers as f64),
        ("faults", load.faults().sum() as f64),
        ("cpu_us_per_connect", each),
        ("cpu_us_beyond_signature", each - check),
    ]);
    if issuer.is_some() {
        figures.insert("signature_us", check);
    }
    Ok(figures)
}

/// The same publications for the same subscribers, before and after others have come.
fn bystanders(server: &Server, subscribers: usize, plan: Plan) -> Result<Figures> {
    let topics = subscribers / 10;
    let plan = Plan { spread: Spread::Topics(topics), ..plan };
    let mut load = Load::new(server)?;
    load.open(topics, |n| Ask::from(Place::Topic(n)))?;
    warm(&mut load, plan)?;
    let alone = figures(&load.run(plan)?);
    load.open(subscribers - topics, |n| Ask::from(Place::Topic(topics + n)))?;
    warm(&mut load, plan)?;
    let mut figures = figures(&load.run(plan)?);
    let (before, after) = (value(&alone, "cpu_us"), value(&figures, "cpu_us"));
    figures.extend([("cpu_us_alone", before), ("growth", after / before)]);
    Ok(figures)
}

fn stopped(server: &Server, subscribers: usize, plan: Plan) -> Result<Figures> {
    /// More than the kernel and the Log hold together.
    const FILLING: u64 = 8_000;
    let stopped = (subscribers / 100).max(1);
    let mut load = Load::new(server)?;
    load.small = true;
    load.open(stopped, |_| Ask::from(Place::All))?;
    load.small = false;
    load.open(subscribers - stopped, |_| Ask::from(Place::All))?;
    warm(&mut load, plan)?;
    let all = figures(&load.run(plan)?);
    load.stop(stopped)?;
    let others = subscribers - stopped;
    let fill = load.run(Plan {
        pace: Pace::InFlight(16),
        most: FILLING,
        lasts: Duration::from_secs(60),
        share: others,
        ..plan
    })?;
    let handed = server.metric("tidings_deliveries_total")?;
    let outcome = load.run(Plan { share: others, ..plan })?;
    // What a stopped one is still handed while it reads nothing, it does not show that it has stopped.
    let unnoticed = (server.metric("tidings_deliveries_total")? - handed) - outcome.deliveries as f64;
    let behind = server.metric("tidings_slow_readers_total")?;
    load.forget();
    load.go_on(stopped)?;
    let owed = (fill.published + outcome.published) * stopped as u64;
    let received = load.wait_for(owed)?;
    let mut figures = figures(&outcome);
    let (before, after) = (value(&all, "p99_ms"), value(&figures, "p99_ms"));
    figures.extend([
        ("p99_all_ms", before),
        ("p99_ratio", after / before),
        ("stopped", stopped as f64),
        ("handed_while_stopped", unnoticed),
        ("fed_from_stream", server.metric("tidings_slow_readers_total")? - behind),
        ("missing", owed.saturating_sub(received) as f64 + load.missing() as f64),
        ("faults", load.faults().sum() as f64),
    ]);
    Ok(figures)
}

fn turnover(server: &Server, subscribers: usize, plan: Plan) -> Result<Figures> {
    let mut load = Load::new(server)?;
    load.checks_order = server.kind == Kind::Tidings;
    load.open(subscribers, |_| Ask::from(Place::All))?;
    let mut figures = figures(&load.run(plan)?);
    if !load.checks_order {
        figures.remove("reordered");
    }
    Ok(figures)
}

fn resume(server: &mut Server, subscribers: usize) -> Result<Figures> {
    const BEHIND: u64 = 1_000;
    let publish = |load: &mut Load<'_>, most| {
        let (pace, lasts) = (Pace::InFlight(16), Duration::from_secs(60));
        let (spread, share) = (Spread::All, 1);
        load.run(Plan { pace, lasts, most, publishers: 1, spread, share, probes: false, turnover: false })
    };
    let position = {
        let mut load = Load::new(server)?;
        load.open(1, |_| Ask::from(Place::All))?;
        load.first().context("the first stream is open")?.keeps_ids = true;
        publish(&mut load, 10)?;
        let position = load.first().and_then(|first| first.last_id.clone());
        publish(&mut load, BEHIND)?;
        position.context("the first stream was sent ids")?
    };
    // Nobody's Log reaches back: all that they lack has to come from NATS.
    server.restart()?;
    let mut load = Load::new(server)?;
    let asked = server.metric("tidings_backfills_total")?;
    forget_peak(server.pid())?;
    let before = server.used()?;
    let ask = |_| Ask { position: Some(&position), ..Ask::from(Place::All) };
    let opened = load.open(subscribers, ask)?;
    let expected = BEHIND * subscribers as u64;
    let received = load.wait_for(expected)?;
    let after = server.used()?;
    let peak = peak(server.pid())?;
    Ok(Figures::from([
        ("subscribers", subscribers as f64),
        ("deliveries", received as f64),
        ("missing", expected.saturating_sub(received) as f64),
        ("faults", load.faults().sum() as f64),
        ("seconds_to_open", opened.as_secs_f64()),
        ("cpu_us", (after.cpu - before.cpu).as_secs_f64() * 1e6 / received.max(1) as f64),
        ("asked_of_nats", server.metric("tidings_backfills_total")? - asked),
        ("memory_before_mb", before.memory as f64 / MEBI),
        ("memory_peak_mb", peak as f64 / MEBI),
        ("memory_steady_mb", after.memory as f64 / MEBI),
        ("memory_above_steady_mb", peak.saturating_sub(after.memory) as f64 / MEBI),
    ]))
}

fn value(figures: &Figures, name: &str) -> f64 {
    figures.get(name).copied().unwrap_or(f64::NAN)
}

fn figures(outcome: &Outcome) -> Figures {
    let deliveries = outcome.deliveries.max(1) as f64;
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries;
    let mut figures = Figures::from([
        ("published", outcome.published as f64),
        ("deliveries", outcome.deliveries as f64),
        ("deliveries_per_s", outcome.deliveries as f64 / outcome.took.as_secs_f64()),
        ("cpu_us", micros(outcome.server_cpu)),
        ("load_cpu_us", micros(outcome.own_cpu)),
        ("lost", outcome.faults.lost as f64),
        ("repeated", outcome.faults.repeated as f64),
        ("reordered", outcome.faults.reordered as f64),
        ("faults", outcome.faults.sum() as f64),
    ]);
    let heads = outcome.heads.as_ref();
    let quantiles = [
        ("p50_ms", outcome.latency.quantile(0.5)),
        ("p99_ms", outcome.latency.quantile(0.99)),
        ("max_ms", outcome.latency.most()),
        ("head_p50_ms", heads.and_then(|heads| heads.quantile(0.5))),
        ("head_p99_ms", heads.and_then(|heads| heads.quantile(0.99))),
        ("head_max_ms", heads.and_then(|heads| heads.most())),
    ];
    figures.extend(quantiles.into_iter().filter_map(|(name, value)| Some((name, value?))));
    figures
}
