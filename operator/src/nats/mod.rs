//! Streams at NATS, and how they are reached.

pub mod listing;
pub mod login;
pub mod refusals;
pub mod streams;
