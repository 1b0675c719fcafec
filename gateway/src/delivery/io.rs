//! What a [`crate::delivery::shard`] needs of the world, and the words in which they speak. The kernel is one such world
//! ([`crate::delivery::epoll`]), a test another.

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;

use crate::channel::event_stream::Stream;
use crate::channel::live::{Behind, LiveChannel};

pub use crate::server::socket_io::{Heard, Wrote};

/// What a shard needs of the world.
pub trait Outside {
    /// A connection.
    type Socket;
    /// Something that is read; dropping it gives up.
    type Reading;
    /// What is held as long as the socket is.
    type Hold;

    /// Writes what the socket takes now, and before that whatever it has kept to itself.
    fn write(&mut self, socket: &mut Self::Socket, bytes: &[u8]) -> io::Result<Wrote>;
    /// Bytes that the peer has not acknowledged: fewer than before means that it takes some.
    fn backlog(&self, socket: &Self::Socket) -> u32;
    /// From now on tells of hang-ups, and of whatever else concerns the socket.
    fn enter(&mut self, socket: &Self::Socket, ticket: Ticket) -> io::Result<()>;
    /// Goes on telling of that, and if `writable` of room to write in.
    fn watch(&mut self, socket: &Self::Socket, ticket: Ticket, writable: bool) -> io::Result<()>;
    /// Reads what has come for the socket itself.
    fn hear(&mut self, socket: &mut Self::Socket) -> Heard;
    /// Takes leave, writes no more, and from now on tells of everything that comes. False if there is no room to take leave
    /// in: it is to be called again then.
    fn shut(&mut self, socket: &mut Self::Socket, ticket: Ticket) -> io::Result<bool>;
    /// Reads what has come and throws it away; says whether the peer has closed.
    fn drain(&mut self, socket: &mut Self::Socket, ticket: Ticket) -> bool;
    /// Reads the stream behind the Log; what comes of it goes to [`crate::delivery::shard::Shard::take`].
    fn read(&mut self, channel: &Arc<LiveChannel>, ticket: Ticket, behind: Behind) -> Self::Reading;
    /// What wakes this roll of the shard, by [`crate::delivery::shard::Shard::ring`].
    fn bell(&mut self, roll: RollId) -> Waker;
}

/// A subscriber that comes.
#[derive(Debug)]
pub struct Arrival<S, H> {
    /// Its connection.
    pub socket: S,
    /// Its stream.
    pub stream: Stream,
    /// The head of the response and the first blocks.
    pub first: Bytes,
    /// Whether the response is sent in chunks.
    pub chunked: bool,
    /// What it holds.
    pub hold: H,
}

/// Which guest this is, as opposed to earlier ones at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Its place in the shard.
    pub place: u32,
    /// Grows with every guest.
    pub generation: u32,
}

/// A roll's place in its shard.
pub type RollId = u32;

/// The time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what waits.
    pub at: Instant,
    /// Milliseconds since 1970, for the age of events.
    pub wall: u64,
}

// === impl Ticket ===

impl Ticket {
    /// As the key of an event.
    pub fn key(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    /// From the key of an event.
    pub fn from_key(key: u64) -> Self {
        Self { place: key as u32, generation: (key >> 32) as u32 }
    }
}
