//! What is next in a cluster, and what is said about it. Pure: news go in with the time, jobs come out.

pub mod channel_store;
pub mod event_reasons;
pub mod gateways;
pub mod observed;
pub mod ready;
pub mod scheduler;
pub mod status;
pub mod status_rate;
pub mod stream_inventory;
pub mod visited;
pub mod work_queue;
