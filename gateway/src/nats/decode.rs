//! What NATS says, read with suspicion: the one place where messages become [`Publication`]s.
//!
//! Publishers can send any header, the server's own names included; the server appends its own behind them. So the *last*
//! value counts, under the exact name. A live message is believed only if its headers name our stream and the very subject
//! it was republished under, and if it asks for no reply (republished messages never do, a consumer's deliveries do).

use std::str::FromStr;

use async_nats::{HeaderMap, HeaderName, Message, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use tidings_crds::topic::TopicSpace;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::log::publication::{EventType, EventTypeError, Millis, Publication};
use crate::metrics::registry::InvalidMessage;

/// The header with an event's type.
pub const EVENT_HEADER: &str = "Tidings-Event";

/// The prefix under which streams republish.
pub const LIVE_PREFIX: &str = "tidings-live";

/// How the messages of one channel are read.
#[derive(Clone, Debug)]
pub struct Wire {
    stream: String,
    live: String,
    topics: TopicSpace,
}

/// A message read, and what was wrong with it that did not keep it from being shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What subscribers are shown.
    pub publication: Publication,
    /// What had to be left out.
    pub fault: Option<InvalidMessage>,
}

/// One message of the reply to a Direct Get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A stored message, and the one before it in the batch (0 for the first).
    Message {
        /// The message.
        read: Read,
        /// The sequence that the server says came before it.
        previous: u64,
    },
    /// The batch ends here (204); so many more match.
    End {
        /// How many.
        pending: u64,
        /// How far the answering replica knew the stream, in the reply to a `multi_last` without a bound.
        up_to: Option<u64>,
    },
    /// Nothing matches (404).
    Nothing,
    /// The request is not understood (408).
    Refused,
    /// No such stream, or none that allows Direct Get (503).
    Missing,
    /// None of these.
    Unreadable,
}

/// An error of the JetStream API.
#[derive(Debug, Deserialize)]
pub struct ApiError {
    /// As in HTTP.
    pub code: u16,
    /// What exactly, by the server's own numbering.
    #[serde(default)]
    pub err_code: u32,
    /// In words.
    #[serde(default)]
    pub description: String,
}

/// The reply to `STREAM.MSG.GET`.
#[derive(Debug, Deserialize)]
pub struct LeaderReply {
    error: Option<ApiError>,
    message: Option<LeaderMessage>,
}

#[derive(Debug, Deserialize)]
struct LeaderMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: String,
}

/// A header block that the NATS client library would take for a broken connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

const NO_MESSAGE: u32 = 10037;
const NO_STREAM: u32 = 10059;

// === impl Wire ===

impl Wire {
    /// Reads the messages of `stream`; for an Ephemeral channel the name is empty.
    pub fn new(stream: &str, topics: TopicSpace) -> Self {
        Self { stream: stream.to_owned(), live: format!("{LIVE_PREFIX}.{stream}."), topics }
    }

    /// The subject to subscribe to.
    pub fn live_subject(&self) -> String {
        format!("{}>", self.live)
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// How topics and subjects correspond.
    pub fn topics(&self) -> &TopicSpace {
        &self.topics
    }

    /// Reads a republished message.
    pub fn live(&self, message: &Message) -> Result<Read, InvalidMessage> {
        let headers = message.headers.as_ref().ok_or(InvalidMessage::Stream)?;
        if last(headers, "Nats-Stream") != Some(&self.stream) {
            return Err(InvalidMessage::Stream);
        }
        let subject = last(headers, "Nats-Subject").ok_or(InvalidMessage::Subject)?;
        let republished = message.subject.as_str().strip_prefix(&self.live) == Some(subject);
        if !republished || message.reply.is_some() {
            return Err(InvalidMessage::Subject);
        }
        self.stored(headers, subject, &message.payload)
    }

    /// Reads one message of the reply to a Direct Get.
    ///
    /// A stored message may begin with any status line its publisher liked. So what makes a message is what the server
    /// appends to one; the status counts only without it.
    pub fn direct(&self, message: &Message) -> Reply {
        let empty = HeaderMap::new();
        let headers = message.headers.as_ref().unwrap_or(&empty);
        if last(headers, "Nats-Stream") == Some(&self.stream) {
            let Some(subject) = last(headers, "Nats-Subject") else { return Reply::Unreadable };
            let previous = last(headers, "Nats-Last-Sequence").and_then(|n| n.parse().ok()).unwrap_or(0);
            return match self.stored(headers, subject, &message.payload) {
                Ok(read) => Reply::Message { read, previous },
                Err(_) => Reply::Unreadable,
            };
        }
        match message.status.map(|status| status.as_u16()) {
            Some(204) => Reply::End {
                pending: last(headers, "Nats-Num-Pending").and_then(|n| n.parse().ok()).unwrap_or(0),
                up_to: last(headers, "Nats-UpTo-Sequence").and_then(|n| n.parse().ok()),
            },
            Some(404) => Reply::Nothing,
            Some(408) => Reply::Refused,
            Some(503) => Reply::Missing,
            _ => Reply::Unreadable,
        }
    }

    /// Reads the leader's JSON, in which nothing can break a connection.
    pub fn leader(&self, reply: LeaderReply) -> Result<Option<Read>, ApiError> {
        match (reply.message, reply.error) {
            (Some(message), None) => self.leader_message(message).map(Some),
            (_, Some(error)) if error.err_code == NO_MESSAGE => Ok(None),
            (_, Some(error)) => Err(error),
            (None, None) => Err(unreadable("the reply has neither a message nor an error")),
        }
    }

    /// Reads a message of core NATS. `sequence` and `time` are the gateway's own.
    pub fn ephemeral(&self, message: &Message, sequence: u64, time: Millis) -> Option<Read> {
        let topic = self.topics.topic(message.subject.as_str())?;
        let (event, fault) = event(message.headers.as_ref().and_then(|headers| last(headers, EVENT_HEADER)));
        let data = message.payload.clone();
        Some(Read {
            publication: Publication {
                sequence,
                time,
                topic: topic.into(),
                event,
                data,
                marker: false,
                unrouted: false,
            },
            fault,
        })
    }

    fn stored(&self, headers: &HeaderMap, subject: &str, data: &Bytes) -> Result<Read, InvalidMessage> {
        let sequence = last(headers, "Nats-Sequence").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
        let sequence = sequence.ok_or(InvalidMessage::Sequence)?;
        let time = last(headers, "Nats-Time-Stamp").and_then(millis).ok_or(InvalidMessage::Time)?;
        let marker = data.is_empty() && last(headers, "Nats-Marker-Reason").is_some();
        Ok(self.read(sequence, time, subject, last(headers, EVENT_HEADER), marker, data.clone()))
    }

    fn leader_message(&self, message: LeaderMessage) -> Result<Read, ApiError> {
        let data = STANDARD.decode(&message.data).map_err(|_| unreadable("its data is not base64"))?;
        let block = STANDARD.decode(&message.hdrs).map_err(|_| unreadable("its headers are not base64"))?;
        let time = millis(&message.time).ok_or_else(|| unreadable("its time is not RFC 3339"))?;
        let headers = if block.is_empty() { Ok(HeaderMap::new()) } else { headers(&block) };
        let mut read = match &headers {
            Ok(headers) => {
                let marker = data.is_empty() && last(headers, "Nats-Marker-Reason").is_some();
                self.read(message.seq, time, &message.subject, last(headers, EVENT_HEADER), marker, data.into())
            }
            Err(Malformed) => self.read(message.seq, time, &message.subject, None, false, data.into()),
        };
        if headers.is_err() {
            read.fault = Some(InvalidMessage::Headers);
        }
        Ok(read)
    }

    fn read(&self, sequence: u64, time: Millis, subject: &str, named: Option<&str>, marker: bool, data: Bytes) -> Read {
        let (event, fault) = event(named);
        let topic = self.topics.topic(subject);
        let unrouted = topic.is_none();
        let topic = topic.unwrap_or_default().into();
        Read { publication: Publication { sequence, time, topic, event, data, marker, unrouted }, fault }
    }
}

// === impl ApiError ===

impl ApiError {
    /// Whether there is no such stream.
    pub fn is_missing_stream(&self) -> bool {
        self.err_code == NO_STREAM
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}/{})", self.description, self.code, self.err_code)
    }
}

/// An RFC 3339 time as milliseconds since 1970.
pub fn millis(text: &str) -> Option<Millis> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

/// An RFC 3339 time as nanoseconds since 1970.
pub fn nanos(text: &str) -> Option<u64> {
    u64::try_from(OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos()).ok()
}

/// Reads a header block as strictly as the NATS client library does.
pub fn headers(block: &[u8]) -> Result<HeaderMap, Malformed> {
    let text = std::str::from_utf8(block).map_err(|_| Malformed)?;
    let mut lines = text.lines().peekable();
    let status = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")).ok_or(Malformed)?.trim();
    let code = status.split(' ').next().unwrap_or_default();
    if !code.is_empty() && StatusCode::from_bytes(code.as_bytes()).is_err() {
        return Err(Malformed);
    }
    let mut headers = HeaderMap::new();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(Malformed)?;
        let name = HeaderName::from_str(name).map_err(|_| Malformed)?;
        let mut value = value.trim_start().to_owned();
        while let Some(folded) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(folded);
        }
        // The library panics on a CR within a value, which costs the connection as well.
        let value = async_nats::HeaderValue::from_str(value.trim_end()).map_err(|_| Malformed)?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn last<'h>(headers: &'h HeaderMap, name: &'static str) -> Option<&'h str> {
    headers.get_last(HeaderName::from_static(name)).map(|value| value.as_str())
}

fn event(named: Option<&str>) -> (Option<EventType>, Option<InvalidMessage>) {
    match named.map(EventType::new) {
        Some(Ok(event)) => (Some(event), None),
        None | Some(Err(EventTypeError::Empty)) => (None, None),
        Some(Err(_)) => (None, Some(InvalidMessage::EventName)),
    }
}

fn unreadable(why: &str) -> ApiError {
    ApiError { code: 500, err_code: 0, description: format!("the server's message cannot be read: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIVE: &str = "tidings-live.TIDINGS_shop_orders.tidings.shop.orders.user.42";

    fn wire() -> Wire {
        Wire::new("TIDINGS_shop_orders", TopicSpace::Below { base: "tidings.shop.orders".parse().unwrap() })
    }

    fn message(subject: &str, block: &str) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: Bytes::from_static(b"hi"),
            headers: Some(headers(block.as_bytes()).unwrap()),
            status: None,
            description: None,
            length: 0,
        }
    }

    fn appended(stream: &str, subject: &str, sequence: &str) -> String {
        format!(
            "Nats-Stream: {stream}\r\nNats-Subject: {subject}\r\nNats-Sequence: {sequence}\r\n\
             Nats-Time-Stamp: 2026-11-23T03:50:00.123456789Z\r\nNats-Last-Sequence: 6\r\n\r\n"
        )
    }

    fn ours() -> String {
        appended("TIDINGS_shop_orders", "tidings.shop.orders.user.42", "7")
    }

    fn publication() -> Publication {
        Publication {
            sequence: 7,
            time: 1_795_405_800_123,
            topic: "user.42".into(),
            event: None,
            data: Bytes::from_static(b"hi"),
            marker: false,
            unrouted: false,
        }
    }

    #[test]
    fn a_republished_message_is_read() {
        let block = format!("NATS/1.0\r\nTidings-Event: order.created\r\n{}", ours());
        let event = Some(EventType::new("order.created").unwrap());
        let read = Read { publication: Publication { event, ..publication() }, fault: None };
        assert_eq!(wire().live(&message(LIVE, &block)), Ok(read));
    }

    #[test]
    fn forged_headers_lose_against_what_the_server_appends() {
        let forged = appended("OTHER", "x", "99").replace("\r\n\r\n", "\r\n");
        let block = format!("NATS/1.0\r\n{forged}nats-sequence: 5\r\n{}", ours());
        assert_eq!(wire().live(&message(LIVE, &block)).unwrap().publication, publication());
    }

    #[test]
    fn live_messages_of_other_origin_are_not_believed() {
        for (subject, block, fault) in [
            (LIVE, appended("OTHER", "tidings.shop.orders.user.42", "7"), InvalidMessage::Stream),
            (LIVE, String::new(), InvalidMessage::Stream),
            (LIVE, appended("TIDINGS_shop_orders", "tidings.shop.orders.user.43", "7"), InvalidMessage::Subject),
            (LIVE, appended("TIDINGS_shop_orders", "tidings.shop.orders.user.42", "0"), InvalidMessage::Sequence),
            (LIVE, appended("TIDINGS_shop_orders", "tidings.shop.orders.user.42", "x"), InvalidMessage::Sequence),
            (LIVE, ours().replace("2026-", "soon-"), InvalidMessage::Time),
        ] {
            assert_eq!(wire().live(&message(subject, &format!("NATS/1.0\r\n{block}"))), Err(fault), "{block}");
        }
        let delivered =
            Message { reply: Some("$JS.ACK.x".into()), ..message(LIVE, &format!("NATS/1.0\r\n{}", ours())) };
        assert_eq!(wire().live(&delivered), Err(InvalidMessage::Subject));
    }

    #[test]
    fn a_stored_status_line_does_not_end_a_batch() {
        let mut forged = message("_INBOX.x", &format!("NATS/1.0\r\n{}", ours()));
        forged.status = Some(StatusCode::NOT_FOUND);
        let read = Read { publication: publication(), fault: None };
        assert_eq!(wire().direct(&forged), Reply::Message { read, previous: 6 });
        let mut end = message("_INBOX.x", "NATS/1.0\r\nNats-Num-Pending: 3\r\n");
        end.status = Some(StatusCode::from_u16(204).unwrap());
        assert_eq!(wire().direct(&end), Reply::End { pending: 3, up_to: None });
    }

    #[test]
    fn a_marker_counts_only_without_a_body() {
        let block = format!("NATS/1.0\r\nNats-Marker-Reason: Purge\r\n{}", ours());
        assert!(!wire().live(&message(LIVE, &block)).unwrap().publication.marker);
        let empty = Message { payload: Bytes::new(), ..message(LIVE, &block) };
        assert!(wire().live(&empty).unwrap().publication.marker);
    }

    fn leader(hdrs: &[u8]) -> Read {
        let json = serde_json::json!({"message": {
            "subject": "tidings.shop.orders.user.42", "seq": 7, "data": "aGk=", "hdrs": STANDARD.encode(hdrs),
            "time": "2026-11-23T03:50:00.123456789Z",
        }});
        wire().leader(serde_json::from_value(json).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn malformed_headers_leave_the_event_and_its_data() {
        assert_eq!(leader(b""), Read { publication: publication(), fault: None });
        for block in [
            &b"NATS/1.0\r\nTidings-Event: \xff\r\n\r\n"[..],
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nbad name: x\r\n\r\n",
            b"Tidings-Event: x\r\n\r\n",
            b"NATS/1.0 soon\r\n\r\n",
            b"NATS/1.0\r\nTidings-Event: a\rb\r\n\r\n",
        ] {
            let read = Read { publication: publication(), fault: Some(InvalidMessage::Headers) };
            assert_eq!(leader(block), read, "{}", String::from_utf8_lossy(block));
        }
    }

    #[test]
    fn an_event_type_of_tidings_own_is_left_out() {
        let read = leader(b"NATS/1.0\r\nTidings-Event: tidings.gap\r\n\r\n");
        assert_eq!(read, Read { publication: publication(), fault: Some(InvalidMessage::EventName) });
    }

    #[test]
    fn the_leader_says_that_there_is_nothing() {
        let reply = |json| wire().leader(serde_json::from_value(json).unwrap());
        let nothing = serde_json::json!({"error": {"code": 404, "err_code": 10037, "description": "no message found"}});
        assert_eq!(reply(nothing).unwrap(), None);
        let missing = serde_json::json!({"error": {"code": 404, "err_code": 10059, "description": "stream not found"}});
        assert!(reply(missing).unwrap_err().is_missing_stream());
    }

    proptest! {
        #[test]
        fn no_header_block_panics(block: Vec<u8>) {
            let _ = headers(&block);
            let _ = leader(&block);
        }
    }
}
