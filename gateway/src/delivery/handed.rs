//! How a socket leaves hyper. An HTTP/1.1 connection offers itself with each request; the request that opens an event stream may
//! take the offer up, and answers with the head alone. The connection is then taken apart instead of written to: what it
//! was to write is [`Handed`] on with its socket.
//!
//! From the head on the response is sent in chunks, and each frame is kept as one ([`crate::log::chunked`]). To an HTTP/1.0
//! client, which knows no chunks, it ends with the connection (RFC 9112, section 6.3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, Response, Version};
use parking_lot::Mutex;

use crate::channel::event_stream::Stream;
use crate::channel::hub::Opened;
use crate::log::chunked::Frame;

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

/// A stream on its way to the task that will write it.
#[derive(Debug)]
pub struct Handed {
    /// The stream.
    pub stream: Stream,
    /// The head of the response and the first blocks.
    pub first: Bytes,
    /// Whether the response is sent in chunks.
    pub chunked: bool,
}

// === impl Offer ===

impl Offer {
    /// Takes the offer up. The answer to the request is then a head without a body.
    pub fn take_up(&self, opened: Opened) {
        *self.0.taken.lock() = Some(opened);
    }

    /// Completes what was taken up with the head of the answer to a request of this version. False if nobody took the offer up.
    pub fn settle<B>(&self, answer: &Response<B>, asked: Version) -> bool {
        let Some(Opened { stream, opening }) = self.0.taken.lock().take() else { return false };
        let chunked = asked >= Version::HTTP_11;
        let first = first(answer.headers(), opening, chunked, SystemTime::now());
        *self.0.handed.lock() = Some(Box::new(Handed { stream, first, chunked }));
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
fn first(headers: &HeaderMap, opening: Vec<Frame>, chunked: bool, now: SystemTime) -> Bytes {
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
    if chunked {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    out.put_slice(b"connection: close\r\n\r\n");
    opening.into_iter().for_each(|frame| out.put(frame.on_the_wire(chunked)));
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_head_says_how_the_response_is_sent() {
        let answer = Response::builder()
            .header("content-type", "text/event-stream")
            .header("connection", "keep-alive")
            .header("content-length", "0")
            .header("vary", "Origin")
            .body(())
            .unwrap();
        let opening = || vec![Frame::from("retry: 3000\n"), Frame::from("data: a\n\n")];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nvary: Origin\r\n\
             date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        assert_eq!(
            first(answer.headers(), opening(), false, now),
            format!("{head}connection: close\r\n\r\nretry: 3000\ndata: a\n\n")
        );
        assert_eq!(
            first(answer.headers(), opening(), true, now),
            format!(
                "{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                 c\r\nretry: 3000\n\r\n9\r\ndata: a\n\n\r\n"
            )
        );
    }
}
