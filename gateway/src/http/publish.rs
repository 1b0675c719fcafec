//! `POST /channels/{namespace}/{name}/events`: a publication over HTTP.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tidings_crds::channel::Encoding;
use tidings_crds::route::{Route, RouteSource};
use tidings_crds::subject::Pattern;

use crate::auth::principal::Principal;
use crate::channel::hub::{NewPublication, PublishError, Published};
use crate::http::problem::{Problem, ProblemKind};
use crate::http::query::{Parameter, Query, shown};
use crate::http::response::{self, Reply};
use crate::http::retry;
use crate::http::subscribe::one_topic;
use crate::log::publication::EventType;
use crate::metrics::registry::PostOutcome;
use crate::nats::acknowledgement::{Refusal, RefusalKind};
use crate::nats::publisher::SendError;
use crate::runtime::units;

const PARAMETERS: &[Parameter] =
    &[Parameter::Exact("topic"), Parameter::Exact("event"), Parameter::Exact("ttl"), Parameter::Exact("access_token")];
const TOPIC: HeaderName = HeaderName::from_static("tidings-topic");
const EVENT: HeaderName = HeaderName::from_static("tidings-event");
const TTL: HeaderName = HeaderName::from_static("tidings-ttl");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Long enough for any key that people use; it travels in a header of the message.
const MAX_KEY_BYTES: usize = 255;

/// NATS counts in nanoseconds of 64 bits, and stops at 292 years.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What a publisher asks for, apart from the data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Posted {
    /// The empty topic is the channel's base subject.
    pub topic: String,
    event: Option<String>,
    ttl: Option<Duration>,
    idempotency_key: Option<String>,
}

/// The acknowledgement.
#[derive(Serialize)]
struct Acknowledged {
    id: Option<String>,
    duplicate: bool,
}

// === impl Posted ===

impl Posted {
    /// Reads query and headers.
    pub fn parse(query: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        meant_to_publish(headers)?;
        let query = Query::parse(query, PARAMETERS)?;
        let given = |name, header| given(&query, name, headers, header);
        Ok(Self {
            topic: given("topic", &TOPIC)?.map(topic).transpose()?.unwrap_or_default(),
            event: given("event", &EVENT)?.map(event).transpose()?,
            ttl: given("ttl", &TTL)?.map(ttl).transpose()?,
            idempotency_key: header(headers, &IDEMPOTENCY_KEY)?.map(idempotency_key).transpose()?,
        })
    }

    /// Refuses data that the channel could not send as they are.
    pub fn suits(route: &Route, data: &[u8]) -> Result<(), Problem> {
        match route.events.encoding {
            Encoding::Text if std::str::from_utf8(data).is_err() => Err(Problem::invalid(
                "the body is not UTF-8, which the channel's encoding (Text) requires; Base64 would allow any bytes",
            )),
            Encoding::Text | Encoding::Base64 => Ok(()),
        }
    }

    /// Refuses what the channel cannot do.
    pub fn fits(&self, route: &Route) -> Result<(), Problem> {
        if let Err(error) = route.topics.subject(&self.topic) {
            let hint = if self.topic.is_empty() { "; name one with ?topic=" } else { "" };
            return Err(Problem::invalid(format!("topic {}: {error}{hint}", shown(&self.topic))));
        }
        if route.source == RouteSource::Ephemeral {
            if self.ttl.is_some() {
                return Err(Problem::invalid("this channel is ephemeral and stores nothing: omit ttl"));
            }
            if self.idempotency_key.is_some() {
                let detail = "this channel is ephemeral and cannot detect duplicates: omit Idempotency-Key";
                return Err(Problem::invalid(detail));
            }
        }
        Ok(())
    }

    /// The publication of this principal with these data.
    pub fn with(self, publisher: Option<&Principal>, data: Bytes) -> NewPublication {
        let message_id = self.idempotency_key.as_deref().map(|key| message_id(publisher, &self.topic, key));
        let Self { topic, event, ttl, idempotency_key: _ } = self;
        NewPublication { topic, event, ttl, message_id, data }
    }
}

/// What the stream recognises a repetition by. A key is its publisher's own, and for one topic: no client can take another's.
/// Every gateway makes the same of it, and none makes what a publisher over NATS would write. All who publish without a
/// token are one publisher, as are all tokens of an issuer that name no subject.
fn message_id(publisher: Option<&Principal>, topic: &str, key: &str) -> String {
    let mut hash = Sha256::new();
    let (issuer, subject) = publisher.map_or((None, None), |by| (Some(&*by.issuer), by.subject()));
    for field in [issuer, subject, Some(topic), Some(key)] {
        // With its length, so that no two lists of fields read the same.
        hash.update(field.map_or(u64::MAX, |field| field.len() as u64).to_be_bytes());
        hash.update(field.unwrap_or_default());
    }
    format!("tidings-http-{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}

/// A parameter that may stand in the query or in a header.
fn given<'r>(
    query: &'r Query,
    name: &'r str,
    headers: &'r HeaderMap,
    header_name: &HeaderName,
) -> Result<Option<&'r str>, Problem> {
    match (query.one(name)?, header(headers, header_name)?) {
        (Some(a), Some(b)) if a != b => {
            Err(Problem::invalid(format!("{name} differs between the query and the header {header_name}")))
        }
        (a, b) => Ok(a.or(b)),
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid(format!("the header {name} must not be repeated")));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Problem::invalid(format!("{name} is not UTF-8")))?;
    Ok(Some(text.trim()))
}

/// Refuses what was meant for something else: a subscription by POST, whose body would be published to everybody, and a body
/// that is not the data.
fn meant_to_publish(headers: &HeaderMap) -> Result<(), Problem> {
    if retry::accepts_event_stream_alone(headers) {
        let detail = "a POST publishes its body, and this one accepts only text/event-stream: subscribe with GET, or omit Accept";
        return Err(Problem::invalid(detail));
    }
    let encodings =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut encodings = encodings.map(|encoding| encoding.trim_ascii());
    if encodings.any(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity")) {
        let detail = "the body is the data, byte for byte: send it without Content-Encoding";
        return Err(Problem::new(ProblemKind::UnsupportedEncoding, detail));
    }
    Ok(())
}

fn topic(text: &str) -> Result<String, Problem> {
    if text == "." {
        return Ok(String::new());
    }
    one_topic(text)?;
    Pattern::literal(text)
        .map(|topic| topic.to_string())
        .map_err(|error| Problem::invalid(format!("topic {}: {error}", shown(text))))
}

/// What the stream would clean or drop is refused here, where the publisher can still correct it.
fn event(text: &str) -> Result<String, Problem> {
    let refused = |why: &dyn std::fmt::Display| Err(Problem::invalid(format!("event {}: {why}", shown(text))));
    match EventType::new(text) {
        _ if text.chars().any(char::is_control) => refused(&"no control characters"),
        _ if text.trim() != text => refused(&"no leading or trailing white space"),
        _ if matches!(text, "error" | "open") => refused(&"EventSource uses this name for its own events"),
        Err(error) => refused(&error),
        Ok(event) => Ok(event.as_str().to_owned()),
    }
}

/// NATS counts in whole seconds.
fn ttl(text: &str) -> Result<Duration, Problem> {
    let refused = |why: String| Problem::invalid(format!("ttl {}: {why}", shown(text)));
    let ttl = units::duration(text).map_err(|error| refused(error.to_string()))?;
    if ttl < Duration::from_secs(1) || ttl.subsec_nanos() != 0 {
        return Err(refused("whole seconds, at least one".to_owned()));
    }
    if ttl > MAX_TTL {
        return Err(refused(format!("at most {} seconds, a hundred years", MAX_TTL.as_secs())));
    }
    Ok(ttl)
}

/// The draft for this header writes a quoted string; many clients leave the quotes out. Both are the same key.
fn idempotency_key(text: &str) -> Result<String, Problem> {
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if bare.is_empty() || bare.len() > MAX_KEY_BYTES || !bare.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::invalid("Idempotency-Key: 1 to 255 visible ASCII characters, as in a UUID"));
    }
    Ok(bare.to_owned())
}

/// Reads the data, no more than `limit` bytes of it and no longer than `deadline`.
pub async fn data<B>(headers: &HeaderMap, body: &mut B, limit: u64, deadline: Duration) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Refused before `100 Continue` where the length is announced.
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(too_large(limit));
    }
    let body = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(deadline, body.collect()).await {
        Ok(Ok(data)) => Ok(data.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_)) => Err(Problem::invalid("the request body ended early")),
        Err(_) => Err(Problem::new(
            ProblemKind::BodyTimeout,
            "the request body did not arrive in time: send it without pauses, or send a smaller one",
        )),
    }
}

fn too_large(limit: u64) -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("this channel accepts at most {limit} bytes"))
}

/// The answer to a publication that was taken: 201 once it is stored, 202 where nothing is.
pub fn acknowledgement(route: &Route, published: Published) -> (PostOutcome, Reply) {
    let (outcome, status) = match (&route.source, published.duplicate) {
        (RouteSource::Ephemeral, _) => (PostOutcome::Sent, StatusCode::ACCEPTED),
        (RouteSource::Durable { .. }, true) => (PostOutcome::Duplicate, StatusCode::CREATED),
        (RouteSource::Durable { .. }, false) => (PostOutcome::Stored, StatusCode::CREATED),
    };
    let body = Acknowledged { id: published.id, duplicate: published.duplicate };
    let mut reply = response::document("application/json", response::json(&body));
    *reply.status_mut() = status;
    (outcome, reply)
}

/// The answer to a publication that failed.
pub fn failure(error: &PublishError) -> (PostOutcome, Problem) {
    match error {
        PublishError::Topic(_) | PublishError::Event(_) | PublishError::NotStored => {
            (PostOutcome::Invalid, Problem::invalid(error.to_string()))
        }
        PublishError::Send(error) => send_failure(error),
    }
}

fn send_failure(error: &SendError) -> (PostOutcome, Problem) {
    match error {
        SendError::Header(_) => (PostOutcome::Invalid, Problem::invalid(error.to_string())),
        SendError::TooLarge { limit } => {
            (PostOutcome::Invalid, Problem::new(ProblemKind::TooLarge, format!("NATS accepts at most {limit} bytes")))
        }
        SendError::Refused(refusal) => refused(refusal),
        SendError::Disconnected => unavailable("NATS is not connected: repeat the request later"),
        SendError::NoStream => unavailable("NATS has no stream for this channel now: repeat the request later"),
        SendError::Timeout => {
            let detail = "the publication may or may not be stored: repeat it with the same Idempotency-Key";
            (PostOutcome::Unavailable, Problem::new(ProblemKind::NoAcknowledgement, detail).retry_after(2))
        }
    }
}

fn unavailable(detail: impl Into<Cow<'static, str>>) -> (PostOutcome, Problem) {
    (PostOutcome::Unavailable, Problem::new(ProblemKind::Unavailable, detail).retry_after(2))
}

/// What a stream's refusal means for who publishes; the server's own words are among it.
fn refused(refusal: &Refusal) -> (PostOutcome, Problem) {
    let said = format!("NATS answered {}", shown(&refusal.to_string()));
    match refusal.kind {
        RefusalKind::Transient => {
            let detail = format!("{said}: repeat the request, with the same Idempotency-Key if it had one");
            let problem = Problem::new(ProblemKind::Unavailable, detail).retry_after(1);
            (PostOutcome::Busy, problem)
        }
        RefusalKind::Full => {
            let detail = format!("{said}: an administrator has to free storage or raise a limit");
            (PostOutcome::Full, Problem::new(ProblemKind::StorageFull, detail).retry_after(30))
        }
        RefusalKind::TooLarge => (PostOutcome::Invalid, Problem::new(ProblemKind::TooLarge, said)),
        RefusalKind::Invalid => (PostOutcome::Invalid, Problem::invalid(said)),
        RefusalKind::Permanent => (PostOutcome::Refused, Problem::new(ProblemKind::Refused, said)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::route_fixture::document;
    use http::HeaderValue;
    use http_body_util::Full;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_request_panics(text in ".{0,200}", header in proptest::collection::vec(any::<u8>(), 0..60)) {
            for name in [TOPIC, EVENT, TTL, IDEMPOTENCY_KEY] {
                let headers: HeaderMap = HeaderValue::from_bytes(&header).map(|v| (name, v)).into_iter().collect();
                let _ = Posted::parse(Some(&format!("topic={text}&event={text}&ttl={text}")), &headers);
                let _ = Posted::parse(Some(&text), &headers);
            }
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    fn posted(query: &str, pairs: &[(&'static str, &'static str)]) -> Result<Posted, Problem> {
        Posted::parse(Some(query), &headers(pairs))
    }

    #[test]
    fn parameters_stand_in_the_query_or_in_headers() {
        let expected = Posted {
            topic: "user.42".into(),
            event: Some("order.created".into()),
            ttl: Some(Duration::from_secs(60)),
            idempotency_key: Some("k-1".into()),
        };
        let key = ("idempotency-key", "k-1");
        assert_eq!(posted("topic=user.42&event=order.created&ttl=60", &[key]), Ok(expected.clone()));
        let all = [("tidings-topic", "user.42"), ("tidings-event", "order.created"), ("tidings-ttl", "1m"), key];
        assert_eq!(posted("", &all), Ok(expected));
        assert_eq!(posted("", &[]), Ok(Posted::default()));
        assert_eq!(posted("topic=.", &[]), Ok(Posted::default()));
        assert_eq!(posted("topic=a", &[("tidings-topic", "a")]).unwrap().topic, "a");
        assert!(posted("", &[("accept", "text/event-stream, */*")]).is_ok());
        assert!(posted("", &[("content-encoding", "identity")]).is_ok());
        let quoted = posted("", &[("idempotency-key", "\"k-1\"")]).unwrap();
        assert_eq!(quoted.idempotency_key.as_deref(), Some("k-1"));
    }

    #[test]
    fn a_faulty_publication_says_what_to_write() {
        for (query, pairs, hint) in [
            ("topic=a.*", &[][..], "without wildcards"),
            ("topic=a..b", &[], "no empty tokens"),
            ("topic=a%0d%0ab", &[], "no white space"),
            ("topic=a", &[("tidings-topic", "b")], "differs between"),
            ("topic=a&topic=b", &[], "must not be repeated"),
            ("event=", &[], "at least one character"),
            ("event=tidings.gap", &[], "are Tidings' own"),
            ("event=a%0Adata:x", &[], "no control characters"),
            ("ttl=500ms", &[], "whole seconds"),
            ("ttl=0", &[], "at least one"),
            ("ttl=soon", &[], "as in 500ms"),
            ("ttl=99999999999999999", &[], "as in 500ms"),
            ("ttl=3153600001", &[], "at most 3153600000 seconds"),
            ("ttl=-1", &[], "as in 500ms"),
            ("TTL=5", &[], "is called ttl"),
            ("topic=", &[], "write . for the empty topic"),
            ("topic[]=a", &[], "is called topic"),
            ("topic=a,b", &[], "topic=a&topic=b"),
            ("topic=%ff", &[], "not UTF-8"),
            ("event=%ff", &[], "not UTF-8"),
            ("event=%20a", &[], "no leading or trailing white space"),
            ("event=a+", &[], "no leading or trailing white space"),
            ("event=error", &[], "EventSource uses this name"),
            ("", &[("tidings-event", "open")], "EventSource uses this name"),
            ("", &[("accept", "text/event-stream")], "subscribe with GET"),
            ("", &[("accept", "text/event-stream;q=1, text/event-stream")], "subscribe with GET"),
            ("", &[("content-encoding", "gzip")], "without Content-Encoding"),
            ("", &[("content-encoding", "identity, br")], "without Content-Encoding"),
            ("", &[("idempotency-key", "")], "visible ASCII"),
            ("", &[("idempotency-key", "a b")], "visible ASCII"),
        ] {
            let problem = format!("{:?}", posted(query, pairs).unwrap_err());
            assert!(problem.contains(hint), "{query} {pairs:?}: {problem}");
        }
        let long = format!("event={}", "x".repeat(257));
        assert!(posted(&long, &[]).is_err());
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_limit_and_no_further() {
        let read = async |headers: &HeaderMap, bytes: &'static str| {
            data(headers, &mut Full::<Bytes>::from(bytes), 5, Duration::from_secs(5)).await
        };
        let mut headers = HeaderMap::new();
        assert_eq!(read(&headers, "12345").await, Ok(Bytes::from("12345")));
        assert_eq!(read(&headers, "123456").await.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("6"));
        assert_eq!(read(&headers, "").await.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn an_acknowledgement_is_json_with_the_id() {
        let route = Route::from_yaml(&document("hello", 1000, "Active")).unwrap();
        let published = Published { id: Some("a-1".into()), duplicate: true };
        let (outcome, reply) = acknowledgement(&route, published);
        assert_eq!((outcome, reply.status()), (PostOutcome::Duplicate, StatusCode::CREATED));
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "{\"id\":\"a-1\",\"duplicate\":true}\n");
    }

    fn principal(issuer: &str, subject: &str) -> Principal {
        let claims =
            crate::auth::claims::Claims::new(serde_json::json!({ "sub": subject }).as_object().unwrap().clone());
        Principal {
            issuer: issuer.into(),
            until: std::time::SystemTime::UNIX_EPOCH,
            claims,
            own: crate::auth::grant::OwnGrants::default(),
        }
    }

    #[test]
    fn a_key_is_its_publishers_own_and_for_one_topic() {
        let (ann, bob, other) = (principal("main", "ann"), principal("main", "bob"), principal("other", "ann"));
        let ids = [
            message_id(Some(&ann), "a", "k"),
            message_id(Some(&bob), "a", "k"),
            message_id(Some(&other), "a", "k"),
            message_id(Some(&ann), "b", "k"),
            message_id(Some(&ann), "a", "l"),
            message_id(Some(&ann), "", "ak"),
            message_id(Some(&principal("maina", "nn")), "a", "k"),
            message_id(None, "a", "k"),
        ];
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len(), "{ids:?}");
        assert_eq!(message_id(Some(&principal("main", "ann")), "a", "k"), ids[0], "the same on every gateway");
        assert!(ids[0].len() < 64 && ids[0].starts_with("tidings-http-"));
    }

    #[test]
    fn every_failure_of_nats_has_a_status_and_an_outcome() {
        let refusal = |kind| SendError::Refused(Refusal { kind, code: 10000, description: "why".into() });
        for (error, outcome, status, retry) in [
            (SendError::Header("ttl"), PostOutcome::Invalid, 400, false),
            (SendError::TooLarge { limit: 1 }, PostOutcome::Invalid, 413, false),
            (SendError::Disconnected, PostOutcome::Unavailable, 503, true),
            (SendError::NoStream, PostOutcome::Unavailable, 503, true),
            (SendError::Timeout, PostOutcome::Unavailable, 504, true),
            (refusal(RefusalKind::Transient), PostOutcome::Busy, 503, true),
            (refusal(RefusalKind::Full), PostOutcome::Full, 507, true),
            (refusal(RefusalKind::TooLarge), PostOutcome::Invalid, 413, false),
            (refusal(RefusalKind::Invalid), PostOutcome::Invalid, 400, false),
            (refusal(RefusalKind::Permanent), PostOutcome::Refused, 502, false),
        ] {
            let (counted, problem) = failure(&PublishError::Send(error.clone()));
            let reply = Reply::from(problem);
            assert_eq!((counted, reply.status().as_u16()), (outcome, status), "{error:?}");
            assert_eq!(reply.headers().contains_key(http::header::RETRY_AFTER), retry, "{error:?}");
        }
    }
}
