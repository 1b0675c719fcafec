//! The limits of one channel in this process: open streams, streams of one client, new streams and POSTs per second.
//!
//! The counts outlive a changed Route; the limits they are held against are those of the Route in force.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidings_crds::route::RouteLimits;

use crate::client::Client;
use crate::metrics::TurnedAway;
use crate::rate::Rate;

/// What one channel has in use.
#[derive(Debug, Default)]
pub struct Usage(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: u32,
    clients: HashMap<Client, u32>,
    connects: Rate,
    posts: Rate,
}

/// The place of one open stream; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    usage: Arc<Usage>,
    client: Client,
}

// === impl Usage ===

impl Usage {
    /// Takes the place of one stream, or says which limit is in the way.
    pub fn admit(self: &Arc<Self>, limits: &RouteLimits, client: Client, now: Instant) -> Result<Place, TurnedAway> {
        let mut counts = self.0.lock();
        if limits.connections.is_some_and(|most| counts.open >= most) {
            return Err(TurnedAway::Connections);
        }
        let own = counts.clients.get(&client).copied().unwrap_or_default();
        if limits.connections_per_client.is_some_and(|most| own >= most) {
            return Err(TurnedAway::Client);
        }
        if limits.connects_per_second.is_some_and(|most| counts.connects.take(most, now).is_err()) {
            return Err(TurnedAway::ConnectRate);
        }
        counts.open = counts.open.saturating_add(1);
        counts.clients.insert(client, own.saturating_add(1));
        Ok(Place { usage: self.clone(), client })
    }

    /// Counts one POST, or says how long to wait.
    pub fn post(&self, limits: &RouteLimits, now: Instant) -> Result<(), Duration> {
        limits.publish_per_second.map_or(Ok(()), |most| self.0.lock().posts.take(most, now))
    }

    /// The open streams.
    pub fn open(&self) -> u32 {
        self.0.lock().open
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.usage.0.lock();
        counts.open = counts.open.saturating_sub(1);
        if let Entry::Occupied(mut own) = counts.clients.entry(self.client) {
            match own.get().saturating_sub(1) {
                0 => drop(own.remove()),
                left => drop(own.insert(left)),
            }
        }
        // A crowd that has left leaves no room behind.
        if counts.clients.is_empty() {
            counts.clients.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn client(n: u8) -> Client {
        Client::from(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn each_limit_turns_away_under_its_own_name() {
        let (usage, now) = (Arc::new(Usage::default()), Instant::now());
        let limits = RouteLimits {
            connections: Some(3),
            connections_per_client: Some(2),
            connects_per_second: Some(4),
            ..RouteLimits::default()
        };
        let first = usage.admit(&limits, client(1), now).unwrap();
        let second = usage.admit(&limits, client(1), now).unwrap();
        assert_eq!(usage.admit(&limits, client(1), now).unwrap_err(), TurnedAway::Client);
        let third = usage.admit(&limits, client(2), now).unwrap();
        assert_eq!(usage.admit(&limits, client(3), now).unwrap_err(), TurnedAway::Connections);
        drop((first, second));
        let fourth = usage.admit(&limits, client(1), now).unwrap();
        assert_eq!(usage.admit(&limits, client(3), now).unwrap_err(), TurnedAway::ConnectRate);
        drop((third, fourth));
        assert_eq!((usage.open(), usage.0.lock().clients.len()), (0, 0));
    }

    #[test]
    fn absent_limits_do_not_limit() {
        let (usage, now) = (Arc::new(Usage::default()), Instant::now());
        let places: Vec<_> = (0..5_000).map(|_| usage.admit(&RouteLimits::default(), client(1), now)).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(usage.open(), 5_000);
        assert_eq!(usage.post(&RouteLimits::default(), now), Ok(()));
    }

    #[test]
    fn posts_have_a_rate_of_their_own() {
        let (usage, now) = (Arc::new(Usage::default()), Instant::now());
        let limits = RouteLimits { publish_per_second: Some(2), ..RouteLimits::default() };
        assert_eq!((usage.post(&limits, now), usage.post(&limits, now)), (Ok(()), Ok(())));
        assert_eq!(usage.post(&limits, now), Err(Duration::from_millis(500)));
    }
}
