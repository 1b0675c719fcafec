//! Commands that run once: checking manifests, applying the definition of Channels, trying an installation.

pub mod check;
pub mod crd_apply;
pub mod smoke_test;
pub mod smoke_test_http;
pub mod smoke_test_tls;
