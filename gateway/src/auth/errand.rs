//! What a request wants, as far as it is known before the channel is looked at.

use crate::auth::grant::Action;
use crate::limits::client::Client;

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub struct Errand<'e> {
    /// What it wants to do.
    pub action: Action,
    /// With the channel of this namespace,
    pub namespace: &'e str,
    /// and of this name, whether there is one or not.
    pub name: &'e str,
    /// Where it comes from.
    pub client: Client,
}
