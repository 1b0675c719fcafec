//! Relays NATS messages to browsers as Server-Sent Events.

pub mod access;
pub mod channel_metrics;
pub mod client;
pub mod config;
pub mod cors;
pub mod drain;
pub mod end;
pub mod fanout;
pub mod feed;
pub mod frame;
pub mod index;
pub mod ingest;
pub mod instrument;
pub mod label;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod problem;
pub mod process;
pub mod publication;
pub mod query;
pub mod rate;
pub mod route_table;
pub mod routes;
pub mod telemetry;
pub mod unit;
