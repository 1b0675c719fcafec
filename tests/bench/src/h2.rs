//! Many streams on one HTTP/2 connection (RFC 9113), as far as a subscriber needs it: windows that never fill, requests
//! without compression, and of the answers' heads only whether they say 200.

use crate::client::Client;
use crate::payload::Payload;

/// The client's side of a connection.
#[derive(Debug)]
pub(crate) struct H2 {
    unread: Vec<u8>,
    clients: Vec<Client>,
    /// Heads that have come.
    pub(crate) opened: usize,
    /// Bytes of data since the connection's window was opened again.
    taken: u32,
}

/// A frame's kind.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Flags.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const HEAD: usize = 9;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = (1 << 16) - 1;

// === impl H2 ===

impl H2 {
    /// A connection on which these requests are sent: a path and fields each. Also what to send.
    pub(crate) fn new(requests: &[(String, Vec<(&'static str, String)>)], scheme_is_https: bool) -> (Self, Vec<u8>) {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // SETTINGS_ENABLE_PUSH and SETTINGS_INITIAL_WINDOW_SIZE.
        let settings = [&[0, 2, 0, 0, 0, 0, 0, 4][..], &LARGEST_WINDOW.to_be_bytes()].concat();
        frame(&mut out, SETTINGS, 0, 0, &settings);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - FIRST_WINDOW).to_be_bytes());
        for (n, (path, fields)) in requests.iter().enumerate() {
            frame(&mut out, HEADERS, END_STREAM | END_HEADERS, stream(n), &block(path, fields, scheme_is_https));
        }
        let clients = requests.iter().map(|_| Client::without_head()).collect();
        (Self { unread: Vec::new(), clients, opened: 0, taken: 0 }, out)
    }

    /// The streams.
    pub(crate) fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Reads what came; tells each event. What has to be sent for it is added to `out`.
    pub(crate) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>, seen: &mut impl FnMut(Payload)) {
        let mut unread = std::mem::take(&mut self.unread);
        unread.extend_from_slice(bytes);
        let mut rest = unread.as_slice();
        while let Some((&[a, b, c, kind, flags, s0, s1, s2, s3], behind)) = rest.split_first_chunk::<HEAD>() {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let Some((payload, behind)) = behind.split_at_checked(length) else { break };
            rest = behind;
            let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
            self.frame(kind, flags, stream, payload, out, seen);
        }
        let left = rest.len();
        unread.drain(..unread.len() - left);
        self.unread = unread;
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
        seen: &mut impl FnMut(Payload),
    ) {
        // Ours are odd and count from 1.
        let client = self.clients.get_mut(stream as usize / 2).filter(|_| stream % 2 == 1);
        match (kind, client) {
            (DATA, Some(client)) => {
                client.feed(payload, seen);
                self.taken += payload.len() as u32;
                if self.taken > LARGEST_WINDOW / 2 {
                    frame(out, WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes());
                    self.taken = 0;
                }
            }
            (HEADERS, Some(client)) => {
                client.answered(says_200(payload));
                self.opened += usize::from(client.open);
            }
            (RST_STREAM, Some(client)) => client.faults.broken += 1,
            (GOAWAY, _) => self.clients.iter_mut().for_each(|client| client.faults.broken += 1),
            (SETTINGS, _) if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            (PING, _) if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
            _ => {}
        }
    }
}

/// The number of the n-th request's stream.
fn stream(n: usize) -> u32 {
    n as u32 * 2 + 1
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(payload.len().to_be_bytes().last_chunk::<3>().unwrap_or(&[0; 3]));
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header block (RFC 7541) of literals that nobody keeps.
fn block(path: &str, fields: &[(&'static str, String)], scheme_is_https: bool) -> Vec<u8> {
    // `:method: GET` and `:scheme` are entries 2, 6 and 7 of the static table.
    let mut out = vec![0x82, if scheme_is_https { 0x87 } else { 0x86 }];
    let pseudo = [(":path", path), (":authority", "bench")];
    for (name, value) in pseudo.into_iter().chain(fields.iter().map(|(name, value)| (*name, value.as_str()))) {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
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

/// `:status: 200` is entry 8 of the static table. Changes of the table's size may stand before it.
fn says_200(block: &[u8]) -> bool {
    block.iter().find(|byte| **byte & 0xe0 != 0x20) == Some(&0x88)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_apart_whatever_the_pieces() {
        let event = |number| {
            let data = String::from_utf8(Payload { publisher: 0, number, at: 5 }.write(100)).unwrap();
            format!("id: a-{number}-b\ndata: {data}\n\n")
        };
        let mut said = Vec::new();
        frame(&mut said, SETTINGS, 0, 0, &[]);
        frame(&mut said, HEADERS, END_HEADERS, 1, &[0x20, 0x88, 0x00]);
        frame(&mut said, HEADERS, END_HEADERS, 3, &[0x88]);
        frame(&mut said, DATA, 0, 3, event(7).as_bytes());
        frame(&mut said, DATA, 0, 1, event(8).split_at(20).0.as_bytes());
        frame(&mut said, PING, 0, 0, b"12345678");
        frame(&mut said, DATA, 0, 1, event(8).split_at(20).1.as_bytes());
        for size in [1, 5, 10_000] {
            let (mut h2, sent) = H2::new(&[("/a".into(), vec![]), ("/b".into(), vec![("x", "y".repeat(300))])], false);
            assert!(sent.starts_with(b"PRI") && sent.ends_with(b"yyy"));
            let (mut out, mut numbers) = (Vec::new(), Vec::new());
            for piece in said.chunks(size) {
                h2.feed(piece, &mut out, &mut |payload| numbers.push(payload.number));
            }
            assert_eq!((numbers, h2.opened), (vec![7, 8], 2));
            assert!(h2.clients().iter().all(|client| client.open && client.faults.sum() == 0));
            assert_eq!(out, b"\0\0\0\x04\x01\0\0\0\0\0\0\x08\x06\x01\0\0\0\x0012345678");
        }
    }

    #[test]
    fn refusals_are_faults() {
        let (mut h2, _) = H2::new(&[("/a".into(), vec![]), ("/b".into(), vec![])], true);
        let mut said = Vec::new();
        // `:status: 404` is entry 13.
        frame(&mut said, HEADERS, END_HEADERS, 1, &[0x8d]);
        frame(&mut said, RST_STREAM, 0, 3, &[0, 0, 0, 2]);
        h2.feed(&said, &mut Vec::new(), &mut |_| {});
        assert_eq!((h2.opened, h2.clients()[0].faults.broken, h2.clients()[1].faults.broken), (0, 1, 1));
    }
}
