//! Ports, TLS and connections.
//!
//! May use `limits`, `metrics`, `runtime`.

pub mod accept;
pub mod activity;
pub mod address_limit;
pub mod async_fd;
pub mod certificate;
pub mod certificate_expiry;
pub mod connection;
pub mod connection_limit;
pub mod hold;
pub mod listener;
pub mod memory_limit;
pub mod reset_budget;
pub mod socket;
pub mod socket_io;
pub mod stream_progress;
pub mod tcp;
pub mod tls;
pub mod tls_session;
pub mod upgrade;
