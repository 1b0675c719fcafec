//! How the gateway leaves: unready at once, then its streams end evenly, then its connections.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::delivery::workers::Shards;
use crate::run::parts::Parts;
use crate::runtime::drain::{DrainTimes, Phase};
use crate::runtime::tasks::CoreTasks;
use crate::server::connection::Departure;
use crate::signal::Signals;

/// What is to end.
pub(super) struct Leaving {
    pub(super) parts: Parts,
    /// Ends the connections of the public port.
    pub(super) departure: Departure,
    pub(super) shards: Shards,
    pub(super) public: JoinHandle<()>,
    pub(super) tasks: CoreTasks,
}

/// From the last stream's end to the last connection's.
const CLOSING: Duration = Duration::from_secs(2);

/// Beyond the drain window, for streams that are slow to end.
const LATE: Duration = Duration::from_secs(3);

// === impl Leaving ===

impl Leaving {
    /// Ends everything in order; a further signal ends it at once.
    pub(super) async fn leave(self, times: DrainTimes, mut signals: Signals) {
        let Self { parts, departure, shards, public, tasks } = self;
        tokio::select! {
            () = parts.end_streams(times, &departure) => {}
            _ = signals.next() => {
                warn!(subscribers = parts.hub.subscribers(), "Received a second signal; stopping at once.");
                return;
            }
        }
        departure.close.cancel();
        // The last events are on their way to clients that have yet to close.
        let _ = timeout(CLOSING, shards.until_empty()).await;
        if timeout(CLOSING, public).await.is_err() {
            warn!("Some connections did not close in time.");
        }
        if timeout(CLOSING, parts.hub.close()).await.is_err() {
            warn!(still = ?tasks.running(), "The connections to NATS did not close in time.");
        }
        info!("Ended.");
    }
}

// === impl Parts ===

impl Parts {
    /// From the signal to the last stream's end.
    async fn end_streams(&self, times: DrainTimes, departure: &Departure) {
        let Self { hub, drain, metrics, .. } = self;
        info!(subscribers = hub.subscribers(), delay = ?times.delay, window = ?times.window, "Shutting down.");
        metrics.draining();
        drain.enter(Phase::Leaving);
        sleep(times.delay).await;
        drain.enter(Phase::Draining);
        departure.last.cancel();
        info!(subscribers = hub.subscribers(), "Draining.");
        hub.drain(times.window);
        let deadline = Instant::now() + times.window + LATE;
        while hub.subscribers() > 0 {
            if Instant::now() >= deadline {
                warn!(subscribers = hub.subscribers(), "Some streams did not end in time.");
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}
