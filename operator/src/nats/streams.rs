//! The operator's NATS side: reads, creates, updates and deletes JetStream streams.
//!
//! It decides nothing: what a stream must look like, whose it is and whether two configurations differ comes from
//! `tidings_crds`. Configurations travel as JSON documents, so that a field this version does not know survives an update.
//! Called by the reconcile steps only; every call has a deadline.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, Event, ServerAddr, ServerError};
use serde_json::{Value, json};
use tidings_crds::login::LoginError;
use tidings_process::nats_login::NatsSettings;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::leader::elector::Leadership;
use crate::nats::listing::{Listed, Listing, Next};
use crate::nats::refusals::{Refusal, Refusals};
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Ready;

/// Longer than a JetStream leader election (about 4 s at worst), so that one does not fail a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause between two attempts to connect; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Short enough that work goes on soon after NATS is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What `STREAM.INFO` and its kin answer for "no such stream".
const NOT_FOUND: u64 = 10059;

/// "subjects overlap with an existing stream".
const OVERLAP: u64 = 10065;

/// "stream name already in use with a different configuration": another client was first.
const NAME_IN_USE: u64 = 10058;

/// "insufficient resources", "insufficient memory / storage resources available", "resource limits exceeded for account".
const FULL: [u64; 4] = [10023, 10028, 10047, 10002];

/// "incomplete results", "JetStream system temporarily unavailable", "JetStream cluster can not handle request".
const PASSING: [u64; 3] = [10004, 10008, 10009];

/// Messages of one subscription that may wait: beats, of 256 KiB at most and mostly far less. What is dropped is made up for by
/// the next full beat.
const MOST_WAITING: usize = 1024;

/// Where the replies to our requests go. Permissions name it: see `docs/reference/nats-permissions.md`.
const INBOX: &str = "_INBOX_tidings_operator";

/// JetStream of one account.
#[derive(Clone)]
pub struct Streams {
    client: Client,
    context: Context,
    metrics: Arc<Metrics>,
    connected: watch::Receiver<bool>,
    leadership: Leadership,
    refusals: Arc<Mutex<Refusals>>,
}

/// Why the connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The login's files.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The URL.
    #[error("{url} is no address of NATS servers: write nats://HOST:PORT, several separated by commas")]
    Url {
        /// As configured, without a password.
        url: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The certificates.
    #[error("failed to set up the connection to NATS at {url}")]
    Options {
        /// As configured, without a password.
        url: String,
        /// What went wrong.
        #[source]
        source: async_nats::ConnectError,
    },
}

/// What went wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No connection, or no answer in time: try again.
    #[error("failed to {verb}: no answer from JetStream")]
    Unreachable {
        /// What was tried.
        verb: String,
        /// What went wrong.
        #[source]
        source: RequestError,
    },
    /// JetStream says no: trying again helps only after something has changed.
    #[error("failed to {verb}: refused by JetStream")]
    Refused {
        /// What was tried.
        verb: String,
        /// Its code and words.
        #[source]
        source: jetstream::Error,
    },
    /// NATS does not permit it: trying again helps only after the permissions have changed.
    #[error("failed to {verb}: {refusal}")]
    Forbidden {
        /// What was tried.
        verb: String,
        /// What is not permitted.
        refusal: Refusal,
    },
    /// Another operator does the writing.
    #[error("failed to {verb}: this operator does not lead")]
    NotLeading {
        /// What was to be done.
        verb: String,
    },
}

// === impl StreamError ===

impl StreamError {
    /// The stable name of this kind of failure, for metrics and conditions.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "broker_unreachable",
            Self::Refused { .. } => "stream_refused",
            Self::Forbidden { .. } => "broker_permission",
            Self::NotLeading { .. } => "not_leading",
        }
    }

    /// Whether another stream has one of the subjects.
    pub fn is_overlap(&self) -> bool {
        self.code() == Some(OVERLAP)
    }

    /// Whether another client created the stream in between: read again.
    pub fn is_race(&self) -> bool {
        self.code() == Some(NAME_IN_USE)
    }

    /// What JetStream said, without the error code around it.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Refused { source, .. } => Some(source.to_string()),
            Self::Unreachable { .. } | Self::Forbidden { .. } | Self::NotLeading { .. } => None,
        }
    }

    /// Whether JetStream has no room: neither on disk nor in memory, or no more than the account may have.
    pub fn is_full(&self) -> bool {
        self.code().is_some_and(|code| FULL.contains(&code))
    }

    fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { source, .. } => Some(source.error_code().0),
            Self::Unreachable { .. } | Self::Forbidden { .. } | Self::NotLeading { .. } => None,
        }
    }
}

// === impl Streams ===

impl Streams {
    /// Starts connecting and returns at once: with NATS away it keeps trying, with growing pauses, and says so.
    ///
    /// # Errors
    /// Only for what no waiting repairs: unreadable credentials, a URL that is none.
    pub async fn connect(
        config: &NatsSettings,
        metrics: Arc<Metrics>,
        ready: Arc<Ready>,
    ) -> Result<Self, ConnectError> {
        let (told, connected) = watch::channel(false);
        let refusals = Arc::new(Mutex::new(Refusals::default()));
        let facts = (Arc::clone(&metrics), ready, Arc::clone(&refusals));
        let url = without_password(&config.url);
        let servers = servers(&config.url).map_err(|source| ConnectError::Url { url: url.clone(), source })?;
        // Later the files may be broken for a while; now an administrator is looking.
        config.handshake.check()?;
        let options = config
            .handshake
            .options()
            .name("tidings-operator")
            .custom_inbox_prefix(INBOX)
            .subscription_capacity(MOST_WAITING)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(CALL_TIMEOUT)
            .request_timeout(Some(CALL_TIMEOUT))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                if let Event::ServerError(ServerError::Other(said)) = &event {
                    facts.2.lock().unwrap_or_else(PoisonError::into_inner).take(said, Instant::now());
                }
                on_event(&event, &told, &facts.0, &facts.1);
                async {}
            });
        let client =
            options.connect(servers).await.map_err(|source| ConnectError::Options { url: url.clone(), source })?;
        info!(%url, "Connecting to NATS.");
        let mut context = jetstream::new(client.clone());
        context.set_timeout(CALL_TIMEOUT);
        Ok(Self { client, context, metrics, connected, leadership: Leadership::always(), refusals })
    }

    /// Changes streams only while leadership is held.
    #[must_use]
    pub fn led_by(mut self, leadership: Leadership) -> Self {
        self.context.set_timeout(leadership.call_timeout());
        self.leadership = leadership;
        self
    }

    /// The connection itself, for what is no JetStream.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether NATS is connected now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Changes whenever the connection comes and goes.
    pub fn connection(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// The stream's information as JetStream gives it (`config`, `created`, `state`); `None` if there is no such stream.
    pub async fn read(&self, name: &str) -> Result<Option<Value>, StreamError> {
        match self.call(format!("read stream {name}"), format!("STREAM.INFO.{name}"), &json!({})).await {
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Creates a stream and returns its information.
    pub async fn create(&self, name: &str, config: &Value) -> Result<Value, StreamError> {
        let info = self.change(format!("create stream {name}"), format!("STREAM.CREATE.{name}"), config).await?;
        self.metrics.stream_written("create");
        Ok(info)
    }

    /// Replaces a stream's configuration and returns its information.
    pub async fn update(&self, name: &str, config: &Value) -> Result<Value, StreamError> {
        let info = self.change(format!("update stream {name}"), format!("STREAM.UPDATE.{name}"), config).await?;
        self.metrics.stream_written("update");
        Ok(info)
    }

    /// Deletes a stream with all its messages; whether it was there.
    pub async fn delete(&self, name: &str) -> Result<bool, StreamError> {
        match self.change(format!("delete stream {name}"), format!("STREAM.DELETE.{name}"), &json!({})).await {
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(false),
            Err(error) => Err(error),
            Ok(_) => {
                self.metrics.stream_written("delete");
                Ok(true)
            }
        }
    }

    /// The information of every stream of the account. What exists all the time while it is listed is in it.
    pub async fn list(&self) -> Result<Listed, StreamError> {
        self.pages("list streams", json!({}), "STREAM.LIST").await
    }

    /// The names of the streams that have a subject in common with `subject`.
    pub async fn names_on(&self, subject: &str) -> Result<Vec<String>, StreamError> {
        let listed = self.pages("list streams", json!({ "subject": subject }), "STREAM.NAMES").await?;
        let names = listed.items.iter().filter_map(Value::as_str);
        Ok(names.chain(listed.silent.iter().map(String::as_str)).map(str::to_owned).collect())
    }

    async fn pages(&self, verb: &str, mut request: Value, subject: &str) -> Result<Listed, StreamError> {
        let (mut listing, mut offset) = (Listing::default(), 0);
        loop {
            if let Some(request) = request.as_object_mut() {
                request.insert("offset".to_owned(), offset.into());
            }
            let page = self.call(verb.to_owned(), subject.to_owned(), &request).await?;
            match listing.take(&page) {
                Next::Page(next) => offset = next,
                Next::Done(listed) => return Ok(listed),
                Next::Endless => {
                    let source = RequestError::with_source(RequestErrorKind::Other, "the listing does not end");
                    return Err(StreamError::Unreachable { verb: verb.to_owned(), source });
                }
            }
        }
    }

    async fn change(&self, verb: String, subject: String, request: &Value) -> Result<Value, StreamError> {
        if !self.leadership.is_held() {
            return Err(StreamError::NotLeading { verb });
        }
        self.call(verb, subject, request).await
    }

    async fn call(&self, verb: String, subject: String, request: &Value) -> Result<Value, StreamError> {
        // Without a connection a request waits out its whole deadline, once per Channel.
        if !self.is_connected() {
            return Err(StreamError::Unreachable { verb, source: RequestError::new(RequestErrorKind::NoResponders) });
        }
        let answer = self.context.request(subject.clone(), request).await;
        if answer.is_err() {
            let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(refusal) = refusals.of(&format!("$JS.API.{subject}"), INBOX, Instant::now()) {
                return Err(StreamError::Forbidden { verb, refusal });
            }
        }
        match answer {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) if is_passing(&error) => Err(StreamError::Unreachable {
                verb,
                source: RequestError::with_source(RequestErrorKind::Other, error),
            }),
            Ok(Response::Err { error }) => Err(StreamError::Refused { verb, source: error }),
            Err(source) => Err(StreamError::Unreachable { verb, source }),
        }
    }
}

/// The same call works a little later. Others with the same status (JetStream not enabled, out of resources) need a person.
fn is_passing(error: &jetstream::Error) -> bool {
    PASSING.contains(&error.error_code().0)
}

fn on_event(event: &Event, told: &watch::Sender<bool>, metrics: &Metrics, ready: &Ready) {
    match event {
        Event::Connected => {
            info!("NATS is connected.");
            set_connected(true, told, metrics, ready);
        }
        Event::Disconnected => {
            warn!("NATS is disconnected; trying to connect again.");
            set_connected(false, told, metrics, ready);
        }
        Event::Closed => set_connected(false, told, metrics, ready),
        Event::ClientError(error) => {
            metrics.error("broker_connection");
            warn!(%error, "Failed to reach NATS; trying again.");
        }
        other => warn!(event = %other, "NATS reported an event."),
    }
}

fn set_connected(connected: bool, told: &watch::Sender<bool>, metrics: &Metrics, ready: &Ready) {
    metrics.broker_connected(connected);
    ready.set_broker(connected);
    told.send_replace(connected);
}

/// Doubles from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`], then half of it is left to chance: a restarted NATS is not met by all at
/// the same moment.
fn pause(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let longest = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

fn servers(url: &str) -> io::Result<Vec<ServerAddr>> {
    url.split(',').map(|url| url.trim().parse()).collect()
}

fn without_password(url: &str) -> String {
    url.split(',')
        .map(|one| match (one.split_once("://"), one.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
            (None, Some((_, host))) => format!("…@{host}"),
            (_, None) => one.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_spread() {
        for _ in 0..100 {
            let first = pause(1);
            assert!(first >= FIRST_PAUSE / 2 && first <= FIRST_PAUSE, "{first:?}");
            let late = pause(usize::MAX);
            assert!(late >= LONGEST_PAUSE / 2 && late <= LONGEST_PAUSE, "{late:?}");
        }
    }

    #[test]
    fn addresses_are_separated_by_commas() {
        assert!(servers("nats://a:1, nats://b:2").is_ok_and(|servers| servers.len() == 2));
        assert!(servers("nats://a:99999").is_err());
    }

    #[test]
    fn passwords_stay_out_of_logs() {
        assert_eq!(without_password("nats://me:secret@host:4222"), "nats://…@host:4222");
        assert_eq!(without_password("me:se@cret@host,nats://b"), "…@host,nats://b");
        assert_eq!(without_password("nats://127.0.0.1:4222"), "nats://127.0.0.1:4222");
    }
}
