//! Relays NATS messages to browsers as Server-Sent Events.

pub mod channel_metrics;
pub mod end;
pub mod instrument;
pub mod label;
pub mod metrics;
pub mod process;
