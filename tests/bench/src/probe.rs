//! New connections while events flow: how long each takes to its head. On a thread of its own, for the load's would be
//! busy with the very events that the probe comes between.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::latency::Latency;

/// Probes that go on until they are stopped.
pub(crate) struct Probes {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Latency>>,
}

/// Not a divisor of any case's period, so that probes fall everywhere between publications.
const EVERY: Duration = Duration::from_millis(17);

const PATIENCE: Duration = Duration::from_secs(5);

// === impl Probes ===

impl Probes {
    pub(crate) fn start(address: SocketAddr, request: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = spawn(move || {
            // Before the load's thread, whenever both want the core. Without the right to it the figure is only worse.
            let _ = rustix::process::nice(-15);
            let mut heads = Latency::new();
            while !stopped.load(Relaxed) {
                heads.observe(head(address, &request)?.as_nanos() as u64);
                sleep(EVERY);
            }
            Ok(heads)
        });
        Self { stop, thread }
    }

    /// How long the heads took.
    pub(crate) fn stop(self) -> Result<Latency> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow!("a probe panicked"))?
    }
}

fn head(address: SocketAddr, request: &str) -> Result<Duration> {
    let began = Instant::now();
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    let mut first = [0; 12];
    socket.read_exact(&mut first)?;
    let took = began.elapsed();
    ensure!(first == *b"HTTP/1.1 200", "a probe was not let in");
    Ok(took)
}
