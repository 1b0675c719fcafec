//! The demo page (`--demo`): one HTML file whose whole client is `new EventSource(...)`.

use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};

use crate::http::response::{self, Reply};

const PAGE: &str = include_str!("demo.html");

/// The page has its script and style in itself, and talks to this gateway alone.
const POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:";

/// The page.
pub fn page() -> Reply {
    let mut reply = response::document("text/html; charset=utf-8", PAGE);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    reply
}
