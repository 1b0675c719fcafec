//! The event log of a channel and the decisions about order and fan-out. Synchronous: no I/O, no clock.
//!
//! May use nothing else in this crate.

pub mod chunk;
pub mod chunked;
pub mod end_reason;
pub mod event_log;
pub mod extent;
pub mod fanout;
pub mod feed;
pub mod frame;
pub mod identity;
pub mod ingest;
pub mod publication;
mod shared_reads;
pub mod topic_index;
