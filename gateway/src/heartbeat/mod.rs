//! What this gateway reports over NATS: heartbeats for the operator, and the NATS service.
//!
//! May use `channel`, `routes`, `nats` and what they use.

pub mod nats_service;
pub mod schedule;
pub mod sender;
