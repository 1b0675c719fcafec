//! From a request to a response: routing, authorization, CORS, problem documents and the admin port.
//!
//! May use every other room but `heartbeat`.

pub mod admin;
pub mod app;
pub mod authorize;
pub mod cors;
pub mod demo;
pub mod host;
pub mod lingering;
pub mod problem;
pub mod publish;
pub mod query;
pub mod request_limits;
pub mod response;
pub mod retry;
pub mod router;
pub mod subscribe;
