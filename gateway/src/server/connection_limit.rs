//! How many connections there is room for.
//!
//! Each needs a file descriptor. A process without any can neither accept nor reconnect to NATS nor read a file, so the
//! public port stops accepting before that, and what it cannot take waits in the kernel's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// For NATS, files, the admin port and the runtime.
const RESERVED: u32 = 128;

/// The room for connections on one port.
#[derive(Debug)]
pub struct Room {
    free: Arc<Semaphore>,
    most: u32,
    entered: AtomicU64,
}

// === impl Room ===

impl Room {
    /// Room for so many connections.
    pub fn new(most: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(most as usize)), most, entered: AtomicU64::new(0) }
    }

    /// Room for `wanted` connections, or for as many as the open-file limit allows; raises the soft limit.
    pub fn within_open_file_limit(wanted: Option<u32>) -> Self {
        let files = raise_open_file_limit();
        let fits = files.saturating_sub(RESERVED).max(files / 2).max(1);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > fits) {
            warn!(wanted, fits, files, "The open-file limit allows fewer connections than asked for.");
        }
        Self::new(wanted.unwrap_or(fits).min(fits))
    }

    /// Takes a place, if one is free.
    pub fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        self.counted(self.free.clone().try_acquire_owned().ok())
    }

    /// Takes the next place that is free.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.counted(self.free.clone().acquire_owned().await.ok())
    }

    fn counted(&self, place: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        if place.is_some() {
            self.entered.fetch_add(1, Relaxed);
        }
        place
    }

    /// How many connections there have been, those that are open included.
    pub fn entered(&self) -> u64 {
        self.entered.load(Relaxed)
    }

    /// Whether only the last sixteenth is free: room to send people away, none to let them stay.
    pub fn is_tight(&self) -> bool {
        self.free.available_permits() < (self.most / 16) as usize
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.most.saturating_sub(u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX))
    }

    /// How many connections there is room for.
    pub fn most(&self) -> u32 {
        self.most
    }
}

/// Returns the limit in force.
fn raise_open_file_limit() -> u32 {
    let before = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before }) {
        warn!(%error, "Failed to raise the open-file limit.");
    }
    getrlimit(Resource::Nofile)
        .current
        .map_or(u32::MAX, |files| u32::try_from(files).unwrap_or(u32::MAX))
        // A semaphore's limit on 32-bit machines; far beyond what one process can serve.
        .min(1 << 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sixteenth_is_tight() {
        let room = Room::new(32);
        let places: Vec<_> = (0..30).map(|_| room.try_enter().unwrap()).collect();
        assert!(!room.is_tight());
        let last = room.try_enter();
        assert!(room.is_tight() && last.is_some());
        drop(places);
        assert!(!room.is_tight());
    }

    #[test]
    fn a_small_room_is_never_tight_before_it_is_full() {
        let room = Room::new(1);
        assert!(!room.is_tight());
        let _only = room.try_enter();
        assert!(room.try_enter().is_none());
    }

    #[test]
    fn the_open_file_limit_leaves_a_reserve() {
        assert!(Room::within_open_file_limit(None).most() < raise_open_file_limit());
        assert_eq!(Room::within_open_file_limit(Some(3)).most(), 3);
    }
}
