//! The signals that end the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, from now on.
pub struct Signals {
    term: Signal,
    int: Signal,
}

/// How the process was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM: nobody should notice.
    Orderly,
    /// SIGINT: a person waits at the keyboard.
    Quick,
}

// === impl Signals ===

impl Signals {
    /// Takes the signals over from their default, which would end the process at once.
    pub fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.term.recv() => Ask::Orderly,
            _ = self.int.recv() => Ask::Quick,
        }
    }
}
