//! How a socket leaves hyper. An HTTP/1.1 connection offers itself with each request; whoever opens an event stream may
//! take the offer up, and answers with the head alone. The connection is then taken apart instead of written to: what it
//! was to write is [`Handed`] on with its socket.
//!
//! From the head on the response ends with the connection (RFC 9112, section 6.3): no chunks, so that frames go out as they
//! are kept (`docs/decisions`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, Response};
use parking_lot::Mutex;

use crate::channel::event_stream::Stream;
use crate::channel::hub::Opened;

/// A connection's offer to be taken over. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Offer(Arc<State>);

#[derive(Debug, Default)]
struct State {
    taken: Mutex<Option<Opened>>,
    handed: Mutex<Option<Box<Handed>>>,
    /// Whether `handed` holds something.
    ready: AtomicBool,
    /// Whether the transport has refused bytes that hyper still holds.
    blocked: AtomicBool,
}

/// A stream on its way to whoever will write it.
#[derive(Debug)]
pub struct Handed {
    /// The stream.
    pub stream: Stream,
    /// The head of the response and the first blocks.
    pub first: Bytes,
}

// === impl Offer ===

impl Offer {
    /// Takes the offer up. The answer to the request is then a head without a body.
    pub fn take_up(&self, opened: Opened) {
        *self.0.taken.lock() = Some(opened);
    }

    /// Completes what was taken up with the head of the answer. False if nobody took the offer up.
    pub fn settle<B>(&self, answer: &Response<B>) -> bool {
        let Some(Opened { stream, opening }) = self.0.taken.lock().take() else { return false };
        let first = first(answer.headers(), &opening, SystemTime::now());
        *self.0.handed.lock() = Some(Box::new(Handed { stream, first }));
        self.0.ready.store(true, Relaxed);
        true
    }

    /// The transport took bytes, or refused to.
    pub fn blocked(&self, blocked: bool) {
        self.0.blocked.store(blocked, Relaxed);
    }

    /// What is handed on, once hyper holds no earlier answer any more.
    pub fn handed(&self) -> Option<Box<Handed>> {
        if !self.0.ready.load(Relaxed) || self.0.blocked.load(Relaxed) {
            return None;
        }
        self.0.handed.lock().take()
    }
}

/// The head of a 200, and the first blocks behind it.
fn first(headers: &HeaderMap, opening: &[Bytes], now: SystemTime) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(b"HTTP/1.1 200 OK\r\n");
    for (name, value) in
        headers.iter().filter(|(name, _)| ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name))
    {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    if !headers.contains_key(DATE) {
        out.put_slice(b"date: ");
        out.put_slice(httpdate::fmt_http_date(now).as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"connection: close\r\n\r\n");
    opening.iter().for_each(|block| out.put_slice(block));
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_head_says_that_the_response_ends_with_the_connection() {
        let answer = Response::builder()
            .header("content-type", "text/event-stream")
            .header("connection", "keep-alive")
            .header("content-length", "0")
            .header("vary", "Origin")
            .body(())
            .unwrap();
        let opening = [Bytes::from_static(b"retry: 3000\n"), Bytes::from_static(b"data: a\n\n")];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(
            first(answer.headers(), &opening, now),
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nvary: Origin\r\n\
             date: Sun, 06 Nov 1994 08:49:37 GMT\r\nconnection: close\r\n\r\nretry: 3000\ndata: a\n\n"
        );
    }
}
