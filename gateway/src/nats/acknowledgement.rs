//! Reads what arrives on the inbox of a publication: the stream's acknowledgement, its refusal, or something else. Pure.
//!
//! Any responder may answer on a channel's subject, and any publisher may aim a reply at an inbox. So a reply counts only
//! if it names the stream that the publication is for: nats-server writes that name into every acknowledgement and into every
//! refusal (`JSPubAckResponse`).

use async_nats::{Message, StatusCode};
use serde::Deserialize;

use crate::metrics::label::closed_set;
use crate::nats::decode::ApiError;

/// What the stream answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The sequence given to it, or to the publication it repeats.
    pub sequence: u64,
    /// Whether it repeats one.
    pub duplicate: bool,
}

/// One message on the inbox of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stream has stored it.
    Stored(Stored),
    /// The stream has refused it.
    Refused(Refusal),
    /// No stream and nothing else listens to the subject.
    NoResponders,
    /// Not the answer of this stream: the wait goes on.
    Foreign,
}

/// Why a stream did not store a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What follows from it.
    pub kind: RefusalKind,
    /// The server's own number of the error.
    pub code: u32,
    /// The server's own words.
    pub description: String,
}

closed_set! {
    /// What follows from a refusal.
    pub enum RefusalKind {
        /// It passes: the same publication may be stored a moment later.
        Transient = "transient",
        /// No room in the stream, in its account or on the server: an administrator has to make room.
        Full = "full",
        /// Larger than the stream takes.
        TooLarge = "too-large",
        /// The publication itself is wrong.
        Invalid = "invalid",
        /// The stream is not what the Channel describes, or does not take publications at all.
        Permanent = "permanent",
    }
}

/// JSON of nats-server, fields in any order and possibly more of them.
#[derive(Deserialize)]
struct Reply {
    error: Option<ApiError>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// What is known of nats-server's errors (its `errors.json`) that a publication can meet. Others follow their status.
const KNOWN: &[(u32, RefusalKind)] = &[
    (10002, RefusalKind::Full),      // resource limits exceeded for account
    (10008, RefusalKind::Transient), // JetStream system temporarily unavailable
    (10009, RefusalKind::Transient), // JetStream cluster can not handle request: not the leader
    (10023, RefusalKind::Full),      // insufficient resources
    (10028, RefusalKind::Full),      // insufficient memory resources available
    (10047, RefusalKind::Full),      // insufficient storage resources available
    (10054, RefusalKind::TooLarge),  // message size exceeds maximum allowed
    (10063, RefusalKind::Transient), // expected stream sequence does not match
    (10097, RefusalKind::TooLarge),  // header size exceeds maximum allowed
    (10109, RefusalKind::Permanent), // invalid operation on sealed stream
    (10118, RefusalKind::Transient), // stream is offline
    (10158, RefusalKind::Transient), // duplicate message id is in process
    (10163, RefusalKind::Transient), // expected last sequence per subject temporarily unavailable
    (10165, RefusalKind::Invalid),   // invalid per-message TTL
    (10166, RefusalKind::Permanent), // per-message TTL is disabled
    (10167, RefusalKind::Transient), // too many requests
    (10194, RefusalKind::Transient), // stream is offline: {err}
];

/// `JSStreamStoreFailedF`: its text is that of the store.
const STORE_FAILED: u32 = 10077;

/// Reads one message on the inbox of a publication into `stream`.
pub fn read(message: &Message, stream: &str) -> Answer {
    if message.status == Some(StatusCode::NO_RESPONDERS) && message.payload.is_empty() {
        return Answer::NoResponders;
    }
    read_json(&message.payload, stream)
}

fn read_json(payload: &[u8], stream: &str) -> Answer {
    match serde_json::from_slice::<Reply>(payload) {
        Ok(reply) if reply.stream != stream => Answer::Foreign,
        Ok(Reply { error: Some(error), .. }) => Answer::Refused(error.into()),
        Ok(Reply { seq: 0, .. }) | Err(_) => Answer::Foreign,
        Ok(Reply { seq, duplicate, .. }) => Answer::Stored(Stored { sequence: seq, duplicate }),
    }
}

// === impl Refusal ===

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let known = KNOWN.iter().find(|(code, _)| *code == error.err_code).map(|(_, kind)| *kind);
        let kind = match error.err_code {
            STORE_FAILED => store_failed(&error.description),
            _ => known.unwrap_or(match error.code {
                408 | 409 | 429 | 503 => RefusalKind::Transient,
                _ => RefusalKind::Permanent,
            }),
        };
        Self { kind, code: error.err_code, description: error.description }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.description, self.code)
    }
}

/// The texts are those of nats-server's store (`ErrMaxMsgs`, `ErrMaxBytes`, `ErrMaxMsgsPerSubject`, `ErrMsgTooLarge`,
/// `ErrStoreClosed`).
fn store_failed(description: &str) -> RefusalKind {
    if description.contains("too large") || description.contains("to large") {
        RefusalKind::TooLarge
    } else if description.contains("maximum") {
        RefusalKind::Full
    } else if description.contains("closed") {
        RefusalKind::Transient
    } else {
        RefusalKind::Permanent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "TIDINGS_demo_m";

    fn answer(json: &str) -> Answer {
        read_json(json.as_bytes(), OURS)
    }

    #[test]
    fn an_acknowledgement_names_the_stream_and_a_sequence() {
        let stored = |sequence, duplicate| Answer::Stored(Stored { sequence, duplicate });
        for (json, expected) in [
            (r#"{"stream":"TIDINGS_demo_m","seq":7}"#, stored(7, false)),
            (r#"{"stream":"TIDINGS_demo_m","domain":"hub","seq":7,"duplicate": true}"#, stored(7, true)),
            (r#"{"stream":"TIDINGS_demo_m","seq":0}"#, Answer::Foreign),
            (r#"{"stream":"TIDINGS_demo_m"}"#, Answer::Foreign),
            (r#"{"stream":"TIDINGS_demo_m2","seq":7}"#, Answer::Foreign),
            (r#"{"stream":"tidings_demo_m","seq":7}"#, Answer::Foreign),
            (r#"{"seq":7}"#, Answer::Foreign),
            (r#"{"ok":true}"#, Answer::Foreign),
            (r#"{"stream":"TIDINGS_demo_m","seq":-1}"#, Answer::Foreign),
            (r#"{"stream":"TIDINGS_demo_m","seq":"7"}"#, Answer::Foreign),
            (r#"{"error":{"code":503,"err_code":10023,"description":"x"}}"#, Answer::Foreign),
            ("+OK", Answer::Foreign),
            ("", Answer::Foreign),
            ("[]", Answer::Foreign),
            ("null", Answer::Foreign),
        ] {
            assert_eq!(answer(json), expected, "{json}");
        }
    }

    #[test]
    fn every_error_of_nats_has_an_answer() {
        use RefusalKind::{Full, Invalid, Permanent, TooLarge, Transient};
        let of = |code: u16, err_code: u32, description: &str| {
            let error = format!(r#"{{"code":{code},"err_code":{err_code},"description":"{description}"}}"#);
            match answer(&format!(r#"{{"stream":"{OURS}","seq":0,"error":{error}}}"#)) {
                Answer::Refused(refusal) => refusal.kind,
                other => panic!("{err_code}: {other:?}"),
            }
        };
        for (code, err_code, description, kind) in [
            (400, 10002, "resource limits exceeded for account", Full),
            (503, 10008, "JetStream system temporarily unavailable", Transient),
            (500, 10009, "JetStream cluster can not handle request", Transient),
            (503, 10023, "insufficient resources", Full),
            (500, 10028, "insufficient memory resources available", Full),
            (500, 10047, "insufficient storage resources available", Full),
            (400, 10054, "message size exceeds maximum allowed", TooLarge),
            (503, 10063, "expected stream sequence does not match", Transient),
            (503, 10077, "maximum messages exceeded", Full),
            (503, 10077, "maximum bytes exceeded", Full),
            (503, 10077, "maximum messages per subject exceeded", Full),
            (503, 10077, "message to large", TooLarge),
            (503, 10077, "store is closed", Transient),
            (503, 10077, "something else", Permanent),
            (400, 10097, "header size exceeds maximum allowed of 64k", TooLarge),
            (400, 10109, "invalid operation on sealed stream", Permanent),
            (500, 10118, "stream is offline", Transient),
            (409, 10158, "duplicate message id is in process", Transient),
            (503, 10163, "expected last sequence per subject temporarily unavailable", Transient),
            (400, 10165, "invalid per-message TTL", Invalid),
            (400, 10166, "per-message TTL is disabled", Permanent),
            (429, 10167, "too many requests", Transient),
            (500, 10194, "stream is offline: x", Transient),
            // Those of a later server follow their status.
            (503, 19999, "new", Transient),
            (429, 19999, "new", Transient),
            (400, 19999, "new", Permanent),
            (500, 19999, "new", Permanent),
        ] {
            assert_eq!(of(code, err_code, description), kind, "{err_code} {description}");
        }
    }
}
