//! What operator and gateway agree on: the Channel resource, the Route document, and the pure step between them.
//!
//! # Layout
//! One folder for each concern; a folder uses only those below it.
//!
//! | folder | holds |
//! |---|---|
//! | [`manifest`] | Channels written in files, and the line of a fault |
//! | [`desired`] | the pure step from a Channel to its stream and its Route, or to a refusal |
//! | [`protocol`] | what operator, gateways and clients say to each other and to NATS: Routes, beats, positions, logins |
//! | [`api`] | the custom resource as users write it, its rules in CEL and in Rust, its schema, its conditions |
//! | [`name`] | Channels, subjects, topics, templates, faults: how things are called |
//!
//! Each module is found here by its own name as well. Nothing here does io, reads a clock or looks at the environment.

pub mod api;
pub mod desired;
pub mod manifest;
pub mod name;
pub mod protocol;

pub use api::{
    access, channel, condition, definition, events, history, limits, quantity, reference, rule, schema, status,
};
pub use desired::{claims, grants, objection, quota, rejection, stream};
pub use manifest::{locate, nesting};
pub use name::{fault, key, label, origin, subject, template, topic, topic_filter, topic_set};
pub use protocol::{beat, login, position, release, route};
