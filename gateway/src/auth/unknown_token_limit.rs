//! Addresses that bring tokens which turn out to be nobody's. Anybody can make a text that looks like a token of the cluster, and
//! only the API server knows better; so an address that has brought many is not asked about for a while. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::limits::client::Client;

/// What each address has brought lately.
#[derive(Debug, Default)]
pub struct Strangers(HashMap<Client, Spell>);

#[derive(Clone, Copy, Debug)]
struct Spell {
    since: Instant,
    tokens: u32,
}

/// So many may turn out to be nobody's: clients that have been offline come back with expired and revoked ones, many from behind one
/// address. At 3 ms an answer they occupy one of the 16 places for 300 ms in half a minute. Fewer would let anybody behind an address
/// keep the others out at no cost.
const MOST: u32 = 100;

/// In so long, beginning with the first.
const SPELL: Duration = Duration::from_secs(30);

/// Addresses that are remembered; 20,000 of them take 1 MB. Those beyond are asked about like everybody.
const REMEMBERED: usize = 20_000;

// === impl Strangers ===

impl Strangers {
    /// Whether an address has brought too many for now.
    pub fn is_shut_out(&self, client: Client, now: Instant) -> bool {
        self.0.get(&client).is_some_and(|spell| spell.tokens >= MOST && !spell.is_over(now))
    }

    /// It has brought one.
    pub fn brought(&mut self, client: Client, now: Instant) {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&client) {
            self.0.retain(|_, spell| !spell.is_over(now));
            if self.0.len() >= REMEMBERED {
                return;
            }
        }
        let fresh = Spell { since: now, tokens: 0 };
        let spell = self.0.entry(client).or_insert(fresh);
        if spell.is_over(now) {
            *spell = fresh;
        }
        spell.tokens = spell.tokens.saturating_add(1);
    }
}

// === impl Spell ===

impl Spell {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= SPELL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn client(last: u8) -> Client {
        Client::from(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn an_address_is_shut_out_after_many_tokens_of_nobody_and_for_no_longer_than_the_spell() {
        let (mut strangers, begin) = (Strangers::default(), Instant::now());
        for _ in 0..MOST {
            assert!(!strangers.is_shut_out(client(1), begin));
            strangers.brought(client(1), begin);
        }
        let late = begin + SPELL - Duration::from_millis(1);
        assert!(strangers.is_shut_out(client(1), late));
        assert!(!strangers.is_shut_out(client(2), late), "others are not concerned");
        strangers.brought(client(1), begin + SPELL);
        assert!(!strangers.is_shut_out(client(1), begin + SPELL), "a new spell begins with one");
    }

    #[test]
    fn no_more_addresses_are_remembered_than_the_bound_and_old_ones_make_room() {
        let (mut strangers, begin) = (Strangers::default(), Instant::now());
        let nth = |number: u32| Client::from(IpAddr::from(number.to_be_bytes()));
        let most = u32::try_from(REMEMBERED).unwrap();
        (0..=most).for_each(|number| strangers.brought(nth(number), begin));
        assert_eq!(strangers.0.len(), REMEMBERED);
        strangers.brought(nth(most), begin + SPELL);
        assert_eq!(strangers.0.len(), 1);
    }
}
