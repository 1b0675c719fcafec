//! The public port: which request goes where, and what every answer has in common.
//!
//! ```text
//! request ─▶ path and method ─▶ query, headers (400), Route, access (401, 404) ─▶ removed, limits (200 path, 429) ─▶ Hub
//!                                                                                                                   │
//! answer  ◀─ count, log ◀─ CORS ◀───────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::routing::any;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method, Request};
use tidings_crds::route::Route;
use tracing::debug;

use crate::auth::principal::Caller;
use crate::channel::access_lease::Lease;
use crate::channel::hub::{Subscribe, SubscribeError};
use crate::http::app::{App, Call};
use crate::http::authorize::{Publishing, Subscription};
use crate::http::cors::{self, Readers};
use crate::http::demo;
use crate::http::host;
use crate::http::problem::{Problem, ProblemKind};
use crate::http::publish::{self, Posted};
use crate::http::response::{self, Reply};
use crate::http::retry;
use crate::http::subscribe;
use crate::limits::client::Client;
use crate::limits::usage::Place;
use crate::metrics::registry::{Operation, PostOutcome, TurnedAway};
use crate::routes::{InForce, Served};
use crate::runtime::drain::Phase;
use crate::server::upgrade::Offer;

/// Where a channel is, for every method.
const CHANNEL: &str = "/channels/{namespace}/{name}/events";

/// Long enough for 64 topics of a usual length.
pub const MAX_URI_BYTES: usize = 8 << 10;

/// An answer, and whether the channel had a say in it.
struct Answer {
    reply: Reply,
    /// The channel that grants what was asked for. Without one the answer is the same for all channels.
    granted_by: Option<Arc<Served>>,
}

/// A subscription that is being opened with this Route. When that is over, however it ends, a Route that has changed meanwhile
/// reaches the channel: it may have been opened with the old one after the change was told.
struct Opening<'a> {
    app: &'a App,
    key: &'a str,
    route: &'a Arc<Route>,
}

/// Whose pages may read what is the same for all channels.
fn strangers(routes: &InForce) -> Readers<'_> {
    if routes.is_loaded() { Readers::Installation(routes.origins()) } else { Readers::Anybody }
}

// === impl App ===

impl App {
    /// The public port's router: channels, and what is elsewhere.
    pub fn router(self) -> Router {
        Router::new().route(CHANNEL, any(at_channel)).fallback(at_elsewhere).with_state(Arc::new(self))
    }

    /// Answers one request, to the channel `namespace/name` or to no channel.
    async fn answer(&self, target: Target, request: Request<Body>, peer: SocketAddr) -> Reply {
        let started = Instant::now();
        let (http::request::Parts { method, uri, version, headers, mut extensions, .. }, mut body) =
            request.into_parts();
        let malformed = host::check(version, &uri, &headers).err();
        let (operation, mut reply) = if let Some(problem) = malformed {
            (Operation::Other, self.refused_to_all(problem, &headers))
        } else if uri.path_and_query().is_some_and(|text| text.as_str().len() > MAX_URI_BYTES) {
            let problem =
                Problem::new(ProblemKind::UriTooLong, "the URI is longer than 8 KiB: use wildcards in topics");
            (Operation::Other, self.refused_to_all(problem, &headers))
        } else if let Target::Unreadable = target {
            let problem = Problem::invalid("the path is not UTF-8: write /channels/{namespace}/{name}/events");
            (Operation::Other, self.refused_to_all(problem, &headers))
        } else if let Target::Channel(key) = target {
            let routes = &*self.routes.now();
            let served = routes.get(&key);
            let client = Client::of(peer.ip(), &headers, &self.limits.trusted_proxies, self.limits.forwarded_header);
            let offer = extensions.remove::<Offer>();
            let call = Call { key: &key, uri: &uri, headers: &headers, routes, served, started, client, offer };
            let (operation, answer) = self.channel(&method, &call, &mut body).await;
            let (readers, mut reply) = match &answer.granted_by {
                Some(served) => (Readers::Channel(&served.route.cors), answer.reply),
                None => (strangers(routes), answer.reply),
            };
            cors::allow(readers, &headers, reply.headers_mut());
            (operation, reply)
        } else {
            (Operation::Other, self.readable_by_all(self.elsewhere(&method, uri.path()), &headers))
        };
        response::common_headers(reply.headers_mut());
        if reply.status().is_client_error() || reply.status().is_server_error() {
            self.lingering.drop_rest(version, &headers, body, self.limits.body_timeout);
        }
        if self.drain.phase() >= Phase::Draining {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics.request(operation, reply.status());
        // Never the query: it may hold a token.
        debug!(%method, path = uri.path(), status = reply.status().as_u16(), %peer, took = ?started.elapsed(), "Answered.");
        reply
    }

    async fn channel(&self, method: &Method, call: &Call<'_>, body: &mut Body) -> (Operation, Answer) {
        match *method {
            Method::GET => (Operation::Subscribe, self.subscribe(call, false).await),
            Method::HEAD => (Operation::Head, self.subscribe(call, true).await),
            Method::POST => (Operation::Publish, self.publish(call, body).await),
            Method::OPTIONS => {
                let reply = cors::options(strangers(call.routes), call.headers);
                (Operation::Options, Answer::refused(reply))
            }
            _ => (Operation::Other, Answer::refused(Problem::method_not_allowed(cors::METHODS))),
        }
    }

    /// A refusal that depends on no channel.
    fn refused_to_all(&self, problem: Problem, headers: &HeaderMap) -> Reply {
        self.readable_by_all(problem.into(), headers)
    }

    /// An answer that depends on no channel, with what lets pages read it.
    fn readable_by_all(&self, mut reply: Reply, headers: &HeaderMap) -> Reply {
        cors::allow(strangers(&self.routes.now()), headers, reply.headers_mut());
        reply
    }

    fn elsewhere(&self, method: &Method, path: &str) -> Reply {
        match (path, method) {
            ("/", &Method::GET | &Method::HEAD) if self.demo => demo::page(),
            ("/", _) if self.demo => Problem::method_not_allowed("GET, HEAD").into(),
            _ => Problem::not_found("channels are at /channels/{namespace}/{name}/events").into(),
        }
    }

    async fn subscribe(&self, call: &Call<'_>, head: bool) -> Answer {
        match self.entitled_to_subscribe(call).await {
            Ok(entitled) => {
                let served = entitled.served.clone();
                Answer::granted(served, self.open(call, entitled, head).await)
            }
            Err(reply) => Answer::refused(reply),
        }
    }

    /// Opens a stream, or says why not now.
    async fn open(&self, call: &Call<'_>, entitled: Subscription, head: bool) -> Result<Reply, Problem> {
        let Subscription { asked, granted, topics, caller, revision, served, removed } = entitled;
        if removed {
            return Ok(self.turn_away(call, &served, TurnedAway::Removed));
        }
        let rules = self.authority.rules();
        asked.fits(&served.route)?;
        if head {
            return Ok(subscribe::head());
        }
        let place = match self.place(&served, self.client(call, caller.as_ref())) {
            Ok(place) => place,
            Err(reason) => return Ok(self.turn_away(call, &served, reason)),
        };
        let begins = (Instant::now(), SystemTime::now());
        let lease = Lease::new((asked.topics, &granted), caller, rules.clone(), revision, begins, rand::random());
        let request = Subscribe { topics, start: asked.start };
        let opening = Opening { app: self, key: call.key, route: &served.route };
        let opened = self.hub.subscribe(&served.route, request, lease, Some(place)).await;
        drop(opening);
        match opened {
            Ok(opened) => {
                self.metrics.subscribed_after(call.started.elapsed());
                Ok(subscribe::stream(opened, call.offer.as_ref().zip(self.shards.as_ref())))
            }
            Err(SubscribeError::TooMuch(too_much)) => Err(Problem::invalid(too_much.to_string())),
            Err(error) => {
                debug!(channel = %served.route.key(), %error, "Failed to open a stream.");
                Ok(self.turn_away(call, &served, TurnedAway::Broker))
            }
        }
    }

    /// The gateway's own limits first, then the channel's.
    fn place(&self, served: &Served, client: Client) -> Result<Place, TurnedAway> {
        if self.drain.phase() >= Phase::Draining {
            return Err(TurnedAway::Draining);
        }
        let full = self.limits.subscribers.is_some_and(|most| self.hub.subscribers() >= most);
        if full || self.room.is_tight() {
            return Err(TurnedAway::Connections);
        }
        let (limits, now) = (self.authority.rules().limits(), Instant::now());
        let presence = self.clients.admit(&limits.client, client, now)?;
        Ok(served.usage.admit(&limits.over(&served.route.limits), client, now)?.of(presence))
    }

    /// Whom limits count the request by.
    fn client(&self, call: &Call<'_>, caller: Option<&Caller>) -> Client {
        caller.and_then(|caller| caller.principal.fingerprint()).map_or(call.client, Client::Subject)
    }

    /// Counts one POST; how long to wait, if it is one too many.
    fn count_post(&self, served: &Served, client: Client) -> Result<(), Duration> {
        let (limits, now) = (self.authority.rules().limits(), Instant::now());
        self.clients.post(&limits.client, client, now)?;
        served.usage.post(&limits.over(&served.route.limits), now)
    }

    /// Counts the bytes of one POST; how long to wait, if they are too many.
    fn count_bytes(&self, served: &Served, client: Client, bytes: u64) -> Result<(), Duration> {
        let (limits, now) = (self.authority.rules().limits(), Instant::now());
        self.clients.post_bytes(bytes, &limits.client, client, now)?;
        served.usage.post_bytes(bytes, &limits.channel, now)
    }

    fn turn_away(&self, call: &Call<'_>, served: &Served, reason: TurnedAway) -> Reply {
        served.metrics(&self.metrics).turned_away(reason);
        if reason == TurnedAway::Removed {
            // Whose first count this is: it goes with those that the channel had.
            self.metrics.channel_removed(call.key, Instant::now());
        }
        let why = match reason {
            TurnedAway::Connections => "the limit of open streams is reached: retry later",
            TurnedAway::ConnectRate => "too many new streams per second: retry later",
            TurnedAway::ClientRate => "too many new streams per second from this client: retry later",
            TurnedAway::Client => "the limit of open streams per client is reached: close one",
            TurnedAway::Draining => "this gateway is shutting down: reconnect to another one",
            TurnedAway::Broker => "NATS does not respond: retry later",
            TurnedAway::Removed => "the channel was removed a moment ago: reconnect, it may be created again",
        };
        let base = match reason {
            // The next gateway waits already.
            TurnedAway::Draining => Duration::ZERO,
            _ => Duration::from_millis(served.route.events.retry_milliseconds.into()),
        };
        // Over another connection, where this one is in the way.
        let close = reason == TurnedAway::Connections;
        retry::later(call.headers, retry::jittered(base, &mut rand::rng()), why, close)
    }

    async fn publish(&self, call: &Call<'_>, body: &mut Body) -> Answer {
        match self.entitled_to_publish(call).await {
            Ok(entitled) => {
                let served = entitled.served.clone();
                Answer::granted(served, self.post(call, entitled, body).await)
            }
            Err(problem) => Answer::refused(problem),
        }
    }

    /// Publishes, and waits for the acknowledgement.
    async fn post(&self, call: &Call<'_>, entitled: Publishing, body: &mut Body) -> Result<Reply, Problem> {
        let Publishing { posted, caller, served } = entitled;
        let counts = served.metrics(&self.metrics);
        let count = |outcome: PostOutcome| {
            move |problem: Problem| {
                counts.posted(outcome);
                problem
            }
        };
        posted.fits(&served.route).map_err(count(PostOutcome::Invalid))?;
        let client = self.client(call, caller.as_ref());
        let limited = |wait: Duration| {
            let problem = Problem::new(ProblemKind::TooManyRequests, "rate limit exceeded: retry later");
            count(PostOutcome::Limited)(problem.retry_after(wait.as_secs() + 1))
        };
        self.count_post(&served, client).map_err(limited)?;
        let limit = self.limits.publish_bytes.min(served.route.events.max_event_bytes);
        let data = publish::data(call.headers, body, limit, self.limits.body_timeout).await;
        let data = data.map_err(count(PostOutcome::Invalid))?;
        Posted::suits(&served.route, &data).map_err(count(PostOutcome::Invalid))?;
        self.count_bytes(&served, client, data.len() as u64).map_err(limited)?;
        let started = Instant::now();
        match self.hub.publish(&served.route, posted.with(caller.as_ref().map(|caller| &*caller.principal), data)).await
        {
            Ok(published) => {
                self.metrics.published_after(started.elapsed());
                let (outcome, reply) = publish::acknowledgement(&served.route, published);
                counts.posted(outcome);
                Ok(reply)
            }
            Err(error) => {
                let (outcome, problem) = publish::failure(&error);
                Err(count(outcome)(problem))
            }
        }
    }
}

// === impl Opening ===

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let current = || self.app.routes.get(self.key).map(|served| served.route.clone());
        if current().is_none_or(|now| !Arc::ptr_eq(&now, self.route)) {
            self.app.hub.follow_route(self.key, current);
        }
    }
}

// === impl Answer ===

impl Answer {
    fn granted(by: Arc<Served>, reply: Result<Reply, Problem>) -> Self {
        Self { reply: reply.unwrap_or_else(Into::into), granted_by: Some(by) }
    }

    fn refused(reply: impl Into<Reply>) -> Self {
        Self { reply: reply.into(), granted_by: None }
    }
}

/// What a path names.
enum Target {
    /// The channel `namespace/name`.
    Channel(String),
    /// Something that is not UTF-8.
    Unreadable,
    /// Anything else.
    Elsewhere,
}

async fn at_channel(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request<Body>,
) -> Reply {
    app.answer(target(path), request, peer).await
}

/// The router lets empty names pass.
fn target(path: Result<Path<(String, String)>, PathRejection>) -> Target {
    match path {
        Ok(Path((namespace, name))) if namespace.is_empty() || name.is_empty() => Target::Elsewhere,
        Ok(Path((namespace, name))) => Target::Channel(format!("{namespace}/{name}")),
        Err(_) => Target::Unreadable,
    }
}

async fn at_elsewhere(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Reply {
    app.answer(Target::Elsewhere, request, peer).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_channel_is_named_by_its_path() {
        let named = async |path: Result<Path<(String, String)>, PathRejection>| match target(path) {
            Target::Channel(key) => key,
            Target::Unreadable => "unreadable".to_owned(),
            Target::Elsewhere => String::new(),
        };
        let router: Router = Router::new().route(CHANNEL, any(named)).fallback(async || "");
        for (path, key) in [
            ("/channels/demo/hello/events", Some("demo/hello")),
            ("/channels/demo/hello/events/", None),
            ("/channels/demo/hello", None),
            ("/channels//hello/events", None),
            ("/channels/demo//events", None),
            ("/channels/a/b/c/events", None),
            ("/channels/demo/%FF/events", Some("unreadable")),
            ("/channels/demo/events", None),
            ("/channels/events", None),
            ("/", None),
        ] {
            let reply = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            let found = reply.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(found, key.unwrap_or_default(), "{path}");
        }
    }
}
