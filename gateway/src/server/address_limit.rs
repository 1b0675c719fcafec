//! How many connections one address may hold, whatever it does with them: before any request, and so before any token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::client::{Client, Network};

/// Connections by address: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from.
#[derive(Debug)]
pub struct AddressLimit {
    most: u32,
    exempt: Exempt,
    open: Mutex<HashMap<Client, u32>>,
}

/// Whose connections are not counted: many clients stand behind each.
#[derive(Debug)]
struct Exempt {
    proxies: Vec<Network>,
    loopback: bool,
}

/// One connection of an address, for as long as it is open.
#[derive(Debug)]
pub struct AddressPlace {
    limit: Arc<AddressLimit>,
    client: Client,
}

/// An address has as many connections as allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressFull;

// === impl AddressLimit ===

impl AddressLimit {
    /// At most so many for each address but those of `proxies`; 0 is no limit. Unset it is half of all connections, and does not
    /// count what comes from this machine: a proxy on it.
    pub fn new(asked: Option<u32>, all: u32, proxies: Vec<Network>) -> Arc<Self> {
        let most = match asked {
            Some(0) => u32::MAX,
            Some(most) => most,
            None => (all / 2).max(1),
        };
        let exempt = Exempt { proxies, loopback: asked.is_none() };
        Arc::new(Self { most, exempt, open: Mutex::default() })
    }

    /// How many each address may hold; 0 is no limit.
    pub fn most(&self) -> u32 {
        if self.most == u32::MAX { 0 } else { self.most }
    }

    /// Takes a place for a connection from this address. Nothing for one that is not counted.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Option<AddressPlace>, AddressFull> {
        if self.most == u32::MAX || self.exempt.contains(address) {
            return Ok(None);
        }
        let client = Client::from(address);
        let mut open = self.open.lock();
        let count = open.entry(client).or_default();
        if *count >= self.most {
            return Err(AddressFull);
        }
        *count += 1;
        drop(open);
        Ok(Some(AddressPlace { limit: self.clone(), client }))
    }
}

// === impl Exempt ===

impl Exempt {
    fn contains(&self, address: IpAddr) -> bool {
        (self.loopback && address.to_canonical().is_loopback())
            || self.proxies.iter().any(|network| network.contains(address))
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut open = self.limit.open.lock();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
                // A crowd of addresses that has left leaves no memory behind.
                if open.capacity() > 1024 && open.len() < open.capacity() / 8 {
                    open.shrink_to_fit();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_and_a_place_comes_back() {
        let limit = AddressLimit::new(Some(2), 100, vec!["10.0.0.0/8".parse().unwrap()]);
        let held: Vec<_> = (0..2).map(|_| limit.enter(ip("192.0.2.7")).unwrap().unwrap()).collect();
        assert_eq!(limit.enter(ip("192.0.2.7")).err(), Some(AddressFull));
        assert_eq!(limit.enter(ip("::ffff:192.0.2.7")).err(), Some(AddressFull), "the same address");
        assert!(limit.enter(ip("192.0.2.8")).is_ok());
        assert!((0..9).all(|_| limit.enter(ip("10.1.2.3")).unwrap().is_none()), "a trusted proxy is many clients");
        drop(held);
        assert!(limit.enter(ip("192.0.2.7")).is_ok());
        assert!(limit.open.lock().is_empty(), "nothing stays");
    }

    #[test]
    fn an_ipv6_host_has_all_of_its_64() {
        let limit = AddressLimit::new(Some(1), 100, Vec::new());
        let _held = limit.enter(ip("2001:db8::1")).unwrap();
        assert!(limit.enter(ip("2001:db8::ffff:1")).is_err());
        assert!(limit.enter(ip("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn unset_it_is_half_of_all_and_does_not_count_this_machine() {
        let limit = AddressLimit::new(None, 4, Vec::new());
        assert_eq!(limit.most(), 2);
        let _held: Vec<_> = (0..2).map(|_| limit.enter(ip("192.0.2.7")).unwrap()).collect();
        assert!(limit.enter(ip("192.0.2.7")).is_err());
        assert!((0..9).all(|_| limit.enter(ip("127.0.0.1")).unwrap().is_none()));
        let none = AddressLimit::new(Some(0), 4, Vec::new());
        assert!((0..9).all(|_| none.enter(ip("192.0.2.7")).unwrap().is_none()) && none.most() == 0);
    }
}
