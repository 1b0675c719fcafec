//! What a shard is handed with a socket: the stream, and the first bytes of the response.
//!
//! From the head on the response is sent in chunks, and each frame is kept as one ([`crate::log::chunked`]). To an HTTP/1.0
//! client, which knows no chunks, it ends with the connection (RFC 9112, section 6.3).

use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

use crate::channel::event_stream::Stream;
use crate::channel::hub::Opened;
use crate::log::chunked::Frame;

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

// === impl Handed ===

impl Handed {
    /// What was opened, with the headers of the answer to a request of this version.
    pub fn new(opened: Opened, headers: &HeaderMap, asked: Version, now: SystemTime) -> Self {
        let Opened { stream, opening } = opened;
        let chunked = asked >= Version::HTTP_11;
        Self { stream, first: first(headers, opening, chunked, now), chunked }
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
    use http::Response;
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
