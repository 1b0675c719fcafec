//! Authentication and authorization: who sends a request, and which topics that client may read or publish.
//!
//! May use `limits`, `metrics`, `runtime`.

pub mod authenticator;
pub mod claims;
pub mod credential;
pub mod current_settings;
pub mod denylist;
pub mod errand;
pub mod grant;
pub mod issuer;
pub mod jwks_client;
pub mod jwt;
pub mod key_files;
pub mod key_set;
pub mod keyring;
pub mod lru_cache;
pub mod metrics;
pub mod policy;
pub mod principal;
pub mod review_budget;
pub mod review_cache;
pub mod review_table;
#[cfg(test)]
pub(crate) mod route_fixture;
pub mod settings;
pub mod token_review;
