//! The administrator's maxima for a namespace: how many Channels it may have, and how much their streams may keep.
//!
//! Pure. Channels count in the order of their age, then of their names, each with what its manifest asks for: which of them
//! are too many does not depend on the order in which they are seen. A Channel that is refused uses nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use crate::api::channel::{Channel, Durability};
use crate::api::condition::AcceptedReason;
use crate::api::history::{HistorySpec, Storage};
use crate::api::quantity::ByteQuantity;
use crate::desired::rejection::Rejection;
use crate::name::fault::Fault;
use crate::name::key::ChannelKey;
use crate::name::label::is_label;

/// What the Channels of some namespaces may have at most, as the settings file writes it. An absent limit does not limit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// Which namespaces, each by itself; `*` is every one that no other entry names.
    pub namespaces: Vec<String>,
    /// How many Channels.
    pub channels: Option<u64>,
    /// How many bytes all their streams may keep: the sum of `history.maxBytes`, each times its replicas.
    pub bytes: Option<ByteQuantity>,
    /// How many messages all their streams may keep: the sum of `history.maxMessages`.
    pub messages: Option<u64>,
    /// How many replicas one stream may have.
    pub replicas: Option<u64>,
    /// Where streams may be stored.
    pub storage: Option<Vec<Storage>>,
}

/// All quotas of an installation, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    by_namespace: BTreeMap<String, Limits>,
    others: Option<Limits>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Limits {
    channels: Option<u64>,
    bytes: Option<u64>,
    messages: Option<u64>,
    replicas: Option<u64>,
    storage: Option<Vec<Storage>>,
}

/// What one Channel asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// When it was created, in seconds since 1970; absent for a Channel from a file, which then counts as new.
    pub created: Option<i64>,
    stream: Option<Stream>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stream {
    bytes: Option<u64>,
    messages: Option<u64>,
    replicas: u64,
    storage: Storage,
}

#[derive(Default)]
struct Used {
    channels: u64,
    bytes: u64,
    messages: u64,
}

// === impl Quotas ===

impl Quotas {
    /// From the settings.
    ///
    /// # Errors
    /// Every entry that cannot be meant.
    pub fn new(quotas: Vec<Quota>) -> Result<Self, Vec<Fault>> {
        let (mut all, mut faults) = (Self::default(), Vec::new());
        for (at, quota) in quotas.into_iter().enumerate() {
            let bytes = match quota.bytes.as_ref().map(ByteQuantity::bytes).transpose() {
                Ok(bytes) => bytes,
                Err(error) => {
                    faults.push(Fault::new(format!("[{at}].bytes"), error.to_string()));
                    continue;
                }
            };
            let Quota { namespaces, channels, messages, replicas, storage, .. } = quota;
            let limits = Limits { channels, bytes, messages, replicas, storage };
            if limits == Limits::default() {
                faults.push(Fault::new(
                    format!("[{at}]"),
                    "write at least one of channels, bytes, messages, replicas, storage",
                ));
            }
            if limits.storage.as_ref().is_some_and(Vec::is_empty) {
                faults.push(Fault::new(format!("[{at}].storage"), "write File, Memory or both, or leave it out"));
            }
            if namespaces.is_empty() {
                faults.push(Fault::new(format!("[{at}].namespaces"), "write the namespaces, or \"*\" for all others"));
            }
            for (index, namespace) in namespaces.into_iter().enumerate() {
                let path = format!("[{at}].namespaces[{index}]");
                let twice = if namespace == "*" {
                    all.others.replace(limits.clone()).is_some()
                } else if is_label(&namespace) {
                    all.by_namespace.insert(namespace.clone(), limits.clone()).is_some()
                } else {
                    faults.push(Fault::new(path, "a namespace is a DNS label, as in shop, or \"*\" for all others"));
                    continue;
                };
                if twice {
                    faults.push(Fault::new(path, format!("{namespace} has a quota already: write one entry for it")));
                }
            }
        }
        if faults.is_empty() { Ok(all) } else { Err(faults) }
    }

    /// Whether there is no quota at all.
    pub fn is_empty(&self) -> bool {
        self.by_namespace.is_empty() && self.others.is_none()
    }

    /// Every Channel that is refused, and why. `demands` are those of the Channels that are in order by themselves.
    pub fn exceeded(&self, demands: &BTreeMap<ChannelKey, Demand>) -> BTreeMap<ChannelKey, Rejection> {
        let mut refused = BTreeMap::new();
        if self.is_empty() {
            return refused;
        }
        let mut used: BTreeMap<&str, Used> = BTreeMap::new();
        let mut ranked: Vec<_> = demands.iter().collect();
        ranked.sort_by_key(|(key, demand)| (demand.created.unwrap_or(i64::MAX), *key));
        for (key, demand) in ranked {
            let Some(limits) = self.by_namespace.get(&key.namespace).or(self.others.as_ref()) else { continue };
            let used = used.entry(&key.namespace).or_default();
            match limits.excess(&key.namespace, used, demand) {
                Some(message) => {
                    let reason = AcceptedReason::QuotaExceeded;
                    refused.insert(key.clone(), Rejection { reason, message });
                }
                None => used.add(demand),
            }
        }
        refused
    }
}

// === impl Limits ===

impl Limits {
    /// What is too much if the Channel is added to what is used, and what to write instead.
    fn excess(&self, namespace: &str, used: &Used, demand: &Demand) -> Option<String> {
        let quota = |rest: std::fmt::Arguments<'_>| Some(format!("the quota of the namespace {namespace} is {rest}"));
        if let Some(most) = self.channels.filter(|most| used.channels >= *most) {
            return quota(format_args!(
                "{most} Channels, and older ones are {}: delete one of them, or ask the administrator for more",
                used.channels
            ));
        }
        let stream = demand.stream.as_ref()?;
        if let Some(most) = self.replicas.filter(|most| stream.replicas > *most) {
            return quota(format_args!(
                "{most} replicas: write history.replicas: {most} or less, not {}",
                stream.replicas
            ));
        }
        if let Some(allowed) = self.storage.as_ref().filter(|allowed| !allowed.contains(&stream.storage)) {
            let mut listed = String::new();
            for storage in allowed {
                let _ = write!(listed, "{}{}", if listed.is_empty() { "" } else { " or " }, storage.as_str());
            }
            return quota(format_args!(
                "{listed} storage: write history.storage: {listed}, not {}",
                stream.storage.as_str()
            ));
        }
        let sums = [
            ("bytes", "maxBytes", self.bytes, used.bytes, stream.all_bytes()),
            ("messages", "maxMessages", self.messages, used.messages, stream.messages),
        ];
        for (unit, field, most, used, wanted) in sums {
            let Some(most) = most else { continue };
            let left = most.saturating_sub(used);
            let copies = if unit == "bytes" && stream.replicas > 1 {
                format!(" over {} replicas", stream.replicas)
            } else {
                String::new()
            };
            let Some(wanted) = wanted else {
                return quota(format_args!(
                    "{most} {unit}, of which {left} are left: write history.{field}, since without it there is no limit"
                ));
            };
            if wanted > left {
                return quota(format_args!(
                    "{most} {unit}; older Channels have {used}, {left} are left, and this one wants {wanted}{copies}: write a \
                     smaller history.{field} here or in another one, or ask the administrator for more"
                ));
            }
        }
        None
    }
}

// === impl Demand ===

impl Demand {
    /// What a Channel that is in order asks for.
    pub fn of(channel: &Channel, created: Option<i64>) -> Self {
        let stream = match channel.spec.durability {
            Durability::Ephemeral => None,
            Durability::Durable => {
                let history = channel.spec.history.clone().unwrap_or_else(HistorySpec::absent);
                Some(Stream {
                    bytes: history.max_bytes.as_ref().and_then(|bytes| bytes.bytes().ok()),
                    messages: history.max_messages.and_then(|messages| u64::try_from(messages).ok()),
                    replicas: history.replicas.unsigned_abs().into(),
                    storage: history.storage,
                })
            }
        };
        Self { created, stream }
    }
}

impl Stream {
    fn all_bytes(&self) -> Option<u64> {
        self.bytes.map(|bytes| bytes.saturating_mul(self.replicas))
    }
}

impl Used {
    fn add(&mut self, demand: &Demand) {
        self.channels += 1;
        if let Some(stream) = &demand.stream {
            self.bytes = self.bytes.saturating_add(stream.all_bytes().unwrap_or_default());
            self.messages = self.messages.saturating_add(stream.messages.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn quotas(entries: Value) -> Quotas {
        Quotas::new(serde_json::from_value(entries).unwrap()).unwrap()
    }

    fn demand(created: Option<i64>, spec: Value) -> Demand {
        Demand::of(&Channel::new("x", serde_json::from_value(spec).unwrap()), created)
    }

    fn refused(quotas: &Quotas, channels: &[(&str, Option<i64>, Value)]) -> Vec<(String, String)> {
        let demands =
            channels.iter().map(|(key, created, spec)| (key.parse().unwrap(), demand(*created, spec.clone())));
        let refused = quotas.exceeded(&demands.collect()).into_iter();
        refused.map(|(key, rejection)| (key.to_string(), rejection.message)).collect()
    }

    fn one(key: &str, message: &str) -> Vec<(String, String)> {
        vec![(key.to_owned(), format!("the quota of the namespace shop is {message}"))]
    }

    #[test]
    fn the_older_channels_stay_and_the_message_says_what_to_do() {
        let two = quotas(json!([{ "namespaces": ["shop"], "channels": 2 }]));
        let channels = [("shop/a", Some(3), json!({})), ("shop/b", Some(1), json!({})), ("shop/c", Some(2), json!({}))];
        assert_eq!(
            refused(&two, &channels),
            one("shop/a", "2 Channels, and older ones are 2: delete one of them, or ask the administrator for more")
        );
        let from_files = channels.map(|(key, _, spec)| (key, None, spec));
        assert_eq!(refused(&two, &from_files)[0].0, "shop/c", "as old: the last by name");
        assert_eq!(
            refused(&two, &[("bank/a", None, json!({})), ("bank/b", None, json!({})), ("bank/c", None, json!({}))]),
            []
        );
    }

    #[test]
    fn bytes_count_with_their_replicas_and_have_to_be_limited() {
        let quota = quotas(json!([{ "namespaces": ["*"], "bytes": "10Mi", "messages": 100 }]));
        let sized = |bytes: &str, replicas: u32| json!({ "history": { "maxBytes": bytes, "replicas": replicas, "maxMessages": 10 } });
        let channels = [
            ("shop/a", Some(1), sized("2Mi", 3)),
            ("shop/b", Some(2), sized("5Mi", 1)),
            ("shop/c", Some(3), sized("4Mi", 1)),
        ];
        assert_eq!(
            refused(&quota, &channels),
            one(
                "shop/b",
                "10485760 bytes; older Channels have 6291456, 4194304 are left, and this one wants 5242880: write a \
                           smaller history.maxBytes here or in another one, or ask the administrator for more"
            )
        );
        let unlimited = json!({ "history": { "maxMessages": 1 } });
        assert_eq!(
            refused(&quota, &[("shop/a", None, unlimited)]),
            one(
                "shop/a",
                "10485760 bytes, of which 10485760 are left: write history.maxBytes, since without it there is no limit"
            )
        );
        assert!(
            refused(&quota, &[("shop/a", None, json!({ "history": { "maxBytes": 1 } }))])[0].1.contains("100 messages")
        );
        assert_eq!(refused(&quota, &[("shop/a", None, json!({ "durability": "Ephemeral" }))]), []);
        let default = refused(&quota, &[("shop/a", None, json!({}))]);
        assert!(default[0].1.contains("wants 1073741824"), "{default:?}");
    }

    #[test]
    fn one_stream_has_its_own_bounds() {
        let quota = quotas(json!([{ "namespaces": ["shop"], "replicas": 1, "storage": ["File"] }]));
        let with = |history: Value| refused(&quota, &[("shop/a", None, json!({ "history": history }))]);
        assert_eq!(
            with(json!({ "replicas": 3 })),
            one("shop/a", "1 replicas: write history.replicas: 1 or less, not 3")
        );
        assert_eq!(
            with(json!({ "storage": "Memory" })),
            one("shop/a", "File storage: write history.storage: File, not Memory")
        );
        assert_eq!(with(json!({})), []);
    }

    #[test]
    fn an_entry_names_its_faults() {
        let faults = |entries: Value| {
            let faults = Quotas::new(serde_json::from_value(entries).unwrap()).unwrap_err().into_iter();
            faults.map(|fault| fault.path).collect::<Vec<_>>()
        };
        assert_eq!(faults(json!([{ "namespaces": [], "channels": 1 }])), ["[0].namespaces"]);
        assert_eq!(faults(json!([{ "namespaces": ["a.b"], "channels": 1 }])), ["[0].namespaces[0]"]);
        assert_eq!(faults(json!([{ "namespaces": ["a"] }])), ["[0]"]);
        assert_eq!(faults(json!([{ "namespaces": ["a"], "bytes": "1.5Gi" }])), ["[0].bytes"]);
        assert_eq!(faults(json!([{ "namespaces": ["a"], "storage": [] }])), ["[0].storage"]);
        let twice = json!([{ "namespaces": ["a", "*"], "channels": 1 }, { "namespaces": ["*", "a"], "channels": 2 }]);
        assert_eq!(faults(twice), ["[1].namespaces[0]", "[1].namespaces[1]"]);
    }

    proptest! {
        /// What is accepted fits, and nothing is refused that would fit behind the older ones.
        #[test]
        fn what_is_accepted_fits(sizes in prop::collection::vec((prop::option::of(0..3_i64), 1..6_i64, 1..4_i32), 0..12)) {
            let quota = quotas(json!([{ "namespaces": ["shop"], "channels": 5, "bytes": 12 }]));
            let demands: BTreeMap<ChannelKey, Demand> = sizes.iter().enumerate().map(|(at, (created, bytes, replicas))| {
                let spec = json!({ "history": { "maxBytes": bytes, "replicas": replicas } });
                (ChannelKey::new("shop", format!("c{at:02}")), demand(*created, spec))
            }).collect();
            let refused = quota.exceeded(&demands);
            let mut ranked: Vec<_> = demands.iter().collect();
            ranked.sort_by_key(|(key, demand)| (demand.created.unwrap_or(i64::MAX), *key));
            let (mut channels, mut bytes) = (0, 0);
            for (key, demand) in ranked {
                let wanted = demand.stream.as_ref().unwrap().all_bytes().unwrap();
                let fits = channels < 5 && bytes + wanted <= 12;
                prop_assert_eq!(!refused.contains_key(key), fits, "{}", key);
                if fits {
                    channels += 1;
                    bytes += wanted;
                }
            }
        }
    }
}
