//! What operator and gateway agree on: the Channel resource, the Route document, and the pure step between them.
//!
//! # Layout
//! - [`channel`]: the custom resource as users write it; its parts in [`history`], [`events`], [`access`], [`limits`],
//!   [`quantity`]; [`status`] and [`condition`]: what the operator answers.
//! - [`rule`]: what a specification must satisfy, in CEL and in Rust; [`definition`]: the CustomResourceDefinition.
//! - [`subject`], [`topic`], [`template`]: NATS subjects, the patterns over them, what subscribers filter by, and what
//!   they are granted.
//! - [`position`]: where a subscriber stands, written as an SSE id.
//! - [`route`]: what the operator tells gateways about one Channel.
//!
//! Nothing here does io, reads a clock or looks at the environment.

pub mod access;
pub mod channel;
pub mod condition;
pub mod definition;
pub mod events;
pub mod fault;
pub mod history;
pub mod limits;
pub mod position;
pub mod quantity;
pub mod route;
pub mod rule;
pub mod status;
pub mod subject;
pub mod template;
pub mod topic;
