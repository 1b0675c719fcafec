//! What is to be done next in Kubernetes, decided from everything that is known. Pure: time and chance are passed in.
//!
//! [`crate::kubernetes::controller`] brings the news (watches, beats, the connection to NATS, ended jobs) and carries out the [`Job`]s.
//! All state is here and none of it outlives the process: what exists is read again after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use tidings_crds::channel::ChannelStatus;
use tidings_crds::claims::{Claim, Claims};
use tidings_crds::desired::{Installation, Rejection, subjects};
use tidings_crds::key::ChannelKey;
use tidings_crds::quota::Demand;
use tidings_crds::route::Route;
use tidings_crds::subject::Pattern;

use crate::leader::fenced_api::ApiError;
use crate::reconcile::rollout::{ON_KUBERNETES, Rollout, Waiting};
use crate::schedule::channel_store::{Catalogue, News};
use crate::schedule::event_reasons::{Notice, notices};
use crate::schedule::gateways::Gateways;
use crate::schedule::observed::ObservedChannel;
use crate::schedule::ready::BROKER_PATIENCE;
use crate::schedule::status::{Account, Change, Outlook, change, status};
use crate::schedule::status_rate::{Budget, pause};
use crate::schedule::stream_inventory::{Survey, Surveys};
use crate::schedule::visited::Visited;
use crate::schedule::work_queue::Queue;

/// A visit is one or two calls to NATS and at most two to the API server; more at a time only makes those queue them.
const MOST_VISITS: usize = 16;

/// Statuses written at a time: enough for 100 a second at 50 ms each.
const MOST_WRITES: usize = 8;

/// A Channel that is in place is compared by every survey, and visited only when that shows a difference; and, in case a
/// notice of one is ever missed, after this many resyncs.
const SETTLED: u32 = 10;

/// How often a Channel is looked at that waits for gateways to take its Route; their beats hasten it.
const LOOK_AT_ROLLOUT: Duration = Duration::from_secs(5);

/// How long the first visits wait for NATS, so that a normal start does not begin with failures.
const FIRST_CONNECTION: Duration = Duration::from_secs(2);

/// What does not change while the operator runs.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What the administrator has set.
    pub installation: Arc<Installation>,
    /// This installation, as `namespace/release`.
    pub controller: String,
    /// Which Channels are its own.
    pub class_name: String,
    /// Where Channels are served; empty means everywhere.
    pub namespaces: Vec<String>,
    /// What `status.url` begins with.
    pub public_url: Option<String>,
    /// How often everything is compared again.
    pub resync: Duration,
}

/// One thing to do.
#[derive(Debug)]
pub enum Job {
    /// Look at all streams.
    Survey,
    /// Visit a Channel that exists.
    Visit {
        /// As it was observed.
        channel: Box<ObservedChannel>,
        /// What quotas and the claims of all Channels say against it.
        objection: Option<Rejection>,
        /// How far its Route has come.
        rollout: Rollout,
    },
    /// Clear away what a Channel left that is gone, or no longer ours.
    Leave {
        /// Whose.
        key: ChannelKey,
        /// How long its Route has been seen as removed.
        marked: Option<Duration>,
        /// Whether the Channel is known not to exist.
        sweep: bool,
    },
    /// Write a status.
    Write {
        /// As it was observed.
        channel: Box<ObservedChannel>,
        /// What to write.
        status: Box<ChannelStatus>,
        /// What that changes.
        change: Change,
    },
}

/// Everything that is known and to be done.
#[derive(Debug)]
pub struct Agenda {
    terms: Terms,
    catalogue: Catalogue,
    routes_listed: bool,
    visits: Queue,
    statuses: Queue,
    visiting: BTreeSet<ChannelKey>,
    writing: BTreeSet<ChannelKey>,
    gateways: Gateways,
    budget: Budget,
    claims: Claims,
    claims_changed: bool,
    /// What the Channels that are in order ask for, where there are quotas.
    demands: BTreeMap<ChannelKey, Demand>,
    demands_changed: bool,
    exceeded: BTreeMap<ChannelKey, Rejection>,
    objections: BTreeMap<ChannelKey, Rejection>,
    surveys: Surveys,
    waiting: Waiting,
    /// Since when Routes without a Channel have been seen as removed.
    marked: BTreeMap<ChannelKey, Instant>,
    started: Instant,
    /// Since when NATS has been away; absent while it is connected.
    broker_away: Option<Instant>,
    /// When something changes by time alone.
    bound: Option<Instant>,
}

// === impl Agenda ===

impl Agenda {
    /// Nothing is known yet, and NATS is not connected. `service`: whether EndpointSlices will say which gateways to expect.
    pub fn new(terms: Terms, service: bool, now: Instant) -> Self {
        Self {
            visits: Queue::new(terms.resync),
            statuses: Queue::new(terms.resync),
            surveys: Surveys::new(terms.resync, now),
            catalogue: Catalogue::new(&terms.namespaces, &terms.class_name, &terms.controller),
            terms,
            routes_listed: false,
            visiting: BTreeSet::new(),
            writing: BTreeSet::new(),
            gateways: Gateways::new(service),
            budget: Budget::new(now),
            claims: Claims::default(),
            claims_changed: false,
            demands: BTreeMap::new(),
            demands_changed: false,
            exceeded: BTreeMap::new(),
            objections: BTreeMap::new(),
            waiting: Waiting::default(),
            marked: BTreeMap::new(),
            started: now,
            broker_away: Some(now),
            bound: None,
        }
    }

    /// All Channels.
    pub fn catalogue(&mut self) -> &mut Catalogue {
        &mut self.catalogue
    }

    /// All gateways.
    pub fn gateways(&self) -> &Gateways {
        &self.gateways
    }

    /// Whether Channels and Routes were listed.
    pub fn is_listed(&self) -> bool {
        self.catalogue.is_listed() && self.routes_listed
    }

    /// News of a watch for Channels. `routed` names the Channels that have a Route.
    pub fn take_channel(
        &mut self,
        scope: usize,
        event: watcher::Event<DynamicObject>,
        routed: impl FnOnce() -> BTreeSet<ChannelKey>,
        now: Instant,
    ) {
        let was_listed = self.is_listed();
        for (key, news) in self.catalogue.take(scope, event) {
            self.channel_changed(&key, news, now);
        }
        if !was_listed && self.is_listed() {
            self.sweep(routed(), now);
        }
    }

    /// News of the watch for Routes: those that others have changed, and whether all were listed. `routed` as above.
    pub fn take_routes(
        &mut self,
        touched: BTreeSet<ChannelKey>,
        listed: bool,
        routed: impl FnOnce() -> BTreeSet<ChannelKey>,
        now: Instant,
    ) {
        let was_listed = self.is_listed();
        self.routes_listed |= listed;
        for key in touched {
            self.visits.add(&key, now);
        }
        if !was_listed && self.is_listed() {
            self.sweep(routed(), now);
        }
    }

    /// News of the watch for EndpointSlices.
    pub fn take_slice(&mut self, event: watcher::Event<k8s_openapi::api::discovery::v1::EndpointSlice>, now: Instant) {
        if self.gateways.take_slice(event, now) {
            self.all_statuses(now);
            self.all_waiting(now);
        }
    }

    /// A beat.
    pub fn take_beat(&mut self, beat: tidings_crds::beat::Beat, now: Instant) {
        let before = self.gateways.counts(now);
        for key in self.gateways.take_beat(beat, now) {
            self.statuses.add(&key, now);
            if self.waiting.is_waiting(&key) {
                self.visits.add(&key, now);
            }
        }
        // One that is heard again, or for the first time, concerns Channels of which it says nothing new.
        if self.gateways.counts(now) != before {
            self.all_statuses(now);
            self.all_waiting(now);
        }
    }

    /// NATS came or went.
    pub fn broker(&mut self, connected: bool, now: Instant) {
        self.gateways.listen(connected, now);
        if !connected {
            self.broker_away.get_or_insert(now);
            return;
        }
        if self.broker_away.take().is_some() {
            self.surveys.restart(now);
            self.all_visits(now);
            self.all_statuses(now);
        }
    }

    /// This operator leads from now on: what another one did meanwhile is not known.
    pub fn lead(&mut self, now: Instant) {
        self.surveys.hasten(now);
        self.all_visits(now);
        self.all_statuses(now);
    }

    /// The next thing to do now, if there is any.
    pub fn next_job(&mut self, now: Instant, wall: &Time) -> Option<Job> {
        self.pass(now);
        if !self.is_listed() {
            return None;
        }
        if self.broker_away.is_none() && self.surveys.begin(now) {
            return Some(Job::Survey);
        }
        self.resolve_claims(now);
        self.next_write(now, wall).or_else(|| self.next_visit(now))
    }

    /// When there may be something to do at the latest, if nothing happens before.
    pub fn next(&self, now: Instant) -> Instant {
        let visit = self.may_visit(now).then(|| self.visits.next()).flatten();
        let write = (self.writing.len() < MOST_WRITES).then(|| self.statuses.next()).flatten();
        let survey = self.surveys.next().filter(|_| self.broker_away.is_none());
        let first = (!self.surveys.is_done()).then_some(self.started + FIRST_CONNECTION).filter(|at| *at > now);
        let far = now + Duration::from_secs(60);
        let due = if self.is_listed() { [visit, write, survey] } else { [None; 3] };
        due.into_iter().chain([self.bound, first]).flatten().fold(far, Instant::min).max(now)
    }

    /// A survey ended; `None` if it failed.
    pub fn surveyed(&mut self, survey: Option<Survey>, now: Instant) {
        let differences = self.surveys.take(survey, now);
        for key in &differences.held {
            self.claim(key);
        }
        for key in differences.changed.iter().filter(|key| self.catalogue.is_ours(key)) {
            self.visits.add(key, now);
        }
        for key in &differences.sweepable {
            if !self.catalogue.exists(key) && self.is_watched(key) {
                self.visits.add(key, now);
            }
        }
    }

    /// A visit to a Channel ended.
    pub fn visited(&mut self, channel: &ObservedChannel, visited: Visited, now: Instant, chance: f64) {
        let key = &channel.key;
        self.visiting.remove(key);
        if let Account::Reconciled(report) = &visited.account
            && report.is_programmed()
            && report.stream.is_some()
        {
            let subjects: Vec<Pattern> = report.subjects.iter().filter_map(|text| text.parse().ok()).collect();
            if self.surveys.hold(key, subjects) {
                self.claim(key);
            }
        }
        let awaits = match &visited.account {
            Account::Reconciled(report) => report.awaits.as_deref(),
            Account::Leaving(_) => None,
        };
        self.waiting.set(key, awaits, now);
        if visited.again {
            self.visits.failed(key, now, chance);
        } else if let Some(digest) = awaits {
            // A beat may have been faster than the answer.
            let reached = self.rollout(key, now).has_reached(digest);
            self.visits.done(key);
            self.visits.add(key, if reached { now } else { now + LOOK_AT_ROLLOUT });
        } else {
            self.visits.done(key);
            let settled = matches!(&visited.account, Account::Reconciled(report) if report.is_programmed());
            let pause = self.terms.resync * if settled { SETTLED } else { 1 };
            self.visits.add(key, now + pause.mul_f64(0.8 + chance / 5.0));
        }
        self.catalogue.account(channel, visited.account);
        self.statuses.add(key, now);
        if let Some(object) = visited.object {
            self.put(object, now);
        }
    }

    /// Clearing away ended, and says when to come back.
    pub fn left(&mut self, key: &ChannelKey, left: Result<Option<Duration>, ApiError>, now: Instant, chance: f64) {
        self.visiting.remove(key);
        match left {
            Ok(Some(again)) => {
                self.marked.entry(key.clone()).or_insert(now);
                self.visits.done(key);
                self.visits.add(key, now + again);
            }
            Ok(None) => {
                self.marked.remove(key);
                self.visits.done(key);
            }
            Err(_) => self.visits.failed(key, now, chance),
        }
    }

    /// Writing a status ended. What of it people should be told.
    pub fn written(
        &mut self,
        channel: &ObservedChannel,
        status: &ChannelStatus,
        written: Result<DynamicObject, ApiError>,
        now: Instant,
        chance: f64,
    ) -> Vec<Notice> {
        let key = &channel.key;
        self.writing.remove(key);
        match written {
            Ok(object) => {
                self.statuses.done(key);
                if let Some(entry) = self.catalogue.entry(key) {
                    entry.written = Some(now);
                }
                self.put(object, now);
                notices(&channel.status, status)
            }
            Err(error) if error.is_gone() => {
                self.statuses.done(key);
                Vec::new()
            }
            Err(_) => {
                self.statuses.failed(key, now, chance);
                Vec::new()
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, now: Instant) {
        if self.gateways.refresh(now) || self.bound.is_some_and(|bound| bound <= now) {
            self.all_statuses(now);
        }
        let broker = self.broker_away.map(|since| since + BROKER_PATIENCE).filter(|due| *due > now);
        self.bound = self.gateways.next(now).into_iter().chain(broker).min();
    }

    fn next_write(&mut self, now: Instant, wall: &Time) -> Option<Job> {
        while self.writing.len() < MOST_WRITES {
            let key = self.statuses.take(now)?;
            match self.wanted(&key, now, wall) {
                Wanted::Nothing => self.statuses.done(&key),
                Wanted::At(at) => {
                    self.statuses.done(&key);
                    self.statuses.add(&key, at);
                }
                Wanted::Now(job) => {
                    self.writing.insert(key);
                    return Some(job);
                }
            }
        }
        None
    }

    /// What there is to write about a Channel, and when.
    fn wanted(&mut self, key: &ChannelKey, now: Instant, wall: &Time) -> Wanted {
        let broker_away = self.broker_away.map(|since| now.saturating_duration_since(since));
        let Some(entry) = self.catalogue.entry(key) else { return Wanted::Nothing };
        let Some(account) = entry.account() else { return Wanted::Nothing };
        let digest = match account {
            Account::Reconciled(report) => report.served.as_ref().map(Route::digest),
            Account::Leaving(_) => None,
        };
        let view = self.gateways.view(key, digest.as_deref(), now);
        let outlook = Outlook {
            account,
            broker_away,
            view: &view,
            subscribers: self.gateways.subscribers(key, now),
            controller: &self.terms.controller,
            public_url: self.terms.public_url.as_deref(),
        };
        let status = status(&entry.seen, &outlook, wall);
        let change = change(&entry.seen.status, &status);
        if change == Change::None {
            entry.slot = None;
            return Wanted::Nothing;
        }
        let rested = entry.written.map_or(now, |written| written + pause(change));
        if rested > now {
            return Wanted::At(rested);
        }
        let at = match entry.slot {
            Some((reserved, at)) if reserved >= change => at,
            _ => self.budget.reserve(change, now),
        };
        let begun = if at > now { Err(at) } else { self.budget.spend(change, now) };
        if let Err(at) = begun {
            entry.slot = Some((change, at));
            return Wanted::At(at);
        }
        entry.slot = None;
        Wanted::Now(Job::Write { channel: Box::new(entry.seen.clone()), status: Box::new(status), change })
    }

    fn next_visit(&mut self, now: Instant) -> Option<Job> {
        while self.may_visit(now) {
            let key = self.visits.take(now)?;
            if self.writing.contains(&key) {
                // The answer brings a new version; a visit that works with the old one could only fail.
                self.visits.done(&key);
                self.visits.add(&key, now + Duration::from_millis(20));
                continue;
            }
            let objection = self.objections.get(&key).cloned();
            if let Some(entry) = self.catalogue.entry(&key) {
                self.marked.remove(&key);
                let channel = Box::new(entry.seen.clone());
                let rollout = self.rollout(&key, now);
                self.visiting.insert(key);
                return Some(Job::Visit { channel, objection, rollout });
            }
            if !self.is_watched(&key) {
                self.visits.done(&key);
                continue;
            }
            let marked = self.marked.get(&key).map(|since| now.saturating_duration_since(*since));
            let sweep = !self.catalogue.exists(&key);
            self.visiting.insert(key.clone());
            return Some(Job::Leave { key, marked, sweep });
        }
        None
    }

    /// Visits wait for the first survey, since it says which Channel holds which subjects; but not for ever.
    fn may_visit(&self, now: Instant) -> bool {
        let given_up = self.broker_away.is_some() && now.saturating_duration_since(self.started) >= FIRST_CONNECTION;
        self.visiting.len() < MOST_VISITS && (self.surveys.is_done() || given_up)
    }

    /// A Channel of a namespace that is not watched is not known to be gone.
    fn is_watched(&self, key: &ChannelKey) -> bool {
        self.terms.namespaces.is_empty() || self.terms.namespaces.contains(&key.namespace)
    }

    fn put(&mut self, object: DynamicObject, now: Instant) {
        if let Some((key, news)) = self.catalogue.put(object) {
            self.channel_changed(&key, news, now);
        }
    }

    fn channel_changed(&mut self, key: &ChannelKey, news: News, now: Instant) {
        match news {
            News::Status => self.statuses.add(key, now),
            News::Specification | News::Gone => {
                if news == News::Gone {
                    self.waiting.set(key, None, now);
                }
                self.claim(key);
                self.visits.add(key, now);
            }
        }
    }

    /// Puts in what a Channel wants and what its stream holds; a stream can outlive its Channel.
    fn claim(&mut self, key: &ChannelKey) {
        let Terms { installation, .. } = &self.terms;
        let entry = self.catalogue.entry(key).map(|entry| &entry.seen);
        let created = entry.and_then(|seen| seen.created);
        let channel = entry.and_then(|seen| seen.channel.as_deref().ok());
        let wanted = channel.and_then(|channel| Some((channel, subjects(channel, &installation.grants).ok()?)));
        let demand = wanted.as_ref().filter(|_| !installation.quotas.is_empty());
        let demand = demand.map(|(channel, _)| Demand::of(channel, created));
        // One that a quota refuses stands in nobody's way.
        let subjects = wanted.filter(|_| !self.exceeded.contains_key(key)).map(|(_, subjects)| subjects);
        let claim = Claim { created, subjects: subjects.unwrap_or_default(), held: self.surveys.held(key) };
        if self.demands.get(key) != demand.as_ref() {
            self.demands_changed = true;
            match demand {
                Some(demand) => drop(self.demands.insert(key.clone(), demand)),
                None => drop(self.demands.remove(key)),
            }
        }
        self.claims_changed |= self.claims.set(key.clone(), claim);
    }

    fn resolve_claims(&mut self, now: Instant) {
        if std::mem::take(&mut self.demands_changed) {
            let exceeded = self.terms.installation.quotas.exceeded(&self.demands);
            let before = std::mem::replace(&mut self.exceeded, exceeded);
            for key in different(&before, &self.exceeded) {
                self.claim(&key);
                self.claims_changed = true;
            }
        }
        if !std::mem::take(&mut self.claims_changed) {
            return;
        }
        let mut objections = self.exceeded.clone();
        for (key, conflict) in self.claims.conflicts() {
            objections.entry(key).or_insert_with(|| Rejection::from(&conflict));
        }
        let before = std::mem::replace(&mut self.objections, objections);
        for key in different(&before, &self.objections) {
            if self.catalogue.is_ours(&key) {
                self.visits.add(&key, now);
            }
        }
    }

    fn rollout(&self, key: &ChannelKey, now: Instant) -> Rollout {
        let (gateways, waited) = (self.gateways.serving(key, now), self.waiting.waited(key, now));
        Rollout { gateways, waited, patience: ON_KUBERNETES }
    }

    /// Everything was listed for the first time: Routes whose Channels are gone are cleared away.
    fn sweep(&mut self, routed: BTreeSet<ChannelKey>, now: Instant) {
        for key in routed.into_iter().filter(|key| !self.catalogue.is_ours(key)) {
            self.visits.add(&key, now);
        }
    }

    fn all_visits(&mut self, now: Instant) {
        for key in self.catalogue.ours() {
            self.visits.add(key, now);
        }
    }

    fn all_waiting(&mut self, now: Instant) {
        for key in self.waiting.keys() {
            self.visits.add(key, now);
        }
    }

    fn all_statuses(&mut self, now: Instant) {
        for key in self.catalogue.ours() {
            self.statuses.add(key, now);
        }
    }
}

/// The Channels about which two of these say something else.
fn different<T: PartialEq>(before: &BTreeMap<ChannelKey, T>, after: &BTreeMap<ChannelKey, T>) -> BTreeSet<ChannelKey> {
    let keys = before.keys().chain(after.keys());
    keys.filter(|key| before.get(key) != after.get(key)).cloned().collect()
}

/// What to do about one status.
enum Wanted {
    Nothing,
    At(Instant),
    Now(Job),
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
