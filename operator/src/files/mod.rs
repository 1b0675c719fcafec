//! The file front end: Channels from a directory of manifests, Routes into another, the status as a table.
//!
//! Every pass looks at everything and is the same whatever woke it: a changed file, NATS coming back, the resync. Nothing
//! is remembered that a restart would need: what exists is read from NATS and from the Route files.

pub mod config;
pub mod directory;
pub mod inventory;
pub mod missing_since;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tidings_crds::condition::AcceptedReason;
use tidings_crds::desired::Rejection;
use tidings_crds::key::ChannelKey;
use tidings_crds::objection::objections;
use tidings_crds::route::RouteState;
use tidings_crds::stream::StreamSpec;
use tidings_process::error_chain::chain;
use tidings_process::log_writer::{Flush, LogWriter};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::files::config::FilesConfig;
use crate::files::directory::{LOOK_AGAIN, Snapshot, Watch, read_directory};
use crate::files::inventory::{Declaration, Inventory};
use crate::files::missing_since::Absences;
use crate::files::table::table;
use crate::nats::listing::Listed;
use crate::reconcile::context::Context;
use crate::reconcile::reconcile;
use crate::reconcile::remove::{forget, remove, says_delete};
use crate::reconcile::report::{Before, Report};
use crate::reconcile::rollout::{ON_FILES, Rollout, Waiting};
use crate::reconcile::routes::{Found, OwnRoute, RouteFiles};
use crate::reconcile::stream_config::ObservedStream;
use crate::runtime::readiness::Ready;

/// Each is one or two calls to NATS and a small file; more at a time only makes NATS queue them.
const AT_A_TIME: usize = 16;

/// How long a Route stays marked `Removed` before its file goes: gateways look at least every 5 s.
const MARKED: Duration = Duration::from_secs(15);

/// The first pause before something that failed in passing is tried again; it doubles up to the resync.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// How long the first pass waits for NATS, so that a normal start does not begin with a table of failures.
const FIRST_CONNECTION: Duration = Duration::from_secs(2);

/// The file front end.
pub struct Files {
    config: FilesConfig,
    ctx: Context<RouteFiles>,
    resync: Duration,
    ready: Arc<Ready>,
    watch: Watch,
    inventory: Inventory,
    missing: Absences,
    marked: Absences,
    waiting: Waiting,
    /// The streams that were seen last, by the Channel that they name.
    streams: BTreeMap<ChannelKey, StreamSpec>,
    reports: BTreeMap<ChannelKey, Report>,
    /// Where the table is printed.
    output: (LogWriter, Flush),
    printed: String,
    failures: u32,
    /// Why the directory could not be read last time: said once, not every time.
    blind: Option<String>,
}

/// What exists and says it is ours.
struct Owned {
    /// Streams by the Channel that they name; `None` when NATS could not be asked.
    streams: Option<BTreeMap<ChannelKey, StreamSpec>>,
    /// Routes; `None` when their directory could not be listed.
    routes: Option<Vec<OwnRoute>>,
}

// === impl Files ===

impl Files {
    /// Nothing is read yet.
    pub fn new(config: FilesConfig, ctx: Context<RouteFiles>, resync: Duration, ready: Arc<Ready>) -> Self {
        Self {
            watch: Watch::new(config.channels.clone()),
            missing: Absences::new(config.removal_delay),
            marked: Absences::new(MARKED),
            waiting: Waiting::default(),
            config,
            ctx,
            resync,
            ready,
            inventory: Inventory::default(),
            streams: BTreeMap::new(),
            reports: BTreeMap::new(),
            output: LogWriter::to_standard_output(),
            printed: String::new(),
            failures: 0,
            blind: None,
        }
    }

    /// Works until shutdown. A pass may end between any two steps, as after a kill.
    pub async fn serve(mut self, shutdown: CancellationToken) {
        let mut connection = self.ctx.streams.connection();
        let connected = connection.wait_for(|connected| *connected);
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tokio::time::timeout(FIRST_CONNECTION, connected) => {}
        }
        loop {
            connection.mark_unchanged();
            self.watch.renew();
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                next = self.pass() => next,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.watch.changed() => debug!("The manifests may have changed."),
                changed = connection.changed() => {
                    if changed.is_err() {
                        // The connection's task is gone, and with it all news; the resync goes on.
                        tokio::time::sleep_until(next.into()).await;
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Looks at everything, does what is to be done, and says when to look again at the latest.
    async fn pass(&mut self) -> Instant {
        let known = self.read().await;
        let owned = self.owned().await;
        let objections = self.objections();
        let again = self.reconcile_all(&objections).await;
        let failed = if known { self.clear(&owned).await } else { false };
        // A start in the middle of writing would show and report an installation without Channels.
        if !(self.inventory.is_unsettled() && self.printed.is_empty()) {
            self.publish();
            self.ready.set_channels(known);
        }
        self.next(again || failed)
    }

    /// Reads the manifests; whether that worked.
    async fn read(&mut self) -> bool {
        let dir = self.config.channels.clone();
        let snapshot = tokio::task::spawn_blocking(move || read_directory(&dir)).await;
        let fault = match snapshot {
            Ok(Ok(snapshot)) => {
                self.take(snapshot);
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.ctx.metrics.error("channels_unreadable");
        if self.blind.as_ref() != Some(&fault) {
            warn!(dir = %self.config.channels.display(), error = fault, "Failed to read the manifests; nothing is removed.");
            self.blind = Some(fault);
        }
        false
    }

    fn take(&mut self, snapshot: Snapshot) {
        if self.blind.take().is_some() {
            info!(dir = %self.config.channels.display(), "The manifests can be read again.");
        }
        self.inventory.take(snapshot);
    }

    /// What exists in our name.
    async fn owned(&mut self) -> Owned {
        let streams = match self.ctx.streams.list().await {
            Ok(listed) => Some(self.own(listed)),
            Err(error) => {
                self.ctx.metrics.error(error.category());
                debug!(error = %chain(&error), "Failed to list the streams.");
                None
            }
        };
        if let Some(streams) = &streams {
            self.streams.clone_from(streams);
        }
        let routes = match self.ctx.routes.list().await {
            Ok(routes) => Some(routes),
            Err(error) => {
                self.ctx.metrics.error(error.category());
                warn!(error = %chain(&error), "Failed to list the routes.");
                None
            }
        };
        Owned { streams, routes }
    }

    /// The streams of this installation. One whose servers are away is what it was.
    fn own(&self, listed: Listed) -> BTreeMap<ChannelKey, StreamSpec> {
        let silent = self.streams.iter().filter(|(key, _)| listed.silent.contains(&StreamSpec::name_of(key)));
        let mut streams: BTreeMap<_, _> = silent.map(|(key, stream)| (key.clone(), stream.clone())).collect();
        streams.extend(listed.items.into_iter().filter_map(|info| {
            let stream = ObservedStream::from_info(info).ok()?;
            Some((stream.spec.owner(&self.ctx.installation.cluster)?, stream.spec))
        }));
        streams
    }

    /// What quotas and other Channels say against each. Who has which subject is what NATS said last; that it says nothing now
    /// changes nothing about that.
    fn objections(&self) -> BTreeMap<ChannelKey, Rejection> {
        let channels = self.inventory.declared().iter().filter_map(|(key, declaration)| match declaration {
            Declaration::Channel(channel) => Some((key.clone(), &**channel)),
            Declaration::Faulty(_) => None,
        });
        let held = self.streams.iter().map(|(key, stream)| (key.clone(), stream.held())).collect();
        objections(&channels.collect(), &held, &self.ctx.installation)
    }

    /// Every Channel, each by itself; whether something failed that can succeed a little later.
    async fn reconcile_all(&mut self, objections: &BTreeMap<ChannelKey, Rejection>) -> bool {
        let (ctx, waiting) = (&self.ctx, &self.waiting);
        let declared = self.inventory.declared().iter();
        let reports: Vec<Report> = stream::iter(declared.map(|(key, declaration)| async move {
            match declaration {
                Declaration::Channel(channel) => {
                    let waited = waiting.waited(key, Instant::now());
                    let rollout = Rollout { gateways: None, waited, patience: ON_FILES };
                    reconcile(ctx, channel, objections.get(key), &rollout).await
                }
                Declaration::Faulty(message) => {
                    let served = match ctx.routes.read(key).await {
                        Ok(Found::Route(route)) => Some(*route).filter(|route| route.state == RouteState::Active),
                        Ok(Found::Nothing | Found::Garbage) | Err(_) => None,
                    };
                    Report::unusable(key.clone(), AcceptedReason::InvalidSpec, message.clone(), served)
                }
            }
        }))
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
        let again = reports.iter().any(|report| report.again);
        self.waiting.retain(|key| self.inventory.declared().contains_key(key));
        for report in &reports {
            self.waiting.set(&report.key, report.awaits.as_deref(), Instant::now());
        }
        let previous = std::mem::take(&mut self.reports);
        let reports = reports.into_iter().map(|report| {
            let earlier = previous.get(&report.key);
            let before = earlier.map(|earlier| {
                let Before { had_stream, in_place } = earlier.before();
                Before { had_stream, in_place: in_place && earlier.mark == report.mark }
            });
            let report = report.compared_with(before.unwrap_or_default());
            if let Some(kind) = report.correction() {
                ctx.metrics.stream_corrected(kind);
                warn!(channel = %report.key, kind, "A stream was deleted or modified externally.");
            }
            (report.key.clone(), report.after(earlier))
        });
        self.reports = reports.collect();
        again
    }

    /// Removes what belongs to Channels that are gone, each after a while; whether something failed.
    async fn clear(&mut self, owned: &Owned) -> bool {
        let now = Instant::now();
        let Some(routes) = &owned.routes else { return true };
        let missing = |key: &&ChannelKey| !self.inventory.may_declare(key);
        let of_state = |state| routes.iter().filter(move |route| route.state == state).map(|route| &route.key);
        let streams = owned.streams.iter().flatten().filter(|(_, stream)| says_delete(stream)).map(|(key, _)| key);
        let active: BTreeSet<_> = of_state(RouteState::Active).chain(streams).filter(missing).cloned().collect();
        let marked: BTreeSet<_> = of_state(RouteState::Removed).filter(missing).cloned().collect();
        let mut failed = false;
        for key in self.missing.gone(active, now) {
            if let Err(failure) = remove(&self.ctx, &key, self.inventory.last_policy(&key)).await {
                self.ctx.metrics.error(failure.category);
                warn!(channel = %key, error = failure.message, "Failed to clean up after a Channel; trying again.");
                failed = true;
            }
        }
        for key in self.marked.gone(marked, now) {
            if let Err(failure) = forget(&self.ctx, &key).await {
                self.ctx.metrics.error(failure.category);
                warn!(channel = %key, error = failure.message, "Failed to delete a route; trying again.");
                failed = true;
            }
        }
        failed
    }

    /// Prints the table if it says anything new.
    fn publish(&mut self) {
        let mut counts: BTreeMap<&'static str, i64> = BTreeMap::new();
        for report in self.reports.values() {
            *counts.entry(report.state()).or_default() += 1;
        }
        self.ctx.metrics.channels(&counts);
        let text = table(self.reports.values(), self.inventory.complaints());
        if text != self.printed {
            // What reads it may stand still or be gone; that changes nothing here.
            let _ = self.output.0.write_all(format!("{text}\n").as_bytes());
            self.printed = text;
        }
    }

    fn next(&mut self, failed: bool) -> Instant {
        let now = Instant::now();
        // Without NATS the next news is that it is back.
        self.failures = if failed && self.ctx.streams.is_connected() { self.failures + 1 } else { 0 };
        let mut pause = self.resync;
        if self.failures > 0 {
            let growing = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(self.resync);
            pause = growing.mul_f64(rand::random_range(0.5..=1.0));
        }
        if self.inventory.is_unsettled() {
            pause = pause.min(LOOK_AGAIN);
        }
        let due = [self.missing.next(now), self.marked.next(now), self.waiting.next(ON_FILES)];
        due.into_iter().flatten().fold(now + pause, Instant::min)
    }
}
