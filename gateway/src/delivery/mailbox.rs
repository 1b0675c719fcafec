//! What comes for a shard from other tasks: subscribers, bells, and what was read of streams.
//!
//! Bounded by what it is about: an arrival has its place in the [`crate::server::connection_limit`], a roll rings once until
//! it is armed again, and a guest has one read under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Wake, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::delivery::handed::Handed;
use crate::delivery::io::{Arrival, RollId, Ticket};
use crate::log::chunk::Chunk;
use crate::server::hold::Held as Connection;
use crate::server::socket::Socket;

/// What has come for a shard.
#[derive(Default)]
pub struct Inbox {
    mail: Mutex<Mail>,
    bell: Notify,
    /// Sockets here and on their way here.
    sockets: AtomicUsize,
}

/// What is taken out at once.
#[derive(Default)]
pub struct Mail {
    /// Who comes.
    pub arrivals: Vec<Arrival<Socket, Held>>,
    /// Which rolls have news.
    pub rung: Vec<RollId>,
    /// What was read, and for whom.
    pub read: Vec<(Ticket, Option<Arc<Chunk>>)>,
}

/// Counts a socket for as long as it is there.
pub struct Held {
    inbox: Arc<Inbox>,
    _connection: Connection,
}

/// Wakes a roll of a shard.
struct Bell {
    inbox: Arc<Inbox>,
    roll: RollId,
}

// === impl Inbox ===

impl Inbox {
    /// A connection is to become a guest.
    pub fn arrive(self: &Arc<Self>, socket: Socket, handed: Handed, connection: Connection) {
        self.sockets.fetch_add(1, Relaxed);
        let Handed { stream, first, chunked } = handed;
        let hold = Held { inbox: self.clone(), _connection: connection };
        self.put(|mail| mail.arrivals.push(Arrival { socket, stream, first, chunked, hold }));
    }

    /// Something was read for a guest.
    pub fn read(&self, ticket: Ticket, chunk: Option<Arc<Chunk>>) {
        self.put(|mail| mail.read.push((ticket, chunk)));
    }

    /// What wakes a roll.
    pub fn bell(self: &Arc<Self>, roll: RollId) -> Waker {
        Arc::new(Bell { inbox: self.clone(), roll }).into()
    }

    /// Waits until something has come.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Takes everything out, in exchange for an empty one.
    pub fn empty_into(&self, mail: &mut Mail) {
        std::mem::swap(&mut *self.mail.lock(), mail);
    }

    /// Sockets here and on their way here.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Relaxed)
    }

    fn put(&self, post: impl FnOnce(&mut Mail)) {
        post(&mut self.mail.lock());
        self.bell.notify_one();
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

// === impl Bell ===

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.inbox.put(|mail| mail.rung.push(self.roll));
    }
}

// === impl Held ===

impl Drop for Held {
    fn drop(&mut self) {
        self.inbox.sockets.fetch_sub(1, Relaxed);
    }
}
