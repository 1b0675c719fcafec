//! One connection of subscribers: a stream on plain HTTP/1.1, one over TLS, or many on HTTP/2.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};

use crate::client::{Client, Faults};
use crate::h2::H2;
use crate::payload::Payload;
use crate::place::Ask;
use crate::secure::Session;
use crate::server::Server;

/// How subscribers connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    #[default]
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 without TLS, a hundred streams on a connection.
    Http2,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: TcpStream,
    wire: Wire,
    /// Streams on it whose head has come.
    pub(crate) opened: usize,
}

#[derive(Debug)]
enum Wire {
    Plain(Box<Client>),
    Tls(Box<Session>),
    Http2(Box<H2>),
}

/// No server is slower than that to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

// === impl Protocol ===

impl Protocol {
    /// Streams on one connection.
    pub(crate) fn streams(self) -> usize {
        if self == Self::Http2 { 100 } else { 1 }
    }
}

// === impl Link ===

impl Link {
    /// Connects and asks. A socket that will stop reading holds little.
    pub(crate) fn open(server: &Server, asks: &[Ask<'_>], small: bool) -> Result<Self> {
        // On loopback the handshake is the kernel's alone.
        let mut socket = connected(server, small)?;
        let first = asks.first().context("a connection is for somebody")?;
        let wire = match (server.protocol(), server.certificate()) {
            (Protocol::Tls, Some(certificate)) => {
                let request = server.request(first);
                Wire::Tls(Box::new(Session::begin(certificate, &mut socket, request.as_bytes())?))
            }
            (Protocol::Http2, _) => {
                let requests: Vec<_> = asks.iter().map(|ask| server.path_and_fields(ask)).collect();
                let (h2, hello) = H2::new(&requests, false);
                socket.write_all(&hello)?;
                Wire::Http2(Box::new(h2))
            }
            _ => {
                socket.write_all(server.request(first).as_bytes())?;
                Wire::Plain(Box::default())
            }
        };
        socket.set_nonblocking(true)?;
        Ok(Self { socket, wire, opened: 0 })
    }

    /// Its streams.
    pub(crate) fn clients(&self) -> &[Client] {
        match &self.wire {
            Wire::Plain(client) => std::slice::from_ref(client.as_ref()),
            Wire::Tls(session) => std::slice::from_ref(&session.client),
            Wire::Http2(h2) => h2.clients(),
        }
    }

    /// Its only stream.
    pub(crate) fn client(&mut self) -> Option<&mut Client> {
        match &mut self.wire {
            Wire::Plain(client) => Some(client),
            Wire::Tls(session) => Some(&mut session.client),
            Wire::Http2(_) => None,
        }
    }

    /// What its streams have received and not expected.
    pub(crate) fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        self.clients().iter().for_each(|client| faults.add(client.faults));
        faults
    }

    /// Reads what came; tells each event. False at the end of the connection.
    pub(crate) fn read(&mut self, buffer: &mut [u8], seen: &mut impl FnMut(Payload)) -> Result<bool> {
        if let Wire::Tls(session) = &mut self.wire {
            let goes_on = session.read(&mut self.socket, buffer, seen)?;
            self.opened = usize::from(session.client.open);
            return Ok(goes_on);
        }
        let read = match self.socket.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(_) => return Ok(false),
        };
        match &mut self.wire {
            Wire::Http2(h2) => {
                let mut out = Vec::new();
                h2.feed(read, &mut out, seen);
                self.opened = h2.opened;
                // Answers to settings and pings: a few bytes that always fit.
                self.socket.write_all(&out)?;
            }
            Wire::Plain(client) => {
                client.feed(read, seen);
                self.opened = usize::from(client.open);
            }
            Wire::Tls(_) => {}
        }
        Ok(true)
    }
}

/// The buffer's size counts from the handshake on, so it is set before.
fn connected(server: &Server, small: bool) -> Result<TcpStream> {
    if !small {
        return Ok(TcpStream::connect_timeout(&server.address, PATIENCE)?);
    }
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_recv_buffer_size(&socket, 4 << 10)?;
    connect(&socket, &server.address)?;
    Ok(TcpStream::from(socket))
}
