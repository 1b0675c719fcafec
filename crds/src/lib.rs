//! What operator and gateway agree on: the Channel resource, the Route document, and the pure step between them.
//!
//! # Layout
//! - [`channel`]: the custom resource as users write it; its parts in [`history`], [`events`], [`access`], [`limits`],
//!   [`quantity`]; [`status`] and [`condition`]: what the operator answers.
//! - [`desired`]: the pure step from a Channel to its [`stream`] and its [`route`], or to a refusal; [`grants`] and
//!   [`claims`]: which subjects it may have. [`key`] names a Channel.
//! - [`rule`]: what a specification must satisfy, in CEL and in Rust; [`definition`]: the
//!   CustomResourceDefinition; [`schema`]: its schema, applied without an API server; [`fault`]: what is wrong
//!   where, and [`locate`] the line of it; [`mod@reference`]: the page about it in the documentation.
//! - [`subject`], [`topic`], [`template`]: NATS subjects, the patterns over them, what subscribers filter by, and what
//!   they are granted.
//! - [`manifest`]: Channels written in files.
//! - [`position`]: where a subscriber stands, written as an SSE id.
//! - [`login`]: what either shows to NATS, and how the files that hold it are read.
//! - [`route`]: what the operator tells gateways about one Channel; [`beat`]: what gateways tell the operator about
//!   themselves; [`release`]: the installation that both belong to.
//!
//! Nothing here does io, reads a clock or looks at the environment.

pub mod access;
pub mod beat;
pub mod channel;
pub mod claims;
pub mod condition;
pub mod definition;
pub mod desired;
pub mod events;
pub mod fault;
pub mod grants;
pub mod history;
pub mod key;
pub mod limits;
pub mod locate;
pub mod login;
pub mod manifest;
pub mod nesting;
pub mod objection;
pub mod origin;
pub mod position;
pub mod quantity;
pub mod quota;
pub mod reference;
pub mod release;
pub mod route;
pub mod rule;
pub mod schema;
pub mod status;
pub mod stream;
pub mod subject;
pub mod template;
pub mod topic;
pub mod topic_set;
