//! How a socket leaves hyper.
//!
//! An HTTP/1.1 connection offers its socket with each request. A handler that takes up the [`Offer`] answers with the head of
//! a response alone. The connection is then taken apart instead of written to, and its socket goes to the [`TakeSocket`] that
//! the handler has chosen, which sends the head itself. What that does with the socket is not known here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::{HeaderMap, Response, Version};
use parking_lot::Mutex;

use crate::server::hold::Held;
use crate::server::socket::Socket;

/// A connection's offer of its socket. Cheap to clone.
#[derive(Clone, Default)]
pub struct Offer(Arc<State>);

#[derive(Default)]
struct State {
    taken: Mutex<Option<Upgrade>>,
    settled: Mutex<Option<TakeSocket>>,
    /// Whether `settled` holds something.
    ready: AtomicBool,
    /// Whether the transport has refused bytes that hyper still holds.
    blocked: AtomicBool,
}

/// Makes what takes the socket of the headers of the answer and of the version of the request.
type Upgrade = Box<dyn FnOnce(&HeaderMap, Version) -> TakeSocket + Send>;

/// Takes a socket, with what it holds for as long as it is open.
pub struct TakeSocket(Box<dyn FnOnce(Socket, Held) + Send>);

// === impl Offer ===

impl Offer {
    /// Takes up the offer. The answer to the request is then a head without a body, and `upgrade` is called with it.
    pub fn take_up(&self, upgrade: impl FnOnce(&HeaderMap, Version) -> TakeSocket + Send + 'static) {
        *self.0.taken.lock() = Some(Box::new(upgrade));
    }

    /// Completes the upgrade with the head of the answer to a request of this version. False if the offer was not taken up.
    pub fn settle<B>(&self, answer: &Response<B>, asked: Version) -> bool {
        let Some(upgrade) = self.0.taken.lock().take() else { return false };
        let take = upgrade(answer.headers(), asked);
        *self.0.settled.lock() = Some(take);
        self.0.ready.store(true, Relaxed);
        true
    }

    /// The transport took bytes, or refused to.
    pub fn blocked(&self, blocked: bool) {
        self.0.blocked.store(blocked, Relaxed);
    }

    /// What takes the socket, once hyper holds no earlier answer any more.
    pub fn settled(&self) -> Option<TakeSocket> {
        if !self.0.ready.load(Relaxed) || self.0.blocked.load(Relaxed) {
            return None;
        }
        self.0.settled.lock().take()
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").finish_non_exhaustive()
    }
}

// === impl TakeSocket ===

impl TakeSocket {
    /// Gives the socket to this function.
    pub fn new(take: impl FnOnce(Socket, Held) + Send + 'static) -> Self {
        Self(Box::new(take))
    }

    /// Takes the socket.
    pub fn take(self, socket: Socket, held: Held) {
        (self.0)(socket, held);
    }
}

impl fmt::Debug for TakeSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakeSocket").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_once_the_answer_is_there_and_nothing_is_left_to_write() {
        let (offer, answer) = (Offer::default(), Response::builder().header("a", "b").body(()).unwrap());
        assert!(!offer.settle(&answer, Version::HTTP_11), "not taken up");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        offer.take_up(move |headers, version| {
            seen.lock().push((headers.clone(), version));
            TakeSocket::new(|_, _| {})
        });
        assert!(offer.settled().is_none(), "no answer yet");
        offer.blocked(true);
        assert!(offer.settle(&answer, Version::HTTP_10));
        assert_eq!(*heads.lock(), [(answer.headers().clone(), Version::HTTP_10)]);
        assert!(offer.settled().is_none(), "hyper still holds an earlier answer");
        offer.blocked(false);
        assert!(offer.settled().is_some());
        assert!(offer.settled().is_none() && !offer.settle(&answer, Version::HTTP_11), "once");
    }
}
