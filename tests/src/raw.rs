//! A NATS publisher on a bare socket: it sends header blocks that no client library would.

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::nats_protocol::{Decoder, Operation};
use crate::wait::{PATIENCE, within};

/// Header blocks that nats-server stores and relays, and that are no header blocks. Each with what is wrong with it.
pub const MALFORMED: [(&str, &[u8]); 9] = [
    ("not UTF-8", b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n"),
    ("a line without a colon", b"NATS/1.0\r\nno colon here\r\n\r\n"),
    ("a space in a name", b"NATS/1.0\r\nA b: c\r\n\r\n"),
    ("no version line", b"A: b\r\n\r\n"),
    ("no end", b"NATS/1.0\r\nA: b"),
    ("nothing but line ends", b"\r\n\r\n"),
    ("a carriage return in a value", b"NATS/1.0\r\nA: b\rc\r\n\r\n"),
    ("a status that only servers send", b"NATS/1.0 404 No Messages\r\n\r\n"),
    ("a status that is no number", b"NATS/1.0 soon\r\n\r\n"),
];

/// A connection.
#[derive(Debug)]
pub struct RawNats {
    socket: TcpStream,
    decoder: Decoder,
}

// === impl RawNats ===

impl RawNats {
    /// Connects to a server open to everybody.
    pub async fn connect(address: std::net::SocketAddr) -> Self {
        Self::connect_as(address, "nobody").await
    }

    /// Connects as a user whose password is its name.
    pub async fn connect_as(address: std::net::SocketAddr, user: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("the server listens");
        let mut raw = Self { socket, decoder: Decoder::default() };
        raw.until("INFO").await;
        let options = serde_json::json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "lang": "raw", "version": "0",
            "user": user, "pass": user,
        });
        raw.send(format!("CONNECT {options}\r\n").as_bytes()).await;
        raw.flush().await;
        raw
    }

    /// Publishes with a header block exactly as given; an empty one makes it a plain `PUB`.
    pub async fn publish(&mut self, subject: &str, headers: &[u8], payload: &[u8]) {
        let mut out = BytesMut::new();
        if headers.is_empty() {
            out.put_slice(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
        } else {
            let total = headers.len() + payload.len();
            out.put_slice(format!("HPUB {subject} {} {total}\r\n", headers.len()).as_bytes());
        }
        out.put_slice(headers);
        out.put_slice(payload);
        out.put_slice(b"\r\n");
        self.send(&out).await;
    }

    /// Waits until the server has read everything sent so far.
    ///
    /// # Panics
    /// When the server found fault with it.
    pub async fn flush(&mut self) {
        self.send(b"PING\r\n").await;
        self.until("PONG").await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("the server reads");
    }

    async fn until(&mut self, verb: &str) {
        let reading = async {
            loop {
                while let Some(operation) = self.decoder.take().expect("nats-server speaks its own protocol") {
                    let Operation::Line(line) = operation else { continue };
                    let line = String::from_utf8_lossy(&line).into_owned();
                    assert!(!line.starts_with("-ERR"), "the server refuses: {line}");
                    if line.starts_with(verb) {
                        return;
                    }
                    if line.starts_with("PING") {
                        self.socket.write_all(b"PONG\r\n").await.expect("the server reads");
                    }
                }
                let mut buffer = [0; 4096];
                let read = self.socket.read(&mut buffer).await.expect("the server writes");
                assert!(read > 0, "the server closed the connection");
                self.decoder.feed(buffer.get(..read).unwrap_or_default());
            }
        };
        within(PATIENCE, verb, reading).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::Nats;

    #[tokio::test]
    async fn the_server_stores_every_malformed_header_block() {
        let nats = Nats::start().await;
        let jetstream = nats.jetstream().await;
        let config = async_nats::jetstream::stream::Config {
            name: "S".into(),
            subjects: vec!["s".into()],
            ..Default::default()
        };
        let stream = jetstream.create_stream(config).await.expect("a stream");
        let mut raw = RawNats::connect(nats.address(0)).await;
        for (_, block) in MALFORMED {
            raw.publish("s", block, b"x").await;
        }
        raw.flush().await;
        crate::wait::eventually(PATIENCE, "all are stored", || async {
            stream.get_info().await.is_ok_and(|info| info.state.messages == MALFORMED.len() as u64)
        })
        .await;
    }
}
