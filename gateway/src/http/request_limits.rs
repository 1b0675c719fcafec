//! What a request may cost.

use std::time::Duration;

use crate::limits::client::{ForwardedHeader, Network};

/// What a request may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Open streams over all channels.
    pub subscribers: Option<u64>,
    /// For the body of a POST.
    pub body_timeout: Duration,
    /// The largest body of a POST.
    pub publish_bytes: u64,
    /// Whose word about a client's address is believed.
    pub trusted_proxies: Vec<Network>,
    /// Which header they write.
    pub forwarded_header: ForwardedHeader,
}
