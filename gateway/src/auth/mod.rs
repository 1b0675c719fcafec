//! Authentication and authorization: who sends a request, and which topics that client may read or publish.
//!
//! May use `limits`, `metrics`, `runtime`.

pub mod authenticator;
pub mod claims;
pub mod credential;
pub mod current_settings;
pub mod denylist;
pub mod grant;
pub mod issuer;
pub mod jwks_client;
pub mod jwt;
pub mod key_set;
pub mod keyring;
pub mod policy;
pub mod principal;
pub mod review_cache;
pub mod token_review;
pub mod unknown_token_limit;
