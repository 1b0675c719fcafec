//! Relays NATS messages to browsers as Server-Sent Events.
//!
//! # Layout
//! One folder for each concern, from the outside to the inside; a folder uses only those below it. `docs/architecture.md`
//! follows an event through them.
//!
//! | folder | holds |
//! |---|---|
//! | [`run`], [`signal`], [`memory_trim`], [`config`] | the process: it starts, owns every task, and shuts down |
//! | [`http`] | from a request to a response |
//! | [`heartbeat`] | what this gateway reports over NATS |
//! | [`delivery`] | from event streams to bytes on sockets |
//! | [`server`] | ports, TLS and connections |
//! | [`channel`] | a live channel with its event streams |
//! | [`routes`] | the Routes in force, and where they are read from |
//! | [`auth`] | authentication and authorization |
//! | [`limits`] | limits per client and per channel |
//! | [`nats`] | connections to NATS, reading and decoding |
//! | [`log`] | the event log of a channel, order and fan-out: no I/O, no clock |
//! | [`metrics`] | what is counted, and how it is exposed |
//! | [`runtime`] | essential tasks, draining, watched files, units |
//!
//! Whatever decides is synchronous and takes `now` as an argument; whatever waits decides nothing.

pub mod auth;
pub mod channel;
pub mod config;
pub mod delivery;
pub mod heartbeat;
pub mod http;
pub mod limits;
pub mod log;
pub mod memory_trim;
pub mod metrics;
#[cfg(test)]
mod metrics_reference;
pub mod nats;
pub mod routes;
pub mod run;
pub mod runtime;
pub mod server;
pub mod signal;
