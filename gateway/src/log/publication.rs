//! A message on its way in, after everything hostile has been taken off it.

use bytes::Bytes;
use tidings_crds::position::Stamp;

/// The longest event type passed on, in bytes; a longer one is left out.
pub const MAX_EVENT_BYTES: usize = 256;

/// The prefix that control events have to themselves.
pub const CONTROL_PREFIX: &str = "tidings.";

/// Milliseconds since 1970, as the server stored the message.
pub type Millis = u64;

/// A stored message that a channel will show its subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The stream sequence, from 1. Ephemeral channels count for themselves.
    pub sequence: u64,
    /// When the server stored it.
    pub time: Millis,
    /// What stands behind the channel's base subject.
    pub topic: Box<str>,
    /// The event type, if the publisher gave one.
    pub event: Option<EventType>,
    /// The bytes published.
    pub data: Bytes,
    /// A server's delete marker: it takes a sequence, and nobody is shown it.
    pub marker: bool,
    /// It lies on a subject that the Route does not have: one that the channel had once, or one that it is about to get.
    pub unrouted: bool,
}

/// What stands behind `event:`: without CR, LF and NUL, not empty, not a control event's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType(Box<str>);

/// Why a publisher's event type is not passed on. The event itself is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// Nothing is left of it.
    #[error("an event type has at least one character that is not CR, LF or NUL")]
    Empty,
    /// Longer than [`MAX_EVENT_BYTES`].
    #[error("an event type has at most {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// It would pass for a control event.
    #[error("event types that start with \"{CONTROL_PREFIX}\" are Tidings' own")]
    Reserved,
}

// === impl Publication ===

impl Publication {
    /// Whether subscribers are shown it.
    pub fn is_shown(&self) -> bool {
        !self.marker && !self.unrouted
    }

    /// The stamp of its position.
    pub fn stamp(&self) -> Stamp {
        Stamp::from_millis(self.time)
    }
}

// === impl EventType ===

impl EventType {
    /// Takes what a publisher wrote: the one place where an event type loses CR, LF and NUL.
    pub fn new(text: &str) -> Result<Self, EventTypeError> {
        let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')).collect();
        if clean.is_empty() {
            Err(EventTypeError::Empty)
        } else if clean.len() > MAX_EVENT_BYTES {
            Err(EventTypeError::TooLong)
        } else if clean.starts_with(CONTROL_PREFIX) {
            Err(EventTypeError::Reserved)
        } else {
            Ok(Self(clean.into()))
        }
    }

    /// As it is written into the stream.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_type_loses_line_ends_and_nul() {
        assert_eq!(EventType::new("a\r\nb\0c").unwrap().as_str(), "abc");
        assert_eq!(EventType::new("\r\n"), Err(EventTypeError::Empty));
        assert_eq!(EventType::new("tidings.gap"), Err(EventTypeError::Reserved));
        assert_eq!(EventType::new("\ntidings.gap"), Err(EventTypeError::Reserved));
        assert_eq!(EventType::new(&"x".repeat(257)), Err(EventTypeError::TooLong));
    }
}
