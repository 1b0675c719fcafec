//! What a request is answered with: one type for whole bodies and for streams.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use serde::Serialize;

/// An answer.
pub type Reply = Response<ReplyBody>;

/// The body of an answer.
pub type ReplyBody = axum::body::Body;

/// No body.
pub fn empty() -> ReplyBody {
    ReplyBody::empty()
}

/// No body either, but nothing that says so before its end.
pub fn unmeasured() -> ReplyBody {
    ReplyBody::new(Unmeasured)
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

/// A 200 with a whole body that is not cached.
pub fn document(content_type: &'static str, bytes: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(full(bytes));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// An empty body of unknown length.
struct Unmeasured;

impl http_body::Body for Unmeasured {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

/// The headers that every answer has.
pub fn common_headers(headers: &mut HeaderMap) {
    // Nothing that browsers are sent is to be taken for something else than it says it is.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
