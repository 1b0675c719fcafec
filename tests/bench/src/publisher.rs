//! One publisher's connection: to NATS, to nchan over HTTP, or to the floor.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, bail};

use crate::floor;
use crate::place::Place;
use crate::server::Kind;

/// One publisher's connection.
#[derive(Debug)]
pub(crate) struct Publisher {
    kind: Kind,
    pub(crate) socket: TcpStream,
    unsent: Vec<u8>,
}

// === impl Publisher ===

impl Publisher {
    pub(crate) fn connect(kind: Kind, address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let unsent = match kind {
            Kind::Floor => floor::PUBLISHER.to_vec(),
            Kind::Nchan => Vec::new(),
            Kind::Tidings => b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_vec(),
        };
        Ok(Self { kind, socket, unsent })
    }

    /// Adds a publication; [`Publisher::flush`] sends it.
    pub(crate) fn push(&mut self, place: Place, data: &[u8]) {
        let head = match self.kind {
            Kind::Floor => {
                self.unsent.extend_from_slice(&(data.len() as u32).to_be_bytes());
                self.unsent.extend_from_slice(data);
                return;
            }
            Kind::Nchan => {
                let name = nchan_name(place);
                format!("POST /pub/{name} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", data.len())
            }
            Kind::Tidings => {
                let subject = match place {
                    Place::All => "load.all".to_owned(),
                    Place::Topic(topic) => format!("load.t.{topic}"),
                    Place::Channel(channel) => format!("c{channel}.all"),
                };
                format!("PUB tidings.bench.{subject} {}\r\n", data.len())
            }
        };
        self.unsent.extend_from_slice(head.as_bytes());
        self.unsent.extend_from_slice(data);
        if self.kind == Kind::Tidings {
            self.unsent.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what the kernel takes, and reads what comes back.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => bail!("the connection of a publisher was closed"),
                Ok(read) => {
                    let read = buffer.get(..read).unwrap_or_default();
                    if self.kind == Kind::Tidings && memchr::memmem::find(read, b"PING\r\n").is_some() {
                        self.unsent.extend_from_slice(b"PONG\r\n");
                    }
                    if memchr::memmem::find(read, b"-ERR").is_some() {
                        bail!("NATS refuses: {}", String::from_utf8_lossy(read));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }
}

/// What nchan calls a channel.
pub(crate) fn nchan_name(place: Place) -> String {
    match place {
        Place::All => "all".to_owned(),
        Place::Topic(topic) => format!("t{topic}"),
        Place::Channel(channel) => format!("c{channel}"),
    }
}
