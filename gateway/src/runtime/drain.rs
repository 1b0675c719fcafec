//! Leaving without anybody noticing: the phases from SIGTERM to the end of the process.
//!
//! ```text
//! Serving ──SIGTERM──▶ Leaving ──delay──▶ Draining ──empty, or window over──▶ end
//! ready                 unready, serves    sends new subscribers away,
//!                       everybody          ends the open streams evenly
//! ```
//! The delay is the time that load balancers need to take an unready gateway off their lists.

use std::time::Duration;

use tokio::sync::watch;

/// Where the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Ready for everybody.
    Serving,
    /// No longer ready, but serving everybody who still comes.
    Leaving,
    /// New subscribers are sent away, open streams end.
    Draining,
}

/// How long each phase lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// How long the gateway goes on serving after it became unready.
    pub delay: Duration,
    /// Over which time the open streams end.
    pub window: Duration,
}

/// The phase, for all who need it.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

// === impl Drain ===

impl Drain {
    /// A process that serves.
    pub fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to this phase; never back.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = *now < phase;
            *now = phase.max(*now);
            forward
        });
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_go_one_way() {
        let drain = Drain::new();
        assert_eq!(drain.phase(), Phase::Serving);
        drain.enter(Phase::Draining);
        drain.enter(Phase::Leaving);
        assert_eq!(drain.phase(), Phase::Draining);
    }
}
