//! What a shard's visit to some sockets has delivered, counted once for all of them.

use std::time::Duration;

use crate::channel::event_stream::{Events, age};
use crate::metrics::channel::ChannelMetrics;

/// What a visit has delivered.
#[derive(Debug, Default)]
pub struct Tally {
    events: u64,
    bytes: u64,
    /// How many sockets were sent live events of the same age, one after the other.
    age: Option<(Duration, u64)>,
}

// === impl Tally ===

impl Tally {
    /// Adds what one socket is sent at `wall`, in milliseconds since 1970.
    pub fn count(&mut self, metrics: &ChannelMetrics, events: &Events, wall: u64) {
        self.events += events.batch.events;
        self.bytes += events.batch.bytes.len() as u64;
        if !events.live {
            return;
        }
        let age = age(&events.batch, wall);
        match &mut self.age {
            Some((same, sockets)) if *same == age => *sockets += 1,
            other => {
                if let Some((age, sockets)) = other.replace((age, 1)) {
                    metrics.delivery_latency(age, sockets);
                }
            }
        }
    }

    /// Tells the channel.
    pub fn tell(self, metrics: &ChannelMetrics) {
        if self.events > 0 {
            metrics.delivered(self.events, self.bytes);
        }
        if let Some((age, sockets)) = self.age {
            metrics.delivery_latency(age, sockets);
        }
    }
}
