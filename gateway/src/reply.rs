//! What a request is answered with: one type for whole bodies and for streams.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;

/// An answer.
pub type Reply = Response<ReplyBody>;

/// The body of an answer.
pub type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;

/// No body.
pub fn empty() -> ReplyBody {
    full(Bytes::new())
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> ReplyBody {
    Full::new(bytes.into()).boxed_unsync()
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
