//! The cases: what is done to a server, and what is measured. Those that other servers can do as well are done to them in
//! the same run, for only ratios tell.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::load::{Load, Outcome, Pace, Plan};
use crate::server::{Kind, Server};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Case {
    /// 10,000 subscribers and silence: memory and connects.
    Idle,
    /// 1,000 subscribers, 50 publications a second.
    Steady1k,
    /// 10,000 subscribers, 10 publications a second; new connections meanwhile.
    Steady10k,
    /// 1,000 subscribers; the next publication when everybody has the last one.
    OneInFlight,
    /// 1,000 subscribers; up to sixteen publications under way.
    SixteenInFlight,
    /// 10,000 subscribers with a topic each, 5,000 publications a second.
    Topics,
    /// 1,000 subscribers of which ten have stopped reading.
    Stopped,
    /// Four publishers while subscribers come and go.
    Turnover,
    /// 10,000 subscribers come back at once, 1,000 events behind.
    Resume,
}

/// Names and values of one case.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// How long each case publishes.
    pub(crate) lasts: Duration,
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

    /// Whether this server can do it.
    pub(crate) fn suits(self, kind: Kind) -> bool {
        match self {
            Self::Idle | Self::Steady1k | Self::Steady10k | Self::OneInFlight | Self::SixteenInFlight => true,
            Self::Topics => kind != Kind::Floor,
            Self::Stopped | Self::Turnover | Self::Resume => kind == Kind::Gateway,
        }
    }

    /// Does it to a server that nobody is connected to.
    pub(crate) fn measure(self, server: &Server, scale: Scale) -> Result<Figures> {
        let mut load = Load::new(server)?;
        let few = scale.many / 10;
        let plan = |pace, readers| Plan {
            pace,
            lasts: scale.lasts,
            publishers: 1,
            topics: None,
            probes: false,
            turnover: false,
            readers,
        };
        match self {
            Self::Idle => idle(server, &mut load, scale.many),
            Self::Steady1k => steady(&mut load, few, plan(Pace::PerSecond(50.0), few)),
            Self::Steady10k => {
                steady(&mut load, scale.many, Plan { probes: true, ..plan(Pace::PerSecond(10.0), scale.many) })
            }
            Self::OneInFlight => steady(&mut load, few, plan(Pace::InFlight(1), few)),
            Self::SixteenInFlight => steady(&mut load, few, plan(Pace::InFlight(16), few)),
            Self::Topics => topics(&mut load, Plan { topics: Some(scale.many), ..plan(Pace::PerSecond(5_000.0), 1) }),
            Self::Stopped => {
                load.open(few, |_| None, None)?;
                load.stop(few / 100)?;
                let readers = few - few / 100;
                let outcome = load.run(plan(Pace::PerSecond(50.0), readers))?;
                Ok(figures(&outcome))
            }
            Self::Turnover => {
                load.open(few, |_| None, None)?;
                let plan = Plan { publishers: 4, turnover: true, ..plan(Pace::PerSecond(200.0), few) };
                Ok(figures(&load.run(plan)?))
            }
            Self::Resume => resume(server, &mut load, scale.many),
        }
    }
}

fn idle(server: &Server, load: &mut Load, subscribers: usize) -> Result<Figures> {
    // The first streams pay for what all share: the channel, the code, the allocator's arenas.
    load.open(10, |_| None, None)?;
    let before = server.used()?;
    let took = load.open(subscribers, |_| None, None)?;
    let open = server.used()?;
    load.close();
    sleep(Duration::from_secs(3));
    let left = server.used()?;
    let each = |value: f64| value / subscribers as f64;
    Ok(Figures::from([
        ("subscribers", subscribers as f64),
        ("bytes_per_subscriber", each(open.memory.saturating_sub(before.memory) as f64)),
        ("memory_before_mb", before.memory as f64 / MEBI),
        ("memory_open_mb", open.memory as f64 / MEBI),
        ("memory_left_mb", left.memory as f64 / MEBI),
        ("memory_kept_mb", (left.memory as f64 - before.memory as f64) / MEBI),
        ("connects_per_s", subscribers as f64 / took.as_secs_f64()),
        ("cpu_us_per_connect", each((open.cpu - before.cpu).as_secs_f64() * 1e6)),
    ]))
}

fn steady(load: &mut Load, subscribers: usize, plan: Plan) -> Result<Figures> {
    load.open(subscribers, |_| None, None)?;
    // Caches and buffers find their size first.
    load.run(Plan { lasts: Duration::from_millis(500), probes: false, ..plan })?;
    Ok(figures(&load.run(plan)?))
}

fn topics(load: &mut Load, plan: Plan) -> Result<Figures> {
    let topics = plan.topics.unwrap_or_default();
    load.open(topics, Some, None)?;
    load.run(Plan { lasts: Duration::from_millis(500), ..plan })?;
    Ok(figures(&load.run(plan)?))
}

fn resume(server: &Server, load: &mut Load, subscribers: usize) -> Result<Figures> {
    const BEHIND: u64 = 1_000;
    load.open(1, |_| None, None)?;
    load.keep_ids();
    let publish = |load: &mut Load, count: u64| {
        let pace = Pace::PerSecond(2_000.0);
        let lasts = Duration::from_secs_f64(count as f64 / 2_000.0 - 1e-6);
        load.run(Plan { pace, lasts, publishers: 1, topics: None, probes: false, turnover: false, readers: 1 })
    };
    publish(load, 10)?;
    let position = load.last_id().context("the first stream was sent ids")?;
    let published = publish(load, BEHIND)?.published;
    server.forget_peak()?;
    let before = server.used()?;
    let took = load.open(subscribers, |_| None, Some(&position))?;
    let expected = published * (subscribers as u64 + 1);
    let received = load.wait_for(expected)?;
    let after = server.used()?;
    let mut figures = Figures::from([
        ("subscribers", subscribers as f64),
        ("deliveries", received as f64),
        ("missing", expected.saturating_sub(received) as f64),
        ("faults", load.faults().sum() as f64),
        ("seconds", took.as_secs_f64()),
        ("cpu_us", (after.cpu - before.cpu).as_secs_f64() * 1e6 / received.max(1) as f64),
        ("memory_peak_mb", server.peak()? as f64 / MEBI),
        ("memory_steady_mb", after.memory as f64 / MEBI),
    ]);
    figures.insert("memory_above_steady_mb", server.peak()?.saturating_sub(after.memory) as f64 / MEBI);
    Ok(figures)
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
        ("writes_per_delivery", outcome.writes as f64 / deliveries),
        ("lost", outcome.faults.lost as f64),
        ("repeated", outcome.faults.repeated as f64),
        ("faults", outcome.faults.sum() as f64),
    ]);
    let quantiles = [
        ("p50_ms", outcome.latency.quantile(0.5)),
        ("p99_ms", outcome.latency.quantile(0.99)),
        ("max_ms", outcome.latency.most()),
        ("head_p50_ms", outcome.heads.quantile(0.5)),
        ("head_max_ms", outcome.heads.most()),
    ];
    figures.extend(quantiles.into_iter().filter_map(|(name, value)| Some((name, value?))));
    figures
}
