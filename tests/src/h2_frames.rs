//! HTTP/2 on a bare connection (RFC 9113): frames that no client library would send, or not so many of them, or so late.

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a connection begins with, and empty SETTINGS.
pub const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE and CONTINUATION.
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const WINDOW_UPDATE: u8 = 8;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;

/// The flag of HEADERS that ends the request.
pub const END_STREAM: u8 = 1;
/// The flag of HEADERS and CONTINUATION that ends the block.
pub const END_HEADERS: u8 = 4;
/// The flag of PING and SETTINGS that makes it an answer.
pub const ACK: u8 = 1;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + payload.len());
    out.put_uint(payload.len() as u64, 3);
    out.put_slice(&[kind, flags]);
    out.put_u32(stream);
    out.put_slice(payload);
    out
}

/// A header block without compression (RFC 7541): a request to `path`, and these fields.
pub fn block(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    // `:scheme: http` is entry 6 of the static table.
    let mut out = vec![0x86];
    for (name, value) in [(":method", method), (":path", path), (":authority", "x")].iter().chain(fields) {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// A field that the peer keeps in its table (entry 62 from then on), followed by references to it.
pub fn bomb(value: &str, references: usize) -> Vec<u8> {
    let mut out = vec![0x40];
    text(&mut out, "x");
    text(&mut out, value);
    out.resize(out.len() + references, 0x80 | 62);
    out
}

/// A length with a prefix of 7 bits, and the bytes.
fn text(out: &mut Vec<u8>, text: &str) {
    match text.len().checked_sub(127) {
        None => out.push(text.len() as u8),
        Some(mut rest) => {
            out.push(127);
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// A connection that sends whatever it is told to.
#[derive(Debug)]
pub struct RawH2<S = TcpStream> {
    socket: S,
    read: BytesMut,
}

impl RawH2 {
    /// Connects and says hello.
    pub async fn connect(address: std::net::SocketAddr) -> std::io::Result<Self> {
        Self::over(TcpStream::connect(address).await?).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawH2<S> {
    /// Says hello on a connection.
    pub async fn over(mut socket: S) -> std::io::Result<Self> {
        socket.write_all(BEGIN).await?;
        Ok(Self { socket, read: BytesMut::new() })
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// The next frame's kind, flags and payload; an error once the connection is closed.
    pub async fn next(&mut self) -> std::io::Result<(u8, u8, Vec<u8>)> {
        loop {
            if let Some((&[a, b, c, kind, flags, ..], _)) = self.read.split_first_chunk::<9>() {
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if self.read.len() >= 9 + length {
                    let frame = self.read.split_to(9 + length);
                    return Ok((kind, flags, frame[9..].to_vec()));
                }
            }
            if self.socket.read_buf(&mut self.read).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits until the peer has dealt with everything that was sent.
    pub async fn round_trip(&mut self) -> std::io::Result<()> {
        self.send(&frame(PING, 0, 0, b"12345678")).await?;
        while !matches!(self.next().await?, (PING, ACK, _)) {}
        Ok(())
    }

    /// Reads until the connection is closed; whether the peer said goodbye.
    pub async fn closed(&mut self) -> bool {
        let mut goodbye = false;
        while let Ok((kind, ..)) = self.next().await {
            goodbye |= kind == GOAWAY;
        }
        goodbye
    }
}
