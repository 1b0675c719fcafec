//! From event streams to bytes on sockets: one worker per core for HTTP/1.1, a streaming body for HTTP/2.
//!
//! May use `server`, `channel`, `log`, `metrics`.

pub mod batch_counts;
pub mod epoll;
pub mod feed_members;
pub mod h2_body;
pub mod handed;
pub mod io;
pub mod mailbox;
pub mod shard;
#[cfg(test)]
mod shard_tests;
pub mod workers;
