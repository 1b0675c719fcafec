//! The floor of the machine: a server that does nothing but what no server can leave out, one send of a ready frame for
//! each socket, from one thread over a raw epoll. Not a product: it trusts everybody, keeps nothing and checks nothing.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::Result;
use rustix::event::epoll::EventFlags;
use rustix::net::{SendFlags, send};

use crate::poll::Poll;

/// Subscribers send a request; a publisher sends this line, then frames: a length of four bytes, big end first, and data.
pub(crate) const PUBLISHER: &[u8] = b"PUBLISH\n";

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\nretry: 3000\n\n";

#[derive(Debug)]
struct Peer {
    socket: TcpStream,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    New(Vec<u8>),
    Publisher(Vec<u8>),
    /// With what the kernel did not take.
    Subscriber(Vec<u8>),
}

/// Serves until it is killed.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.add(&listener, u64::MAX, EventFlags::IN)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut subscribers: Vec<usize> = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        for (key, flags) in poll.wait(None)? {
            if key == u64::MAX {
                while let Ok((socket, _)) = listener.accept() {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    let key = free.pop().unwrap_or_else(|| {
                        peers.push(None);
                        peers.len() - 1
                    });
                    poll.add(&socket, key as u64, EventFlags::IN | EventFlags::RDHUP)?;
                    if let Some(place) = peers.get_mut(key) {
                        *place = Some(Peer { socket, kind: Kind::New(Vec::new()) });
                    }
                }
                continue;
            }
            let key = key as usize;
            let Some(place) = peers.get_mut(key) else { continue };
            let Some(peer) = place else { continue };
            if flags.contains(EventFlags::OUT) {
                flush(&poll, key, peer);
                continue;
            }
            let read = match peer.socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(read) if read > 0 => buffer.get(..read).unwrap_or_default(),
                _ => {
                    *place = None;
                    free.push(key);
                    subscribers.retain(|other| *other != key);
                    continue;
                }
            };
            let mut frames = Vec::new();
            match &mut peer.kind {
                Kind::New(head) => {
                    head.extend_from_slice(read);
                    if let Some(rest) = head.strip_prefix(PUBLISHER) {
                        peer.kind = Kind::Publisher(rest.to_vec());
                    } else if head.ends_with(b"\r\n\r\n") {
                        send(&peer.socket, HEAD, SendFlags::NOSIGNAL)?;
                        peer.kind = Kind::Subscriber(Vec::new());
                        poll.modify(&peer.socket, key as u64, EventFlags::RDHUP)?;
                        subscribers.push(key);
                    }
                }
                Kind::Publisher(unread) => {
                    unread.extend_from_slice(read);
                    while let Some(frame) = frame(unread) {
                        frames.push(frame);
                    }
                }
                Kind::Subscriber(_) => {}
            }
            for frame in frames {
                for key in &subscribers {
                    if let Some(peer) = peers.get_mut(*key).and_then(Option::as_mut) {
                        deliver(&poll, *key, peer, &frame);
                    }
                }
            }
        }
    }
}

/// Takes a frame from the front and makes it an event.
fn frame(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = unread.split_first_chunk::<4>()?;
    let data = rest.get(..u32::from_be_bytes(*length) as usize)?;
    let frame = [b"data: ", data, b"\nid: 1cqk2v7q3x1a-100001-k3j9yf\n\n"].concat();
    unread.drain(..data.len() + 4);
    Some(frame)
}

fn deliver(poll: &Poll, key: usize, peer: &mut Peer, frame: &[u8]) {
    let Kind::Subscriber(unsent) = &mut peer.kind else { return };
    let sent = if unsent.is_empty() { send(&peer.socket, frame, SendFlags::NOSIGNAL).unwrap_or(0) } else { 0 };
    if sent < frame.len() {
        let first = unsent.is_empty();
        unsent.extend_from_slice(frame.get(sent..).unwrap_or_default());
        if first {
            let _ = poll.modify(&peer.socket, key as u64, EventFlags::RDHUP | EventFlags::OUT);
        }
    }
}

fn flush(poll: &Poll, key: usize, peer: &mut Peer) {
    let Kind::Subscriber(unsent) = &mut peer.kind else { return };
    let sent = send(&peer.socket, unsent, SendFlags::NOSIGNAL).unwrap_or(unsent.len());
    unsent.drain(..sent);
    if unsent.is_empty() {
        let _ = poll.modify(&peer.socket, key as u64, EventFlags::RDHUP);
    }
}
