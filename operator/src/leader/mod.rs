//! Which of several operators writes, and calls to the API server that ask first.

pub mod elector;
pub mod fenced_api;
pub mod lease;
