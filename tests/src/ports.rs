//! TCP ports on 127.0.0.1 that stay the same over a restart.
//!
//! They come from below the range the kernel gives to outgoing connections, and a lock file keeps other test
//! processes away from each for as long as this one lives.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

/// Linux gives outgoing connections 32768 to 60999 (`net.ipv4.ip_local_port_range`).
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port nobody listens on, ours until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

// === impl Port ===

impl Port {
    /// The next free one.
    ///
    /// # Panics
    /// When none of the range is free.
    pub fn free() -> Self {
        let folder = std::env::temp_dir().join("tidings-test-ports");
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        // Each process starts elsewhere, so that two of them rarely meet at one lock.
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
        (0..COUNT)
            .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
            .find_map(|number| Self::take(&folder, number))
            .expect("one of 12,000 ports is free")
    }

    fn take(folder: &Path, number: u16) -> Option<Self> {
        let lock =
            File::options().create(true).truncate(false).write(true).open(folder.join(number.to_string())).ok()?;
        lock.try_lock().ok()?;
        // Without SO_REUSEADDR a port with connections in TIME_WAIT would be refused; std sets it on Unix.
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _lock: lock })
    }

    /// `127.0.0.1:number`.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }

    /// The number alone.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_are_not_given_out_twice() {
        let ports: Vec<Port> = (0..50).map(|_| Port::free()).collect();
        let distinct: std::collections::HashSet<_> = ports.iter().map(Port::number).collect();
        assert_eq!(distinct.len(), 50);
        let folder = std::env::temp_dir().join("tidings-test-ports");
        assert!(ports.iter().all(|port| Port::take(&folder, port.number).is_none()));
    }
}
