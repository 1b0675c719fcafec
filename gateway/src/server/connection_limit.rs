//! What a connection may cost, and how many there is room for.
//!
//! Each needs a file descriptor. A process without any can neither accept nor reconnect to NATS nor read a file, so the
//! public port stops accepting before that, and what it cannot take waits in the kernel's queue. Each needs memory as well, which a
//! control group may limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// For NATS, files, the admin port and the runtime.
const RESERVED: u32 = 128;

/// What a connection may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections; absent means what the open-file limit allows.
    pub connections: Option<u32>,
    /// Open connections of one address; 0 is no limit, absent half of all.
    pub per_address: Option<u32>,
    /// For the first request head, and the TLS handshake before it.
    pub header_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// For a peer that answers nothing, on the level of TCP.
    pub peer_timeout: Duration,
    /// For a subscriber that takes nothing of what waits for it.
    pub write_timeout: Duration,
    /// The largest request head.
    pub header_bytes: u32,
}

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

    /// Room for `wanted` connections, but no more than the open-file limit allows; raises the soft limit. Without `wanted`, for
    /// as many as that and the memory limit allow.
    pub fn within_limits(wanted: Option<u32>, memory: Option<u64>, tls: bool) -> Self {
        let files = raise_open_file_limit();
        let fits = files.saturating_sub(RESERVED).max(files / 2).max(1);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > fits) {
            warn!(wanted, fits, files, "The open-file limit allows fewer connections than configured.");
        }
        let fits_memory = memory.map_or(u32::MAX, |bytes| within_memory(bytes, tls));
        Self::new(wanted.unwrap_or(fits_memory).min(fits))
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

/// Three quarters of the memory, each connection as dear as it can be: one of HTTP/2 with one stream on it (37.8 kB over TLS,
/// 24.2 kB without, as measured; `docs/performance.md`). HTTP/1.1 costs a tenth of that.
fn within_memory(bytes: u64, tls: bool) -> u32 {
    let each = if tls { 40 << 10 } else { 26 << 10 };
    u32::try_from(bytes / 4 * 3 / each).unwrap_or(u32::MAX).max(1)
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
        assert!(Room::within_limits(None, None, false).most() < raise_open_file_limit());
        assert_eq!(Room::within_limits(Some(3), None, false).most(), 3);
    }

    #[test]
    fn the_memory_limit_counts_where_no_number_is_given() {
        assert_eq!(within_memory(512 << 20, true), 9_830);
        assert_eq!(within_memory(512 << 20, false), 15_123);
        assert_eq!(Room::within_limits(None, Some(4 << 20), true).most(), 76);
        assert_eq!(Room::within_limits(Some(100), Some(4 << 20), true).most(), 100, "the administrator knows better");
        assert_eq!(Room::within_limits(None, Some(0), true).most(), 1);
    }
}
