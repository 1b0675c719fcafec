//! The Channels that the API server has, as far as the watches have told. Pure.
//!
//! News may come late and twice: what we wrote ourselves comes back, and what was before it as well. Versions tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kube::api::DynamicObject;
use kube::runtime::watcher;
use tidings_crds::key::ChannelKey;

use crate::schedule::observed::ObservedChannel;
use crate::schedule::status::{Account, Change};

/// What changed about a Channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// What it wants, or whose it is.
    Specification,
    /// Its status or its metadata only.
    Status,
    /// It is no longer there, or no longer ours.
    Gone,
}

/// All Channels.
#[derive(Debug)]
pub struct Catalogue {
    class_name: String,
    controller: String,
    entries: BTreeMap<ChannelKey, Entry>,
    /// Channels that are others' to serve.
    foreign: BTreeMap<ChannelKey, Foreign>,
    scopes: Vec<Scope>,
    /// Claimed by another installation although the class is ours, and not told yet.
    contested: Vec<ObservedChannel>,
}

/// One watch.
#[derive(Debug)]
struct Scope {
    /// Its namespace; absent means all.
    namespace: Option<String>,
    /// What was there before and has not been listed again, while it lists.
    unlisted: Option<BTreeSet<ChannelKey>>,
    /// Whether it has listed everything once.
    listed: bool,
}

#[derive(Debug)]
struct Foreign {
    uid: String,
    contested: bool,
}

/// One Channel that is ours to serve.
#[derive(Debug)]
pub struct Entry {
    /// As the API server has it.
    pub seen: ObservedChannel,
    /// What the last visit found out, and about which generation.
    account: Option<(i64, Account)>,
    /// The moment that was reserved for writing its status, and for how much of a change.
    pub slot: Option<(Change, Instant)>,
    /// When its status was written last.
    pub written: Option<Instant>,
}

// === impl Catalogue ===

impl Catalogue {
    /// Nothing is known yet. Ours are the Channels of this class that no other controller has claimed. There is one watch
    /// for each of the `namespaces`; without any, a single one for all.
    pub fn new(namespaces: &[String], class_name: &str, controller: &str) -> Self {
        let scope = |namespace| Scope { namespace, unlisted: None, listed: false };
        let scopes = match namespaces {
            [] => vec![scope(None)],
            namespaces => namespaces.iter().cloned().map(Some).map(scope).collect(),
        };
        Self {
            class_name: class_name.to_owned(),
            controller: controller.to_owned(),
            entries: BTreeMap::new(),
            foreign: BTreeMap::new(),
            scopes,
            contested: Vec::new(),
        }
    }

    /// Whether every watch has listed everything once.
    pub fn is_listed(&self) -> bool {
        self.scopes.iter().all(|scope| scope.listed)
    }

    /// Takes up what a watch tells.
    pub fn take(&mut self, scope: usize, event: watcher::Event<DynamicObject>) -> Vec<(ChannelKey, News)> {
        match event {
            watcher::Event::Init => {
                let Some(scope) = self.scopes.get_mut(scope) else { return Vec::new() };
                let within = |key: &&ChannelKey| scope.namespace.as_ref().is_none_or(|own| *own == key.namespace);
                let all = self.entries.keys().chain(self.foreign.keys()).filter(within).cloned().collect();
                scope.unlisted = Some(all);
                Vec::new()
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let Some(seen) = ObservedChannel::read(object) else { return Vec::new() };
                if let Some(unlisted) = self.scopes.get_mut(scope).and_then(|scope| scope.unlisted.as_mut()) {
                    unlisted.remove(&seen.key);
                }
                self.set(seen).into_iter().collect()
            }
            watcher::Event::Delete(object) => {
                let Some(gone) = ObservedChannel::read(object) else { return Vec::new() };
                let known = self.entries.get(&gone.key).map(|entry| entry.seen.uid.clone());
                let foreign = self.foreign.get(&gone.key).map(|foreign| foreign.uid.clone());
                // The end of a predecessor is not the end of its successor.
                if known.or(foreign).is_none_or(|uid| uid == gone.uid) {
                    self.remove(&gone.key).into_iter().collect()
                } else {
                    Vec::new()
                }
            }
            watcher::Event::InitDone => {
                let Some(scope) = self.scopes.get_mut(scope) else { return Vec::new() };
                scope.listed = true;
                let unlisted = scope.unlisted.take().unwrap_or_default();
                unlisted.iter().filter_map(|key| self.remove(key)).collect()
            }
        }
    }

    /// Takes up the answer to a write of our own.
    pub fn put(&mut self, object: DynamicObject) -> Option<(ChannelKey, News)> {
        let seen = ObservedChannel::read(object)?;
        if self.entries.get(&seen.key)?.seen.uid != seen.uid {
            return None;
        }
        // The answer to removing the last finalizer describes a Channel that is gone.
        if seen.deleting && seen.finalizers.is_empty() { self.remove(&seen.key) } else { self.set(seen) }
    }

    /// A Channel that is ours to serve.
    pub fn entry(&mut self, key: &ChannelKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// The Channels that are ours to serve.
    pub fn ours(&self) -> impl Iterator<Item = &ChannelKey> {
        self.entries.keys()
    }

    /// Whether a Channel is ours to serve.
    pub fn is_ours(&self, key: &ChannelKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether there is such a Channel, whichever installation serves it.
    pub fn exists(&self, key: &ChannelKey) -> bool {
        self.is_ours(key) || self.foreign.contains_key(key)
    }

    /// Keeps what a visit found out, if it was about the Channel as it is now.
    pub fn account(&mut self, visited: &ObservedChannel, account: Account) {
        if let Some(entry) = self.entries.get_mut(&visited.key).filter(|entry| entry.seen.uid == visited.uid) {
            entry.account = Some((visited.generation, account));
        }
    }

    /// The Channels of our class that another installation has claimed, each told once.
    pub fn contested(&mut self) -> Vec<ObservedChannel> {
        std::mem::take(&mut self.contested)
    }

    /// How many Channels there are in each state.
    pub fn states(&self) -> BTreeMap<&'static str, i64> {
        let mut states = BTreeMap::new();
        for entry in self.entries.values() {
            *states.entry(entry.state()).or_default() += 1;
        }
        let contested = self.foreign.values().filter(|foreign| foreign.contested).count();
        states.insert("ForeignController", i64::try_from(contested).unwrap_or(i64::MAX));
        states
    }

    fn set(&mut self, seen: ObservedChannel) -> Option<(ChannelKey, News)> {
        let key = seen.key.clone();
        let class = seen.class_name == self.class_name;
        let claimed = seen.status.controller_name.as_ref().is_some_and(|name| *name != self.controller);
        if !class || claimed {
            let told = self.foreign.get(&key).is_some_and(|known| known.contested && known.uid == seen.uid);
            let contested = class && claimed;
            self.foreign.insert(key.clone(), Foreign { uid: seen.uid.clone(), contested });
            if contested && !told {
                self.contested.push(seen);
            }
            return self.entries.remove(&key).map(|_| (key, News::Gone));
        }
        self.foreign.remove(&key);
        let news = match self.entries.get_mut(&key) {
            Some(entry) if entry.seen.uid == seen.uid => {
                if entry.seen.version == seen.version || is_newer(&entry.seen.version, &seen.version) {
                    return None;
                }
                let news = difference(&entry.seen, &seen);
                entry.seen = seen;
                news
            }
            _ => {
                self.entries.insert(key.clone(), Entry { seen, account: None, slot: None, written: None });
                News::Specification
            }
        };
        Some((key, news))
    }

    fn remove(&mut self, key: &ChannelKey) -> Option<(ChannelKey, News)> {
        let foreign = self.foreign.remove(key).is_some();
        let known = self.entries.remove(key).is_some();
        (known || foreign).then(|| (key.clone(), News::Gone))
    }
}

// === impl Entry ===

impl Entry {
    /// What the last visit found out about the Channel as it is now.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref().filter(|(generation, _)| *generation == self.seen.generation).map(|(_, account)| account)
    }

    fn state(&self) -> &'static str {
        match self.account.as_ref().map(|(_, account)| account) {
            Some(Account::Reconciled(report)) => report.state(),
            Some(Account::Leaving(_)) => "Deleting",
            None => "Pending",
        }
    }
}

fn difference(before: &ObservedChannel, after: &ObservedChannel) -> News {
    let same = before.generation == after.generation
        && before.deleting == after.deleting
        && before.abandoned == after.abandoned
        && before.is_held() == after.is_held()
        && before.class_name == after.class_name
        && before.channel.is_ok() == after.channel.is_ok();
    if same { News::Status } else { News::Specification }
}

/// Versions are numbers that grow, wherever they are numbers at all.
fn is_newer(one: &str, other: &str) -> bool {
    matches!((one.parse::<u64>(), other.parse::<u64>()), (Ok(one), Ok(other)) if one > other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn channel(name: &str, uid: &str, version: u64, change: impl FnOnce(&mut Value)) -> DynamicObject {
        let mut object = json!({
            "apiVersion": "tidings.dev/v1alpha1", "kind": "Channel", "spec": {},
            "metadata": {
                "namespace": "shop", "name": name, "uid": uid, "resourceVersion": version.to_string(), "generation": 1,
            },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn plain(name: &str, uid: &str, version: u64) -> DynamicObject {
        channel(name, uid, version, |_| {})
    }

    fn news(name: &str, news: News) -> Vec<(ChannelKey, News)> {
        vec![(ChannelKey::new("shop", name), news)]
    }

    fn catalogue() -> Catalogue {
        Catalogue::new(&[], "tidings", "a/b")
    }

    #[test]
    fn specifications_and_statuses_are_told_apart() {
        let mut all = catalogue();
        let mut take = |object| all.take(0, watcher::Event::Apply(object));
        assert_eq!(take(plain("x", "u", 5)), news("x", News::Specification));
        assert_eq!(take(plain("x", "u", 5)), []);
        assert_eq!(take(plain("x", "u", 4)), []);
        assert_eq!(take(channel("x", "u", 6, |o| o["status"] = json!({ "epoch": "1" }))), news("x", News::Status));
        assert_eq!(
            take(channel("x", "u", 7, |o| o["metadata"]["generation"] = json!(2))),
            news("x", News::Specification)
        );
        let deleting = |o: &mut Value| {
            o["metadata"]["generation"] = json!(2);
            o["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:00:00Z");
        };
        assert_eq!(take(channel("x", "u", 8, deleting)), news("x", News::Specification));
    }

    #[test]
    fn a_successor_is_not_its_predecessor() {
        let mut all = catalogue();
        all.take(0, watcher::Event::Apply(plain("x", "u1", 5)));
        let old = ObservedChannel::read(plain("x", "u1", 5)).unwrap();
        assert_eq!(all.take(0, watcher::Event::Apply(plain("x", "u2", 7))), news("x", News::Specification));
        all.account(&old, Account::Leaving(String::new()));
        let key = ChannelKey::new("shop", "x");
        assert!(all.entry(&key).unwrap().account().is_none());
        assert_eq!(all.take(0, watcher::Event::Delete(plain("x", "u1", 6))), []);
        assert_eq!(all.put(plain("x", "u1", 9)), None);
        assert_eq!(all.take(0, watcher::Event::Delete(plain("x", "u2", 9))), news("x", News::Gone));
    }

    #[test]
    fn others_channels_are_left_alone_and_a_contested_one_is_told_once() {
        let mut all = catalogue();
        let other_class = |o: &mut Value| o["spec"] = json!({ "className": "other" });
        let other_controller = |o: &mut Value| o["status"] = json!({ "controllerName": "c/d" });
        assert_eq!(all.take(0, watcher::Event::Apply(channel("x", "u", 1, other_class))), []);
        assert_eq!(all.contested().len(), 0);
        assert_eq!(all.take(0, watcher::Event::Apply(channel("y", "u", 2, other_controller))), []);
        all.take(0, watcher::Event::Apply(channel("y", "u", 3, other_controller)));
        assert_eq!(all.contested().len(), 1);
        assert!(all.exists(&ChannelKey::new("shop", "y")) && !all.is_ours(&ChannelKey::new("shop", "y")));
        // It gives the claim up.
        assert_eq!(all.take(0, watcher::Event::Apply(plain("y", "u", 4))), news("y", News::Specification));
        assert_eq!(all.take(0, watcher::Event::Apply(channel("y", "u", 5, other_controller))), news("y", News::Gone));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_once_it_is_complete() {
        let mut all = catalogue();
        all.take(0, watcher::Event::Init);
        all.take(0, watcher::Event::InitApply(plain("x", "u", 1)));
        assert!(!all.is_listed());
        assert_eq!(all.take(0, watcher::Event::InitDone), []);
        assert!(all.is_listed());
        all.take(0, watcher::Event::Init);
        all.take(0, watcher::Event::InitApply(plain("y", "u", 2)));
        assert_eq!(all.take(0, watcher::Event::InitDone), news("x", News::Gone));
    }

    #[test]
    fn a_watch_says_nothing_about_the_namespaces_of_others() {
        let mut all = Catalogue::new(&["bank".to_owned(), "shop".to_owned()], "tidings", "a/b");
        let list = |all: &mut Catalogue, scope, objects: Vec<DynamicObject>| {
            all.take(scope, watcher::Event::Init);
            for object in objects {
                all.take(scope, watcher::Event::InitApply(object));
            }
            all.take(scope, watcher::Event::InitDone)
        };
        list(&mut all, 1, vec![plain("x", "u", 1)]);
        assert!(!all.is_listed());
        assert_eq!(list(&mut all, 0, vec![]), []);
        assert!(all.is_listed());
        assert_eq!(list(&mut all, 1, vec![]), news("x", News::Gone));
    }
}
