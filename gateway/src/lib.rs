//! Relays NATS messages to browsers as Server-Sent Events.
