//! A live channel with its event streams, and the hub of all of them.
//!
//! May use `auth`, `limits`, `nats`, `log`, `metrics`, `runtime`.

pub mod access_lease;
pub mod backfill;
pub mod concurrency_limit;
pub mod drain_schedule;
pub mod event_stream;
pub mod hub;
pub mod live;
pub mod relay;
pub mod resume;
pub mod snapshot;
pub mod stream_epochs;
pub mod subscriber;
