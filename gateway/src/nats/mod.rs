//! Connections to NATS, reading streams, and decoding messages.
//!
//! May use `log`, `metrics`, `runtime`.

pub mod acknowledgement;
pub mod connection;
pub mod connections;
pub mod decode;
pub mod publisher;
pub mod stream_reader;
