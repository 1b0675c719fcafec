//! What a request is answered with: one type for whole bodies and for streams.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use serde::Serialize;

/// An answer.
pub type Reply = Response<ReplyBody>;

/// The body of an answer.
pub type ReplyBody = axum::body::Body;

/// No body.
pub fn empty() -> ReplyBody {
    ReplyBody::empty()
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> ReplyBody {
    ReplyBody::from(bytes.into())
}

/// A JSON document on a line of its own, for people at a terminal.
pub fn json(document: &impl Serialize) -> Bytes {
    let mut json = serde_json::to_vec(document).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

/// A 200 with a whole body that nobody keeps.
pub fn document(content_type: &'static str, bytes: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(full(bytes));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
