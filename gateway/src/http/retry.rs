//! Sending a subscriber away so that it comes back: the 200 path.
//!
//! EventSource gives up for good on any status but 200 (HTML standard, "server-sent events"). So a client that may come
//! back later is told so in a stream: a `retry:` with a delay of its own, and a clean end.

use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use rand::Rng;

use crate::channel::drain_schedule::MIN_RETRY;
use crate::http::problem::{Problem, ProblemKind};
use crate::http::response::{self, Reply};

/// `retry` is never below this: a client that reconnects faster than it can be refused would be a flood.
const LEAST: Duration = Duration::from_millis(MIN_RETRY as u64);

/// What a channel's clients wait when the channel is not known.
pub const DEFAULT: Duration = Duration::from_secs(3);

/// For reverse proxies: nginx keeps streams back otherwise.
pub const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A delay between `base`, but no less than [`MIN_RETRY`], and three times that: clients that are sent away together must not come back together.
pub fn jittered(base: Duration, random: &mut impl Rng) -> Duration {
    let base = base.max(LEAST);
    base + base.mul_f64(2.0 * random.random::<f64>())
}

/// The answer to a subscriber that should come back after `delay`. `close`: over another connection.
pub fn later(request: &HeaderMap, delay: Duration, why: &'static str, close: bool) -> Reply {
    let mut reply = if accepts_event_stream(request) {
        // No empty line: it would be an empty event to some clients, and the field counts without.
        let mut reply = Response::new(response::full(format!("retry: {}\n", delay.as_millis())));
        stream_headers(reply.headers_mut());
        reply
    } else {
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        Problem::new(ProblemKind::Unavailable, why).retry_after(seconds).into()
    };
    if close {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// The head of every event stream.
pub fn stream_headers(headers: &mut HeaderMap) {
    // Event streams are always UTF-8; some libraries read a text without a charset as Latin-1 (RFC 2616, section 3.7.1).
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// RFC 9110, section 12.5.1. No `Accept` at all accepts everything.
fn accepts_event_stream(request: &HeaderMap) -> bool {
    let mut ranges = request.get_all(ACCEPT).iter().flat_map(|value| value.to_str().unwrap_or_default().split(','));
    let mut any = false;
    let accepted = ranges.any(|range| {
        any = true;
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let matches = matches!(parts.next().as_deref(), Some("text/event-stream" | "text/*" | "*/*"));
        matches && !parts.any(|parameter| is_zero_weight(&parameter))
    });
    accepted || !any
}

/// Whether a request accepts event streams and names nothing else.
pub fn accepts_event_stream_alone(request: &HeaderMap) -> bool {
    let mut ranges = request.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut named = false;
    let all = ranges.all(|range| {
        named = true;
        let range = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        range.eq_ignore_ascii_case(b"text/event-stream")
    });
    named && all
}

fn is_zero_weight(parameter: &str) -> bool {
    parameter
        .strip_prefix("q=")
        .and_then(|weight| weight.trim().parse::<f32>().ok())
        .is_some_and(|weight| weight == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use http::header::RETRY_AFTER;
    use http_body_util::BodyExt;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn accept(value: &'static str) -> HeaderMap {
        [(ACCEPT, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn delays_are_spread_and_never_short() {
        let mut random = StdRng::seed_from_u64(7);
        let delays: Vec<_> = (0..1_000).map(|_| jittered(Duration::from_secs(1), &mut random)).collect();
        assert!(delays.iter().all(|delay| (1_000..=3_000).contains(&delay.as_millis())));
        assert!(delays.iter().any(|delay| delay.as_millis() < 1_100));
        assert!(delays.iter().any(|delay| delay.as_millis() > 2_900));
        assert!((0..100).all(|_| jittered(Duration::ZERO, &mut random) >= LEAST));
    }

    #[test]
    fn an_event_stream_is_accepted_by_type_range_or_silence() {
        assert!(accepts_event_stream(&HeaderMap::new()));
        for (value, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            ("text/html, */*;q=0.1", true),
            ("text/*", true),
            ("application/json", false),
            ("application/json, text/event-stream;q=0", false),
            ("text/event-stream;q=0.0, application/json", false),
            ("", false),
        ] {
            assert_eq!(accepts_event_stream(&accept(value)), expected, "{value}");
        }
    }

    #[tokio::test]
    async fn whoever_reads_streams_is_told_in_a_stream_and_others_by_status() {
        let reply = later(&accept("text/event-stream"), Duration::from_millis(1_234), "busy", true);
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(reply.headers()[CONTENT_TYPE], "text/event-stream; charset=utf-8");
        assert_eq!(reply.headers()[CONNECTION], "close");
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "retry: 1234\n");
        let reply = later(&accept("application/json"), Duration::from_millis(1_234), "busy", false);
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers()[RETRY_AFTER], "2");
        assert!(!reply.headers().contains_key(CONNECTION));
    }
}
