//! What speaks against Channels that are in order by themselves: quotas, and the subjects of others. Pure.

use std::collections::BTreeMap;

use crate::api::channel::Channel;
use crate::desired::claims::{Claim, Claims};
use crate::desired::quota::Demand;
use crate::desired::rejection::Rejection;
use crate::desired::{Installation, subjects};
use crate::name::key::ChannelKey;
use crate::name::subject::Pattern;

/// What speaks against each of these Channels, all of them from files; `held` is what streams store at present, also those
/// without a Channel. A Channel that a quota refuses claims no subjects.
pub fn objections(
    channels: &BTreeMap<ChannelKey, &Channel>,
    held: &BTreeMap<ChannelKey, Vec<Pattern>>,
    installation: &Installation,
) -> BTreeMap<ChannelKey, Rejection> {
    let wanted = channels.iter().filter_map(|(key, channel)| {
        let subjects = subjects(channel, &installation.grants).ok()?;
        Some((key.clone(), (*channel, subjects)))
    });
    let wanted: BTreeMap<ChannelKey, (&Channel, Vec<Pattern>)> = wanted.collect();
    let demands = wanted.iter().map(|(key, (channel, _))| (key.clone(), Demand::of(channel, None))).collect();
    let mut objections = installation.quotas.exceeded(&demands);
    let mut claims = Claims::default();
    for key in channels.keys().chain(held.keys()) {
        let subjects = wanted.get(key).filter(|_| !objections.contains_key(key));
        let subjects = subjects.map(|(_, subjects)| subjects.clone()).unwrap_or_default();
        let held = held.get(key).cloned().unwrap_or_default();
        claims.set(key.clone(), Claim { created: None, subjects, held });
    }
    for (key, conflict) in claims.conflicts() {
        objections.entry(key).or_insert_with(|| Rejection::from(&conflict));
    }
    objections
}
