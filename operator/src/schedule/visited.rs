//! What came of a visit to a Channel.

use kube::api::DynamicObject;

use crate::schedule::status::Account;

/// What a visit to a Channel that exists came to.
#[derive(Debug)]
pub struct Visited {
    /// What there is to say about it.
    pub account: Account,
    /// The Channel after a change of its finalizers.
    pub object: Option<DynamicObject>,
    /// Whether the same attempt can succeed a little later.
    pub again: bool,
}
