//! Reads the stream of one channel: its state, batches by Direct Get, single messages from the leader.
//!
//! Every call has a deadline. Direct Get is answered by any replica, in order and without gaps within a reply, but perhaps
//! not up to the end; the leader's `STREAM.MSG.GET` is exact, one message at a time, in JSON that cannot break the
//! connection. (NATS ADR-31, and `JSApiMsgGetRequest` in nats-server.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidings_crds::position::Epoch;
use tidings_crds::subject::Pattern;
use tidings_crds::topic::{TopicFilter, TopicSpace};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::log::ingest::Info;
use crate::log::publication::Publication;
use crate::metrics::registry::{Backfill, BrokerFault, ChannelMetrics, InvalidMessage, Metrics};
use crate::nats::connection::{Link, REQUEST};
use crate::nats::decode::{ApiError, LeaderReply, Read, Reply, Wire, millis, nanos};

/// Messages asked for at once.
pub const BATCH: usize = 512;

/// Bytes asked for at once; one message may exceed it.
const BATCH_BYTES: usize = 1 << 20;

/// The longest silence within the reply to one request.
const SILENCE: Duration = REQUEST;

/// Subjects asked for in one `multi_last`; the server refuses more than 1,024.
pub const SUBJECTS: usize = 1000;

/// Reads one stream.
#[derive(Clone, Debug)]
pub struct Reader {
    link: Link,
    wire: Arc<Wire>,
    totals: Arc<Metrics>,
    metrics: Arc<ChannelMetrics>,
}

/// Messages in ascending order, without gaps as the answering replica knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The messages.
    pub messages: Vec<Publication>,
    /// Whether the replica has more.
    pub more: bool,
    /// How far the replica knew the stream, in the reply to a `multi_last`.
    pub up_to: Option<u64>,
}

/// One message, and whether its header block would have cost the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Single {
    /// The message.
    pub publication: Publication,
    /// Whether its header block is malformed.
    pub malformed: bool,
}

/// Why the stream could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no such stream now.
    #[error("the stream does not exist")]
    Missing,
    /// No answer in time, or nobody there.
    #[error("NATS did not answer in time")]
    Unavailable,
    /// The connection broke while the answer was on its way, or something in it cannot be read: only the leader's JSON,
    /// message by message, is certain to get through.
    #[error("the answer broke off, or cannot be read")]
    Broken,
    /// Another stream stands under the name now.
    #[error("the stream was replaced")]
    Replaced,
    /// NATS answered with an error.
    #[error("NATS refused: {0}")]
    Refused(String),
    /// More than one subscriber may ask for.
    #[error("{0}")]
    TooMuch(TooMuch),
}

/// Why a question is not worth its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Too many topics match.
    #[error(
        "more than {0} topics match: ask for fewer topics, or for from=all; with maxMessagesPerTopic: 1 a channel has no \
         such limit"
    )]
    Topics(usize),
    /// Their newest events are too large.
    #[error(
        "the newest events of these topics take more than {0} bytes: ask for fewer topics, or for from=all; with \
         maxMessagesPerTopic: 1 a channel has no such limit"
    )]
    Bytes(usize),
    /// Too many filters.
    #[error("from=last and from=last-per-topic take at most {0} topic filters: ask for fewer topics")]
    Filters(usize),
}

#[derive(Deserialize)]
struct InfoReply {
    error: Option<ApiError>,
    created: Option<String>,
    state: Option<StateReply>,
    config: Option<ConfigReply>,
    cluster: Option<ClusterReply>,
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct ConfigReply {
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    num_replicas: usize,
}

#[derive(Deserialize)]
struct ClusterReply {
    #[serde(default)]
    replicas: Vec<PeerReply>,
}

#[derive(Deserialize)]
struct PeerReply {
    /// Nanoseconds since the leader last heard of it.
    #[serde(default)]
    active: u64,
    #[serde(default)]
    offline: bool,
}

#[derive(Deserialize)]
struct StateReply {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
    last_ts: String,
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

// === impl Reader ===

impl Reader {
    /// Reads over this link what the wire understands.
    pub fn new(link: Link, wire: Arc<Wire>, totals: Arc<Metrics>, metrics: Arc<ChannelMetrics>) -> Self {
        Self { link, wire, totals, metrics }
    }

    /// The same, over another link.
    pub fn over(&self, link: Link) -> Self {
        Self { link, ..self.clone() }
    }

    /// How topics and subjects correspond.
    pub fn topics(&self) -> &TopicSpace {
        self.wire.topics()
    }

    /// How often the connection that it asks over has been made.
    pub fn connects(&self) -> u64 {
        self.link.connects()
    }

    /// The state of the stream, by its leader.
    pub async fn info(&self) -> Result<Info, ReadError> {
        let reply: InfoReply = self.api("STREAM.INFO", &json!({})).await?;
        let (Some(created), Some(state), None) = (reply.created, reply.state, reply.error) else {
            return Err(ReadError::Unavailable);
        };
        let nanos = nanos(&created).ok_or_else(|| ReadError::Refused(format!("created at {created}")))?;
        // An empty stream's time is the year 1.
        let last_time = millis(&state.last_ts).unwrap_or(0);
        // Of an emptied stream the server can tell a first sequence that lies too low: what exists next comes behind the last.
        let first = if state.messages == 0 { state.last_seq + 1 } else { state.first_seq };
        let epoch = Epoch::from_nanos(nanos);
        let config = reply.config.unwrap_or(ConfigReply { subjects: Vec::new(), num_replicas: 1 });
        let heard = heard(&reply.cluster.map(|cluster| cluster.replicas).unwrap_or_default(), config.num_replicas);
        let unrouted = config.subjects.iter().any(|subject| !self.routes(subject));
        Ok(Info { epoch, first, last: state.last_seq, last_time, heard, unrouted })
    }

    /// Whether the Route has every subject that this pattern of the stream stands for.
    fn routes(&self, subject: &str) -> bool {
        let Ok(subject) = subject.parse::<Pattern>() else { return true };
        self.topics().patterns(&TopicFilter::All).iter().any(|routed| routed.contains(&subject))
    }

    /// The messages from `from` on that match `filter`, by any replica.
    pub async fn batch(&self, from: u64, filter: Option<&Pattern>, kind: Backfill) -> Result<Batch, ReadError> {
        let filter = filter.map_or(">", Pattern::as_str);
        let request = json!({"seq": from, "batch": BATCH, "max_bytes": BATCH_BYTES, "next_by_subj": filter});
        self.direct(&request, kind).await
    }

    /// The message at `from`, or the next one that matches `filter`, by the leader.
    pub async fn leader(&self, from: u64, filter: Option<&Pattern>) -> Result<Option<Single>, ReadError> {
        let filter = filter.map_or(">", Pattern::as_str);
        self.single(&json!({"seq": from, "next_by_subj": filter})).await
    }

    /// The newest message that matches this pattern, by the leader. Not for `>`, which fails if the last one was deleted.
    pub async fn last_of(&self, filter: &Pattern) -> Result<Option<Single>, ReadError> {
        self.single(&json!({"last_by_subj": filter.as_str()})).await
    }

    /// The first message stored at or after `time`, by the leader: a replica that lags knows of none, or of a later one.
    pub async fn since(&self, time: SystemTime) -> Result<Option<Publication>, ReadError> {
        let start = OffsetDateTime::from(time).format(&Rfc3339).map_err(|e| ReadError::Refused(e.to_string()))?;
        let single = self.single(&json!({"start_time": start, "next_by_subj": ">"})).await?;
        Ok(single.map(|single| single.publication))
    }

    /// The newest message of each of these subjects, of which the leader has told that they have one. Not more than the
    /// server takes at once: see [`SUBJECTS`].
    ///
    /// Those behind `bound` are left out: with the stream from `bound` on they are complete, whatever comes in meanwhile.
    ///
    /// Any replica answers. Its word counts if it says that it knows the stream at least up to `bound`. With an upper bound in
    /// the request it would not say that, so there is none.
    pub async fn newest(&self, subjects: &[String], bound: u64) -> Result<Vec<Publication>, ReadError> {
        let mut newest = Vec::new();
        let mut from = 1;
        loop {
            let request = json!({"multi_last": subjects, "batch": subjects.len(), "seq": from});
            let batch = self.direct(&request, Backfill::LastPerTopic).await?;
            batch.up_to.filter(|known| *known >= bound).ok_or(ReadError::Unavailable)?;
            from = batch.messages.last().map_or(from, |last| last.sequence + 1);
            let progress = !batch.messages.is_empty();
            newest.extend(batch.messages);
            if !batch.more || from > bound {
                break;
            }
            if !progress {
                return Err(ReadError::Unavailable);
            }
        }
        newest.retain(|publication| publication.sequence <= bound);
        Ok(newest)
    }

    /// The subjects that match and hold messages, by the leader.
    pub async fn subjects(&self, filter: &Pattern, most: usize) -> Result<Vec<String>, ReadError> {
        let mut subjects = Vec::new();
        loop {
            let request = json!({"subjects_filter": filter.as_str(), "offset": subjects.len()});
            let reply: InfoReply = self.api("STREAM.INFO", &request).await?;
            let page = reply.state.and_then(|state| state.subjects).unwrap_or_default();
            if page.is_empty() {
                return Ok(subjects);
            }
            subjects.extend(page.into_keys());
            if subjects.len() > most {
                return Err(ReadError::TooMuch(TooMuch::Topics(most)));
            }
            if subjects.len() >= reply.total {
                return Ok(subjects);
            }
        }
    }

    async fn single(&self, request: &Value) -> Result<Option<Single>, ReadError> {
        let reply: LeaderReply = self.api("STREAM.MSG.GET", request).await?;
        match self.wire.leader(reply) {
            Ok(None) => Ok(None),
            Ok(Some(read)) => {
                let malformed = read.fault == Some(InvalidMessage::Headers);
                self.metrics.backfill(Backfill::Leader, 1);
                Ok(Some(Single { publication: self.noted(read), malformed }))
            }
            Err(error) if error.is_missing_stream() => Err(ReadError::Missing),
            Err(error) => {
                self.totals.broker_error(BrokerFault::Reply);
                Err(ReadError::Refused(error.to_string()))
            }
        }
    }

    /// One request to the JetStream API, answered by the leader.
    async fn api<T: DeserializeOwned>(&self, verb: &str, request: &Value) -> Result<T, ReadError> {
        let client = self.link.client().ok_or(ReadError::Unavailable)?;
        let mut health = self.link.health();
        let breaks = health.borrow_and_update().breaks;
        let subject = format!("$JS.API.{verb}.{}", self.wire.stream());
        let reply = tokio::select! {
            reply = client.request(subject, Bytes::from(request.to_string())) => reply,
            // The answer went with the connection: waiting out the deadline would only keep the channel waiting.
            _ = health.wait_for(|health| health.breaks != breaks) => return Err(ReadError::Unavailable),
        };
        let reply = reply.map_err(|error| {
            use async_nats::client::RequestErrorKind::{NoResponders, TimedOut};
            self.totals.broker_error(match error.kind() {
                NoResponders => BrokerFault::NoResponders,
                TimedOut => BrokerFault::Timeout,
                _ => BrokerFault::Server,
            });
            ReadError::Unavailable
        })?;
        // A missing stream is an error in JSON; it has to be told apart before `T` is tried.
        let value: Value = serde_json::from_slice(&reply.payload).map_err(|error| {
            self.totals.broker_error(BrokerFault::Reply);
            ReadError::Refused(error.to_string())
        })?;
        let missing = value.get("error").and_then(|error| error.get("err_code")).and_then(Value::as_u64);
        if missing == Some(10059) {
            return Err(ReadError::Missing);
        }
        serde_json::from_value(value).map_err(|error| ReadError::Refused(error.to_string()))
    }

    /// One Direct Get with any number of replies.
    async fn direct(&self, request: &Value, kind: Backfill) -> Result<Batch, ReadError> {
        let client = self.link.client().ok_or(ReadError::Unavailable)?;
        let mut health = self.link.health();
        let breaks = health.borrow_and_update().breaks;
        let inbox = client.new_inbox();
        let mut replies = client.subscribe(inbox.clone()).await.map_err(|_| ReadError::Unavailable)?;
        let subject = format!("$JS.API.DIRECT.GET.{}", self.wire.stream());
        let sent = client.publish_with_reply(subject, inbox, Bytes::from(request.to_string())).await;
        sent.map_err(|_| ReadError::Unavailable)?;
        let mut batch = Batch::default();
        let outcome = loop {
            let message = tokio::select! {
                message = replies.next() => message,
                _ = health.wait_for(|health| health.breaks != breaks) => None,
                () = tokio::time::sleep(SILENCE) => {
                    self.totals.broker_error(BrokerFault::Timeout);
                    break Err(ReadError::Unavailable);
                }
            };
            let Some(message) = message else { break Err(ReadError::Broken) };
            if let Some(end) = self.collect(&message, &mut batch) {
                break end;
            }
        };
        if !batch.messages.is_empty() {
            self.metrics.backfill(kind, batch.messages.len() as u64);
        }
        match outcome {
            Ok(more) => batch.more = more,
            // What arrived before is good: it proves what it contains.
            Err(_) if !batch.messages.is_empty() => batch.more = true,
            Err(error) => return Err(error),
        }
        Ok(batch)
    }

    /// Takes one reply; says whether there is more once the last one is in.
    fn collect(&self, message: &Message, batch: &mut Batch) -> Option<Result<bool, ReadError>> {
        match self.wire.direct(message) {
            Reply::Message { read, previous } => {
                // The first of a batch has 0 before it.
                if previous != batch.messages.last().map_or(0, |last| last.sequence) {
                    // A reply in between was dropped: what comes after it proves nothing.
                    self.totals.broker_error(BrokerFault::Reply);
                    return Some(Ok(true));
                }
                batch.messages.push(self.noted(read));
                None
            }
            Reply::End { pending, up_to } => {
                batch.up_to = up_to;
                Some(Ok(pending > 0))
            }
            Reply::Nothing => Some(Ok(false)),
            Reply::Missing => {
                self.totals.broker_error(BrokerFault::NoResponders);
                Some(Err(ReadError::Unavailable))
            }
            // An unterminated header block swallows the first line that the server appends.
            Reply::Unreadable => {
                self.totals.broker_error(BrokerFault::Reply);
                Some(Err(ReadError::Broken))
            }
            Reply::Refused => {
                self.totals.broker_error(BrokerFault::Reply);
                Some(Err(ReadError::Refused(message.description.clone().unwrap_or_else(|| "unreadable reply".into()))))
            }
        }
    }

    fn noted(&self, read: Read) -> Publication {
        if let Some(fault) = read.fault {
            self.metrics.invalid_message(fault);
        }
        read.publication
    }
}

/// How long ago the leader was in contact with a majority, itself included, of `replicas` servers; `others` are those beside it.
fn heard(others: &[PeerReply], replicas: usize) -> Option<Duration> {
    let needed = replicas.max(others.len() + 1) / 2;
    let mut ages: Vec<u64> = others.iter().filter(|peer| !peer.offline).map(|peer| peer.active).collect();
    ages.sort_unstable();
    match needed.checked_sub(1) {
        None => Some(Duration::ZERO),
        Some(last) => ages.get(last).copied().map(Duration::from_nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_has_heard_of_a_majority_as_long_ago_as_of_the_last_it_needs() {
        let peer = |active: u64| PeerReply { active, offline: false };
        let gone = || PeerReply { active: 1, offline: true };
        for (others, replicas, expected) in [
            (vec![], 1, Some(0)),
            (vec![], 3, None),
            (vec![peer(5), peer(9)], 3, Some(5)),
            (vec![gone(), peer(9)], 3, Some(9)),
            (vec![gone(), gone()], 3, None),
            (vec![peer(5), peer(9), peer(7), peer(8)], 5, Some(7)),
        ] {
            assert_eq!(heard(&others, replicas), expected.map(Duration::from_nanos), "{} of {replicas}", others.len());
        }
    }
}
