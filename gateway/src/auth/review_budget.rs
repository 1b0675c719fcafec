//! How many questions to the API server one address and one identity may cause. Pure.
//!
//! Three counts, each within `SPELL`: the questions that an address causes, those that an identity causes, and the tokens
//! of an address that turned out to belong to no identity. The last is far lower: anyone can make a text that looks like a token of the
//! cluster, and only the API server can tell. What is beyond is not asked until the spell is over; answers that are known
//! already count as before.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::limits::client::Client;

/// What addresses and identities have caused lately.
#[derive(Debug)]
pub struct ReviewBudget {
    addresses: Spells<Client>,
    identities: Spells<u128>,
    /// Tokens that belong to no identity, by the address that sent them.
    strangers: Spells<Client>,
}

/// Counts within a spell, which begins with the first.
#[derive(Debug)]
struct Spells<K> {
    most: u32,
    spells: HashMap<K, Spell>,
}

#[derive(Clone, Copy, Debug)]
struct Spell {
    since: Instant,
    count: u32,
}

/// How long a count lasts, from its first event on.
const SPELL: Duration = Duration::from_secs(30);

/// So many tokens may turn out to belong to no identity: clients that have been offline come back with expired and revoked ones, many from
/// behind one address. At 3 ms an answer they occupy one of the places for 300 ms in half a minute. Fewer would let anybody behind
/// an address keep the others out at no cost.
const STRANGERS: u32 = 100;

/// Questions of one identity: a thousand pods of one account that come back at once. Then 33 a second at most.
const PER_IDENTITY: u32 = 1_000;

/// Questions of one address, good tokens and bad: pods behind a proxy that is not among the trusted ones, each with two questions.
/// 100 a second occupy a thirtieth of the places.
const PER_ADDRESS: u32 = 3_000;

/// Keys that are remembered in each count; 20,000 of them take 1 MB. Those beyond are not counted.
const REMEMBERED: usize = 20_000;

// === impl ReviewBudget ===

impl ReviewBudget {
    /// Whether nothing more may be asked for this address now.
    pub fn is_spent(&self, client: Client, now: Instant) -> bool {
        self.strangers.is_spent(&client, now) || self.addresses.is_spent(&client, now)
    }

    /// Counts a question about whose token it is; whether it may be asked.
    pub fn token_question(&mut self, client: Client, now: Instant) -> bool {
        !self.is_spent(client, now) && self.addresses.spend(client, now)
    }

    /// Counts a question about the right of an identity, given by its fingerprint; whether it may be asked.
    pub fn access_question(&mut self, client: Client, identity: u128, now: Instant) -> bool {
        !self.addresses.is_spent(&client, now)
            && self.identities.spend(identity, now)
            && self.addresses.spend(client, now)
    }

    /// A token that this address has sent belongs to no identity.
    pub fn stranger(&mut self, client: Client, now: Instant) {
        self.strangers.spend(client, now);
    }
}

impl Default for ReviewBudget {
    fn default() -> Self {
        let strangers = Spells::new(STRANGERS);
        Self { addresses: Spells::new(PER_ADDRESS), identities: Spells::new(PER_IDENTITY), strangers }
    }
}

// === impl Spells ===

impl<K: Eq + Hash> Spells<K> {
    fn new(most: u32) -> Self {
        Self { most, spells: HashMap::new() }
    }

    fn is_spent(&self, key: &K, now: Instant) -> bool {
        self.spells.get(key).is_some_and(|spell| spell.count >= self.most && !spell.is_over(now))
    }

    /// Counts one, if there may be one more.
    fn spend(&mut self, key: K, now: Instant) -> bool {
        if self.is_spent(&key, now) {
            return false;
        }
        if self.spells.len() >= REMEMBERED && !self.spells.contains_key(&key) {
            self.spells.retain(|_, spell| !spell.is_over(now));
            if self.spells.len() >= REMEMBERED {
                return true;
            }
        }
        let fresh = Spell { since: now, count: 0 };
        let spell = self.spells.entry(key).or_insert(fresh);
        if spell.is_over(now) {
            *spell = fresh;
        }
        spell.count = spell.count.saturating_add(1);
        true
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
    fn an_address_is_not_asked_about_after_many_tokens_of_nobody_and_for_no_longer_than_the_spell() {
        let (mut budget, begin) = (ReviewBudget::default(), Instant::now());
        for _ in 0..STRANGERS {
            assert!(budget.token_question(client(1), begin));
            budget.stranger(client(1), begin);
        }
        let late = begin + SPELL - Duration::from_millis(1);
        assert!(!budget.token_question(client(1), late));
        assert!(budget.token_question(client(2), late), "others are not concerned");
        assert!(budget.access_question(client(1), 7, late), "who is known is not concerned");
        assert!(budget.token_question(client(1), begin + SPELL), "a new spell begins");
    }

    #[test]
    fn one_identity_causes_a_bounded_number_of_questions_from_however_many_addresses() {
        let (mut budget, begin) = (ReviewBudget::default(), Instant::now());
        let asked = (0..20_000_u32).filter(|n| budget.access_question(client(n.to_le_bytes()[0]), 7, begin)).count();
        assert_eq!(asked, 1_000);
        assert!(budget.access_question(client(1), 8, begin), "another identity is not concerned");
        assert!(budget.access_question(client(1), 7, begin + SPELL));
    }

    #[test]
    fn one_address_causes_a_bounded_number_of_questions_whatever_its_tokens_are() {
        let (mut budget, begin) = (ReviewBudget::default(), Instant::now());
        let asked = (0..20_000_u32).filter(|n| {
            budget.token_question(client(1), begin) && budget.access_question(client(1), u128::from(*n), begin)
        });
        assert_eq!(asked.count() * 2, 3_000);
        assert!(!budget.token_question(client(1), begin) && budget.token_question(client(2), begin));
    }

    #[test]
    fn no_more_keys_are_remembered_than_the_bound_and_old_ones_make_room() {
        let (mut spells, begin) = (Spells::new(1), Instant::now());
        let most = u32::try_from(REMEMBERED).unwrap();
        assert!((0..=most).all(|number| spells.spend(number, begin)));
        assert_eq!(spells.spells.len(), REMEMBERED);
        spells.spend(most, begin + SPELL);
        assert_eq!(spells.spells.len(), 1);
    }
}
