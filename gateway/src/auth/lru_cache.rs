//! A cache with a bound in bytes: the entry that was used least recently goes first. Pure.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Entries with a weight, each in bytes.
#[derive(Debug)]
pub struct LruCache<K, V> {
    entries: HashMap<K, Slot<V>>,
    /// By use, oldest first.
    order: BTreeMap<u64, K>,
    uses: u64,
    weight: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    used: u64,
    weight: usize,
}

/// So many entries in use are skipped in one search for something to evict: an insertion costs a bounded number of steps.
const SKIPS: usize = 32;

/// What the two maps take for an entry besides its contents.
const OVERHEAD: usize = 256;

// === impl LruCache ===

impl<K: Clone + Eq + Hash, V> LruCache<K, V> {
    /// An empty cache of at most `capacity` bytes. Only entries that are in use may exceed it.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), uses: 0, weight: 0, capacity }
    }

    /// The entry, which is now the most recently used one.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let slot = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&slot.used) {
            self.order.insert(self.uses, key);
        }
        slot.used = self.uses;
        Some(&slot.value)
    }

    /// Inserts or replaces an entry of `weight` bytes, and evicts others that are not `in_use` as long as there are too many.
    pub fn insert(&mut self, key: K, value: V, weight: usize, in_use: impl Fn(&V) -> bool) {
        self.remove(&key);
        let weight = weight.saturating_add(OVERHEAD);
        self.uses += 1;
        self.order.insert(self.uses, key.clone());
        self.entries.insert(key, Slot { value, used: self.uses, weight });
        self.weight = self.weight.saturating_add(weight);
        let newest = self.uses;
        while self.weight > self.capacity && self.evict(newest, &in_use) {}
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.entries.remove(key)?;
        self.order.remove(&slot.used);
        self.weight = self.weight.saturating_sub(slot.weight);
        Some(slot.value)
    }

    /// Keeps those of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        let (order, weight) = (&mut self.order, &mut self.weight);
        self.entries.retain(|_, slot| {
            let stays = keep(&slot.value);
            if !stays {
                order.remove(&slot.used);
                *weight = weight.saturating_sub(slot.weight);
            }
            stays
        });
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, slot)| (key, &slot.value))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Evicts one entry; whether there was one to evict. Those in use that are met become the most recently used.
    fn evict(&mut self, newest: u64, in_use: impl Fn(&V) -> bool) -> bool {
        for _ in 0..SKIPS {
            let Some((&used, key)) = self.order.first_key_value() else { return false };
            if used >= newest {
                return false;
            }
            let key = key.clone();
            if self.entries.get(&key).is_none_or(|slot| !in_use(&slot.value)) {
                self.remove(&key);
                self.order.remove(&used);
                return true;
            }
            self.get(&key);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(entries: usize) -> usize {
        entries * (OVERHEAD + 10)
    }

    #[test]
    fn the_least_recently_used_entry_makes_room() {
        let mut cache = LruCache::new(weight(3));
        for key in ["a", "b", "c"] {
            cache.insert(key, (), 10, |()| false);
        }
        cache.get(&"a");
        cache.insert("d", (), 10, |()| false);
        let mut kept: Vec<_> = cache.iter().map(|(key, ())| *key).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["a", "c", "d"]);
        cache.insert("e", (), weight(2), |()| false);
        assert_eq!(cache.len(), 1, "a heavy one makes several go");
    }

    #[test]
    fn what_is_in_use_stays_however_full_the_cache_is() {
        let mut cache = LruCache::new(weight(2));
        for key in 0..100 {
            cache.insert(key, key < 3, 10, |in_use| *in_use);
        }
        let mut kept: Vec<_> = cache.iter().map(|(key, _)| *key).collect();
        kept.sort_unstable();
        assert_eq!(kept, [0, 1, 2, 99]);
    }

    #[test]
    fn what_is_removed_weighs_nothing() {
        let mut cache = LruCache::new(weight(10));
        (0..10).for_each(|key| cache.insert(key, key, 10, |_| false));
        cache.insert(3, 33, 10, |_| false);
        assert_eq!((cache.len(), cache.get(&3)), (10, Some(&33)));
        cache.retain(|value| *value < 5);
        cache.remove(&0);
        assert_eq!((cache.len(), cache.order.len(), cache.weight), (3, 3, weight(3)));
    }
}
