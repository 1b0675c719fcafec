//! Whether the operator does its work: what `/readyz` answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Set by those who do the work, read by the admin port.
#[derive(Debug, Default)]
pub struct Ready {
    broker: AtomicBool,
    channels: AtomicBool,
    schema: Mutex<Option<String>>,
}

// === impl Ready ===

impl Ready {
    /// NATS is connected or not.
    pub fn set_broker(&self, connected: bool) {
        self.broker.store(connected, Ordering::Relaxed);
    }

    /// The Channels were read, or can no longer be read.
    pub fn set_channels(&self, read: bool) {
        self.channels.store(read, Ordering::Relaxed);
    }

    /// What is wrong with the definition of Channels, if anything is.
    pub fn set_schema(&self, fault: Option<String>) {
        *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// What is missing; empty means ready.
    pub fn missing(&self) -> Vec<String> {
        let facts = [(&self.broker, "NATS is not connected"), (&self.channels, "the Channels could not be read")];
        let missing = facts.into_iter().filter(|(fact, _)| !fact.load(Ordering::Relaxed));
        let schema = self.schema.lock().unwrap_or_else(PoisonError::into_inner).clone();
        missing.map(|(_, words)| words.to_owned()).chain(schema).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_says_what_is_missing() {
        let ready = Ready::default();
        assert_eq!(ready.missing().len(), 2);
        ready.set_channels(true);
        assert_eq!(ready.missing(), ["NATS is not connected"]);
        ready.set_broker(true);
        assert!(ready.missing().is_empty());
        ready.set_schema(Some("the definition is too old".into()));
        assert_eq!(ready.missing(), ["the definition is too old"]);
        ready.set_schema(None);
        ready.set_broker(false);
        assert_eq!(ready.missing(), ["NATS is not connected"]);
    }
}
