//! The Kubernetes front end: Channels and Routes from and to the API server, statuses, beats.
//!
//! ```text
//!  watches ──▶ ┌────────┐ ──▶ visits (stream, Route, finalizer)
//!  beats   ──▶ │ agenda │ ──▶ statuses
//!  NATS    ──▶ └────────┘ ──▶ surveys of all streams
//! ```
//! One task owns the [`Agenda`], which decides; everything that waits runs beside it and hands back what it found. Only the
//! leader is given anything to do; a follower watches, so that it is up to date when it is its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher;
use tidings_crds::beat::Beat;
use tidings_crds::channel::{Channel, ChannelStatus};
use tidings_crds::key::ChannelKey;
use tidings_process::error_chain::chain;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::kubernetes::config::KubernetesConfig;
use crate::kubernetes::config_maps::{FIELD_MANAGER, RouteMaps};
use crate::kubernetes::event_recorder::{Events, Publisher};
use crate::kubernetes::heartbeat_listener;
use crate::kubernetes::reconciler::Visits;
use crate::kubernetes::watch::{Told, Watch};
use crate::leader::elector::Leadership;
use crate::leader::fenced_api::{self, ApiError};
use crate::runtime::failpoint;
use crate::runtime::readiness::Ready;
use crate::schedule::event_reasons::{Notice, correction};
use crate::schedule::observed::ObservedChannel;
use crate::schedule::scheduler::{Agenda, Job, Terms};
use crate::schedule::status::{Account, Change, document};
use crate::schedule::stream_inventory::Survey;
use crate::schedule::visited::Visited;

/// News that may wait. A watch waits when the agenda is busy, and so does the API server.
const MOST_NEWS: usize = 1024;

/// News taken up before the next jobs are given out.
const NEWS_AT_A_TIME: usize = 256;

/// How often the definition of Channels is looked at: half of it when it is not as it should be.
const LOOK_AT_DEFINITION: Duration = Duration::from_secs(60);

/// What the watches and the gateways tell.
enum News {
    Channel(usize, Told<DynamicObject>),
    Route(Told<ConfigMap>),
    Slice(Told<EndpointSlice>),
}

/// What a job came to.
enum Done {
    Surveyed(Option<Survey>),
    Visited(Box<ObservedChannel>, Visited),
    Left(ChannelKey, Result<Option<Duration>, ApiError>),
    Written(Box<ObservedChannel>, Box<ChannelStatus>, Result<DynamicObject, ApiError>),
}

/// The Kubernetes front end.
pub struct Kubernetes {
    client: Client,
    config: KubernetesConfig,
    visits: Visits,
    leadership: Leadership,
    events: Events,
    ready: Arc<Ready>,
    agenda: Agenda,
    jobs: JoinSet<Done>,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// Nothing is read yet. The publisher is to be run beside it.
    pub fn new(
        client: Client,
        config: KubernetesConfig,
        visits: Visits,
        leadership: Leadership,
        resync: Duration,
        ready: Arc<Ready>,
    ) -> (Self, Publisher) {
        let terms = Terms {
            installation: Arc::clone(&visits.ctx.installation),
            controller: config.release.to_string(),
            class_name: config.class_name.clone(),
            namespaces: config.watch_namespaces.clone(),
            public_url: config.public_url.clone(),
            resync,
        };
        let metrics = Arc::clone(&visits.ctx.metrics);
        let (events, publisher) = Events::new(&client, &config.pod_name, leadership.clone(), metrics);
        let agenda = Agenda::new(terms, config.gateway_service.is_some(), Instant::now());
        let front = Self { client, config, visits, leadership, events, ready, agenda, jobs: JoinSet::new() };
        (front, publisher)
    }

    /// Works until shutdown, or until a watch ends that never should; whether it was shutdown.
    pub async fn serve(mut self, shutdown: CancellationToken) -> bool {
        let mut tasks = JoinSet::new();
        let (mut news, mut beats) = self.listen(&mut tasks);
        let mut connection = self.visits.ctx.streams.connection();
        let mut leading = self.leadership.changes();
        connection.mark_changed();
        leading.mark_changed();
        let mut waiting = Vec::with_capacity(NEWS_AT_A_TIME);
        loop {
            let next = self.give_out();
            tokio::select! {
                () = shutdown.cancelled() => return true,
                count = news.recv_many(&mut waiting, NEWS_AT_A_TIME) => {
                    if count == 0 {
                        error!("The watches ended.");
                        return false;
                    }
                    waiting.drain(..).for_each(|news| self.take(news));
                }
                Some(beat) = beats.recv() => self.agenda.take_beat(beat, Instant::now()),
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.finished(done),
                    Err(error) => {
                        error!(%error, "A task failed.");
                        return false;
                    }
                },
                Some(ended) = tasks.join_next() => {
                    error!(error = ?ended.err(), "A watch ended.");
                    return false;
                }
                changed = connection.changed() => {
                    if changed.is_err() {
                        // The client has ended for good; a new process has a new one.
                        error!("The connection to NATS ended.");
                        return false;
                    }
                    let connected = *connection.borrow_and_update();
                    self.agenda.broker(connected, Instant::now());
                }
                Ok(()) = leading.changed() => {
                    if *leading.borrow_and_update() {
                        self.agenda.lead(Instant::now());
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Starts everything that brings news.
    fn listen(&self, tasks: &mut JoinSet<()>) -> (mpsc::Receiver<News>, mpsc::Receiver<Beat>) {
        let (to, news) = mpsc::channel(MOST_NEWS);
        let (release, metrics) = (&self.config.release, &self.visits.ctx.metrics);
        let resource = ApiResource::erase::<Channel>(&());
        let channels: Vec<Api<DynamicObject>> = match self.config.watch_namespaces.as_slice() {
            [] => vec![Api::all_with(self.client.clone(), &resource)],
            namespaces => {
                let of = |namespace: &String| Api::namespaced_with(self.client.clone(), namespace, &resource);
                namespaces.iter().map(of).collect()
            }
        };
        for (scope, api) in channels.into_iter().enumerate() {
            let watch = Watch { api, what: "Channels", labels: String::new() };
            tasks.spawn(watch.follow(Arc::clone(metrics), to.clone(), move |told| News::Channel(scope, told)));
        }
        let watch = Watch {
            api: Api::namespaced(self.client.clone(), release.namespace()),
            what: "routes",
            labels: RouteMaps::selector(release),
        };
        tasks.spawn(watch.follow(Arc::clone(metrics), to.clone(), News::Route));
        if let Some(service) = &self.config.gateway_service {
            let watch = Watch {
                api: Api::namespaced(self.client.clone(), release.namespace()),
                what: "endpoints",
                labels: format!("kubernetes.io/service-name={service}"),
            };
            tasks.spawn(watch.follow(Arc::clone(metrics), to, News::Slice));
        }
        let (to, beats) = mpsc::channel(MOST_NEWS);
        let streams = self.visits.ctx.streams.clone();
        tasks.spawn(heartbeat_listener::listen(streams, release.clone(), Arc::clone(metrics), to));
        tasks.spawn(look_at_definition(self.visits.clone(), Arc::clone(&self.ready)));
        (news, beats)
    }

    fn take(&mut self, news: News) {
        let now = Instant::now();
        let routes = &self.visits.ctx.routes;
        match news {
            News::Channel(scope, Told::Event(event)) => {
                let listed = matches!(event, watcher::Event::InitDone);
                self.agenda.take_channel(scope, event, || routes.keys(), now);
                if listed {
                    self.ready.set_channels(true);
                }
            }
            News::Channel(_, Told::Blind) => self.ready.set_channels(false),
            News::Route(Told::Event(event)) => {
                let listed = matches!(event, watcher::Event::InitDone);
                let touched = routes.take(event);
                self.agenda.take_routes(touched, listed, || routes.keys(), now);
            }
            News::Slice(Told::Event(event)) => self.agenda.take_slice(event, now),
            News::Route(Told::Blind) | News::Slice(Told::Blind) => {}
        }
    }

    /// Starts what is to be done, and says when to look again at the latest.
    fn give_out(&mut self) -> Instant {
        if !self.leadership.is_held() {
            // Winning it is news.
            return Instant::now() + Duration::from_secs(1);
        }
        let now = Instant::now();
        let wall = wall();
        while let Some(job) = self.agenda.next_job(now, &wall) {
            self.start(job);
        }
        for contested in self.agenda.catalogue().contested() {
            self.tell_contested(&contested);
        }
        let (metrics, (expected, heard)) = (&self.visits.ctx.metrics, self.agenda.gateways().counts(now));
        metrics.gateways(&[("expected", expected), ("heard", heard)]);
        self.agenda.next(now)
    }

    fn start(&mut self, job: Job) {
        let visits = self.visits.clone();
        match job {
            Job::Survey => {
                metrics_of_states(&visits, &mut self.agenda);
                self.jobs.spawn(async move { Done::Surveyed(survey(&visits).await) })
            }
            Job::Visit { channel, objection, rollout } => self.jobs.spawn(async move {
                let visited = visits.visit(&channel, objection.as_ref(), &rollout).await;
                Done::Visited(channel, visited)
            }),
            Job::Leave { key, marked, sweep } => self.jobs.spawn(async move {
                let left = visits.leave(&key, marked, sweep).await;
                Done::Left(key, left)
            }),
            Job::Write { channel, status, change } => {
                let (client, leadership) = (self.client.clone(), self.leadership.clone());
                self.jobs.spawn(async move {
                    let written = write(&client, &leadership, &visits, &channel, &status, change).await;
                    Done::Written(channel, status, written)
                })
            }
        };
    }

    fn finished(&mut self, done: Done) {
        let (now, chance) = (Instant::now(), rand::random_range(0.0..=1.0));
        match done {
            Done::Surveyed(survey) => self.agenda.surveyed(survey, now),
            Done::Visited(channel, visited) => {
                let told = match &visited.account {
                    Account::Reconciled(report) => correction(report),
                    Account::Leaving(_) => None,
                };
                self.events.tell(&channel, told.into_iter().collect());
                self.agenda.visited(&channel, visited, now, chance);
            }
            Done::Left(key, left) => {
                if let Err(error) = &left {
                    self.visits.ctx.metrics.error(error.category());
                    debug!(channel = %key, error = %chain(error), "Failed to clean up after a Channel.");
                }
                self.agenda.left(&key, left, now, chance);
            }
            Done::Written(channel, status, written) => {
                if let Err(error) = &written
                    && !error.is_gone()
                {
                    self.visits.ctx.metrics.error(error.category());
                    // It was changed meanwhile: that change is read first.
                    if !error.is_stale() {
                        warn!(channel = %channel.key, error = %chain(error), "Failed to write a status; trying again.");
                    }
                }
                let notices = self.agenda.written(&channel, &status, written, now, chance);
                self.events.tell(&channel, notices);
            }
        }
    }

    fn tell_contested(&self, channel: &ObservedChannel) {
        let other = channel.status.controller_name.clone().unwrap_or_default();
        warn!(channel = %channel.key, controller = other, "Another installation serves this Channel; ignoring it.");
        let note = format!(
            "The Channel is served by {other}; {} has the same class and leaves it alone.",
            self.config.release
        );
        let notice = Notice { warning: true, reason: "ForeignController".to_owned(), note };
        self.events.tell(channel, vec![notice]);
    }
}

/// Writes a status by server-side apply: our fields, on the very version that was observed.
async fn write(
    client: &Client,
    leadership: &Leadership,
    visits: &Visits,
    channel: &ObservedChannel,
    status: &ChannelStatus,
    change: Change,
) -> Result<DynamicObject, ApiError> {
    let resource = ApiResource::erase::<Channel>(&());
    let channels: Api<DynamicObject> = Api::namespaced_with(client.clone(), &channel.key.namespace, &resource);
    let (how, what) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(document(channel, status)));
    let call = channels.patch_status(&channel.key.name, &how, &what);
    let written = fenced_api::write(leadership, "write the status of", channel.key.to_string(), call).await?;
    failpoint::reached("status-written");
    visits.ctx.metrics.status_written(match change {
        Change::Transition => "transition",
        Change::Progress => "progress",
        Change::Counts | Change::None => "counts",
    });
    Ok(written)
}

/// Looks at all streams of the account, and keeps what is this installation's.
async fn survey(visits: &Visits) -> Option<Survey> {
    let listed = match visits.ctx.streams.list().await {
        Ok(listed) => listed,
        Err(error) => {
            visits.ctx.metrics.error(error.category());
            debug!(error = %chain(&error), "Failed to list the streams.");
            return None;
        }
    };
    Some(Survey::of(listed, &visits.ctx.installation.cluster))
}

/// Keeps the readiness true to the definition of Channels.
async fn look_at_definition(visits: Visits, ready: Arc<Ready>) {
    let mut told: Option<String> = None;
    loop {
        let fault = match visits.definition.look().await {
            Ok(installed) => installed.fault(),
            // The watches tell that the API server is away.
            Err(error) => {
                visits.ctx.metrics.error(error.category());
                told.clone()
            }
        };
        if fault != told {
            match &fault {
                Some(fault) => warn!(fault, "The definition of Channels is missing or outdated."),
                None => info!("The definition of Channels is up to date."),
            }
        }
        let pause = if fault.is_some() { LOOK_AT_DEFINITION / 12 } else { LOOK_AT_DEFINITION };
        ready.set_schema(fault.clone());
        told = fault;
        tokio::time::sleep(pause).await;
    }
}

fn metrics_of_states(visits: &Visits, agenda: &mut Agenda) {
    visits.ctx.metrics.channels(&agenda.catalogue().states());
}

/// The time that conditions are written with: in whole seconds, as Kubernetes writes it.
fn wall() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
