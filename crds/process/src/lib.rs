//! What operator and gateway have in common as processes: their log, their login to NATS, the addresses that they listen on.
//!
//! `tidings-crds` is what the two agree on, and does no io; this is how each of them does the same to the world.

pub mod error_chain;
pub mod listen;
pub mod log_writer;
pub mod logging;
pub mod nats_login;
