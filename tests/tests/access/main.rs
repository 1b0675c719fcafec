//! Who may subscribe and publish: every kind of token against every kind of channel, on the real gateway.

mod algorithms;
mod discretion;
mod grants;
mod house;
mod idempotency;
mod limits;
mod settings;
mod streams;
mod table;
