//! The custom resource as users write it, its rules, its schema, and what the operator answers.

pub mod access;
pub mod channel;
pub mod condition;
pub mod definition;
pub mod events;
pub mod history;
pub mod limits;
pub mod quantity;
pub mod reference;
pub mod rule;
pub mod schema;
pub mod status;
