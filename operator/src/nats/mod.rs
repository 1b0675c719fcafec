//! Streams at NATS, and how they are reached.

pub mod listing;
pub mod refusals;
pub mod streams;
