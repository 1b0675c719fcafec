//! The limits of one channel in this process, and of one client over all channels: open streams, new streams and POSTs
//! per second.
//!
//! The counts outlive a changed Route and changed settings; what they are held against is what is in force.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidings_crds::route::RouteLimits;

use crate::limits::client::Client;
use crate::limits::quota::Quota;
use crate::limits::token_bucket::Rate;
use crate::metrics::registry::TurnedAway;

/// What one channel has in use.
#[derive(Debug, Default)]
pub struct Usage(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: u32,
    clients: HashMap<Client, u32>,
    connects: Rate,
    posts: Rate,
    bytes: Rate,
}

/// What every client has in use, over all channels.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    clients: HashMap<Client, Counts>,
    /// How many there may be before those are looked for that have left.
    sweep_at: usize,
}

/// A client's place among all of them; free again when it is dropped.
#[derive(Debug)]
pub struct Presence {
    clients: Arc<Clients>,
    client: Client,
}

/// Below this nobody is looked for.
const CROWD: usize = 1024;

/// The place of one open stream; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    usage: Arc<Usage>,
    client: Client,
    /// Its place among all clients, given up with this one.
    _presence: Option<Presence>,
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
        Ok(Place { usage: self.clone(), client, _presence: None })
    }

    /// Counts one POST, or says how long to wait.
    pub fn post(&self, limits: &RouteLimits, now: Instant) -> Result<(), Duration> {
        limits.publish_per_second.map_or(Ok(()), |most| self.0.lock().posts.take(most, now))
    }

    /// Counts the bytes of a POST, or says how long to wait.
    pub fn post_bytes(&self, bytes: u64, quota: &Quota, now: Instant) -> Result<(), Duration> {
        quota.publish_bytes_per_second.map_or(Ok(()), |most| self.0.lock().bytes.take_many(bytes, most, now))
    }

    /// The open streams.
    pub fn open(&self) -> u32 {
        self.0.lock().open
    }
}

// === impl Clients ===

impl Clients {
    /// Counts one more stream of a client, or says which limit is in the way.
    pub fn admit(self: &Arc<Self>, quota: &Quota, client: Client, now: Instant) -> Result<Presence, TurnedAway> {
        let mut crowd = self.0.lock();
        let counts = crowd.of(client, now);
        if quota.connections.is_some_and(|most| counts.open >= most) {
            return Err(TurnedAway::Client);
        }
        if quota.connects_per_second.is_some_and(|most| counts.connects.take(most, now).is_err()) {
            return Err(TurnedAway::ClientRate);
        }
        counts.open = counts.open.saturating_add(1);
        Ok(Presence { clients: self.clone(), client })
    }

    /// Counts one POST of a client, or says how long to wait.
    pub fn post(&self, quota: &Quota, client: Client, now: Instant) -> Result<(), Duration> {
        quota.publish_per_second.map_or(Ok(()), |most| self.0.lock().of(client, now).posts.take(most, now))
    }

    /// Counts the bytes of a POST, or says how long to wait.
    pub fn post_bytes(&self, bytes: u64, quota: &Quota, client: Client, now: Instant) -> Result<(), Duration> {
        let most = quota.publish_bytes_per_second;
        most.map_or(Ok(()), |most| self.0.lock().of(client, now).bytes.take_many(bytes, most, now))
    }
}

// === impl Crowd ===

impl Crowd {
    /// The counts of a client. Those who have left and owe nothing are forgotten whenever their number has doubled.
    fn of(&mut self, client: Client, now: Instant) -> &mut Counts {
        if self.clients.len() >= self.sweep_at.max(CROWD) {
            self.clients.retain(|_, counts| counts.is_needed(now));
            self.clients.shrink_to(CROWD);
            self.sweep_at = self.clients.len() * 2;
        }
        self.clients.entry(client).or_default()
    }
}

// === impl Counts ===

impl Counts {
    fn is_needed(&self, now: Instant) -> bool {
        self.open > 0 || ![&self.connects, &self.posts, &self.bytes].iter().all(|rate| rate.is_idle(now))
    }
}

// === impl Presence ===

impl Drop for Presence {
    fn drop(&mut self) {
        let mut crowd = self.clients.0.lock();
        if let Entry::Occupied(mut own) = crowd.clients.entry(self.client) {
            own.get_mut().open = own.get().open.saturating_sub(1);
        }
    }
}

// === impl Place ===

impl Place {
    /// The same, with the client's place among all clients.
    pub fn of(mut self, presence: Presence) -> Self {
        self._presence = Some(presence);
        self
    }
}

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
    fn a_client_is_limited_over_all_channels() {
        let (clients, now) = (Arc::new(Clients::default()), Instant::now());
        let quota = Quota {
            connections: Some(2),
            connects_per_second: Some(3),
            publish_per_second: Some(1),
            publish_bytes_per_second: Some(10),
        };
        let first = clients.admit(&quota, client(1), now).unwrap();
        let _second = clients.admit(&quota, client(1), now).unwrap();
        assert_eq!(clients.admit(&quota, client(1), now).unwrap_err(), TurnedAway::Client);
        assert!(clients.admit(&quota, client(2), now).is_ok(), "another one");
        drop(first);
        let _third = clients.admit(&quota, client(1), now).unwrap();
        drop(_second);
        assert_eq!(clients.admit(&quota, client(1), now).unwrap_err(), TurnedAway::ClientRate);
        assert_eq!(clients.post(&quota, client(1), now), Ok(()));
        assert!(clients.post(&quota, client(1), now).is_err());
        assert_eq!(clients.post_bytes(10, &quota, client(1), now), Ok(()));
        assert!(clients.post_bytes(1, &quota, client(1), now).is_err());
        assert!(clients.admit(&Quota::default(), client(1), now).is_ok());
    }

    #[test]
    fn a_crowd_that_has_left_is_forgotten() {
        let (clients, now) = (Arc::new(Clients::default()), Instant::now());
        let quota = Quota { publish_per_second: Some(1), ..Quota::default() };
        let many = |from: u32, at: Instant| {
            for n in from..from + 5_000 {
                let _ = clients.post(&quota, Client::from(IpAddr::from(n.to_be_bytes())), at);
            }
        };
        let stays = clients.admit(&quota, client(1), now).unwrap();
        many(0, now);
        for minute in 1..10 {
            many(5_000 * minute, now + Duration::from_secs(60 * u64::from(minute)));
        }
        let known = clients.0.lock().clients.len();
        assert!(known < 20_000, "{known} of 50,000");
        assert!(clients.0.lock().clients.contains_key(&client(1)));
        drop(stays);
    }

    #[test]
    fn posts_have_a_rate_of_their_own() {
        let (usage, now) = (Arc::new(Usage::default()), Instant::now());
        let limits = RouteLimits { publish_per_second: Some(2), ..RouteLimits::default() };
        assert_eq!((usage.post(&limits, now), usage.post(&limits, now)), (Ok(()), Ok(())));
        assert_eq!(usage.post(&limits, now), Err(Duration::from_millis(500)));
    }
}
