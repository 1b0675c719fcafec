//! What operator and gateway agree on: the Channel resource, the Route document, and the pure step between them.
//!
//! # Layout
//! - [`channel`]: the custom resource as users write it.
//! - [`subject`], [`topic`]: NATS subjects, the patterns over them, and what subscribers filter by.
//! - [`position`]: where a subscriber stands, written as an SSE id.
//! - [`route`]: what the operator tells gateways about one Channel.
//!
//! Nothing here does io, reads a clock or looks at the environment.

pub mod channel;
pub mod position;
pub mod route;
pub mod subject;
pub mod topic;
