//! How cost grows: with the subscribers of one channel, and with the channels or topics that as many subscribers are
//! spread over.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::case::{Figures, steady_with_memory};
use crate::load::{Pace, Plan};
use crate::place::Spread;
use crate::server::{Kind, Server, Setting};

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    Subscribers,
    Channels,
    Topics,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) growth: Growth,
    subscribers: usize,
    spread: Spread,
}

/// As many as fit below the open-file limit of 20,000 with the gateway's reserves.
const SUBSCRIBERS: [usize; 4] = [100, 1_000, 10_000, 18_500];
const PLACES: [usize; 3] = [1, 100, 10_000];
const AMONG: usize = 10_000;

/// The same work at every point …
const DELIVERIES_PER_SECOND: f64 = 50_000.0;
/// … up to what NATS stores beside the load on one core.
const PUBLICATIONS_PER_SECOND: f64 = 5_000.0;

// === impl Growth ===

impl Growth {
    /// The name of its lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Subscribers => "grow-subscribers",
            Self::Channels => "grow-channels",
            Self::Topics => "grow-topics",
        }
    }
}

// === impl Point ===

impl Point {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        let subscribers =
            SUBSCRIBERS.map(|subscribers| Self { growth: Growth::Subscribers, subscribers, spread: Spread::All });
        let place = |growth, spread| Self { growth, subscribers: AMONG, spread };
        let topics = PLACES.map(|places| place(Growth::Topics, Spread::Topics(places)));
        let channels = PLACES.map(|places| place(Growth::Channels, Spread::Channels(places)));
        [&subscribers[..], &topics, &channels].concat()
    }

    /// Whether this server can do it.
    pub(crate) fn suits(self, kind: Kind) -> bool {
        kind != Kind::Floor || self.growth == Growth::Subscribers
    }

    /// Measures it on a server of its own.
    pub(crate) fn measure(self, kind: Kind, programs: &Path, lasts: Duration) -> Result<Figures> {
        let (channels, places) = match self.spread {
            Spread::Channels(channels) => (channels, channels),
            Spread::Topics(topics) => (0, topics),
            Spread::All => (0, 1),
        };
        let server = Server::start(kind, programs, Setting { channels, ..Setting::default() })?;
        let share = self.spread.share(self.subscribers);
        let rate = (DELIVERIES_PER_SECOND / share as f64).min(PUBLICATIONS_PER_SECOND);
        let plan = Plan {
            pace: Pace::PerSecond(rate),
            lasts,
            most: u64::MAX,
            publishers: 1,
            spread: self.spread,
            share,
            probes: false,
            turnover: false,
        };
        let mut figures = steady_with_memory(&server, self.subscribers, plan)?;
        figures.extend([
            ("subscribers", self.subscribers as f64),
            ("places", places as f64),
            ("publications_per_s", rate),
        ]);
        Ok(figures)
    }
}
