//! What operator, gateways and clients say to each other and to NATS.

pub mod beat;
pub mod login;
pub mod position;
pub mod release;
pub mod route;
