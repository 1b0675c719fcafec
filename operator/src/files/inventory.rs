//! Which Channels the manifests of a directory declare. Pure: it is given what was read.
//!
//! One bad document never hides the others. Whatever is not understood protects what it may be about: a file that
//! cannot be read is not a deleted one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tidings_crds::channel::{Channel, ReclaimPolicy};
use tidings_crds::key::ChannelKey;
use tidings_crds::manifest::{self, Content, Document, Located};

use crate::files::directory::{self, Snapshot};

/// The Channels of a directory, as last read.
#[derive(Debug, Default)]
pub struct Inventory {
    files: BTreeMap<PathBuf, File>,
    declared: BTreeMap<ChannelKey, Declaration>,
    complaints: Vec<Complaint>,
    policies: BTreeMap<ChannelKey, ReclaimPolicy>,
    unsettled: bool,
}

/// What the manifests say about one Channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Declaration {
    /// It should be like this.
    Channel(Box<Channel>),
    /// There is a manifest, and it cannot be used; what the Channel had stays in force.
    Faulty(String),
}

/// Something wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Which file.
    pub file: PathBuf,
    /// Which line of it; absent for the whole file.
    pub line: Option<usize>,
    /// What is wrong and what to write.
    pub message: String,
}

#[derive(Debug, Default)]
struct File {
    text: Option<String>,
    documents: Vec<Document>,
    /// Every Channel it was known to declare when it was last understood; `None` if it never was.
    known: Option<BTreeSet<ChannelKey>>,
    /// Why it is not understood at present.
    opaque: Option<Opaque>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Opaque {
    Unreadable(String),
    Unsettled,
    /// A document does not say whose it is.
    Nameless,
}

// === impl Inventory ===

impl Inventory {
    /// Takes up what a directory holds now.
    pub fn take(&mut self, snapshot: Snapshot) {
        self.files.retain(|path, _| snapshot.contains_key(path));
        for (path, content) in snapshot {
            self.files.entry(path).or_default().take(content);
        }
        self.unsettled = self.files.values().any(|file| file.opaque == Some(Opaque::Unsettled));
        self.declared.clear();
        self.complaints.clear();
        let mut places: BTreeMap<ChannelKey, String> = BTreeMap::new();
        for (path, file) in &self.files {
            if let Some(Opaque::Unreadable(message)) = &file.opaque {
                self.complaints.push(Complaint { file: path.clone(), line: None, message: message.clone() });
            }
            for document in &file.documents {
                declare(path, document, &mut self.declared, &mut places, &mut self.complaints);
            }
        }
        for (key, declaration) in &self.declared {
            if let Declaration::Channel(channel) = declaration {
                let policy = channel.spec.history.as_ref().map(|history| history.reclaim_policy);
                self.policies.insert(key.clone(), policy.unwrap_or_default());
            }
        }
    }

    /// What the manifests say, by Channel.
    pub fn declared(&self) -> &BTreeMap<ChannelKey, Declaration> {
        &self.declared
    }

    /// What is wrong with the manifests beside the faults of Channels that can be named.
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// Whether a file was just being written, so that another look soon shows more.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Whether a Channel may still be declared: it is, or it may stand in what is not understood at present.
    pub fn may_declare(&self, key: &ChannelKey) -> bool {
        self.declared.contains_key(key) || self.files.values().any(|file| file.may_declare(key))
    }

    /// What the last usable manifest of a Channel said about its stream, as far as one was seen.
    pub fn last_policy(&self, key: &ChannelKey) -> Option<ReclaimPolicy> {
        self.policies.get(key).copied()
    }
}

fn declare(
    path: &Path,
    document: &Document,
    declared: &mut BTreeMap<ChannelKey, Declaration>,
    places: &mut BTreeMap<ChannelKey, String>,
    complaints: &mut Vec<Complaint>,
) {
    let mut complain = |line: usize, message: String| {
        complaints.push(Complaint { file: path.to_owned(), line: Some(line), message });
    };
    if let Some(key) = &document.key {
        if let Some(place) = places.get(key) {
            complain(document.line, format!("the Channel {key} is declared already, in {place}: this one is left out"));
            return;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        places.insert(key.clone(), format!("{name}:{}", document.line));
    }
    match (&document.content, &document.key) {
        (Content::Channel(channel), Some(key)) => {
            declared.insert(key.clone(), Declaration::Channel(channel.clone()));
        }
        (Content::Faulty(faults), Some(key)) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let faults: Vec<String> = faults.iter().map(|located| format!("{name}:{located}")).collect();
            declared.insert(key.clone(), Declaration::Faulty(faults.join("; ")));
        }
        (Content::Faulty(faults), None) => {
            for Located { line, fault } in faults {
                complain(*line, fault.to_string());
            }
        }
        // Objects of other kinds are for others; a Channel always has a key.
        (Content::Skipped { .. } | Content::Channel(_), _) => {}
    }
}

// === impl File ===

impl File {
    fn take(&mut self, content: directory::Content) {
        let text = match content {
            directory::Content::Text(text) => text,
            directory::Content::Unreadable(message) => {
                self.opaque = Some(Opaque::Unreadable(message));
                return;
            }
            directory::Content::Unsettled => {
                self.opaque = Some(Opaque::Unsettled);
                return;
            }
        };
        if self.text.as_ref() != Some(&text) {
            self.documents = manifest::read(&text);
            self.text = Some(text);
        }
        let keys: BTreeSet<ChannelKey> = self.documents.iter().filter_map(|document| document.key.clone()).collect();
        if self.documents.iter().any(is_nameless) {
            self.opaque = Some(Opaque::Nameless);
            if let Some(known) = &mut self.known {
                known.extend(keys);
            }
        } else {
            self.opaque = None;
            self.known = Some(keys);
        }
    }

    fn may_declare(&self, key: &ChannelKey) -> bool {
        self.opaque.is_some() && self.known.as_ref().is_none_or(|known| known.contains(key))
    }
}

/// A document that is about some Channel, nobody knows which.
fn is_nameless(document: &Document) -> bool {
    document.key.is_none() && matches!(document.content, Content::Faulty(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::directory::Content::{Text, Unreadable, Unsettled};

    fn key(name: &str) -> ChannelKey {
        ChannelKey::new("shop", name)
    }

    fn manifest(name: &str, spec: &str) -> String {
        format!(
            "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {spec}\n"
        )
    }

    fn snapshot<const N: usize>(files: [(&str, directory::Content); N]) -> Snapshot {
        files.into_iter().map(|(name, content)| (PathBuf::from(name), content)).collect()
    }

    fn good(inventory: &Inventory) -> Vec<&str> {
        let channels = inventory.declared().iter().filter(|(_, what)| matches!(what, Declaration::Channel(_)));
        channels.map(|(key, _)| key.name.as_str()).collect()
    }

    #[test]
    fn one_bad_document_never_hides_the_others() {
        let mut inventory = Inventory::default();
        let mixed = format!("{}---\n{}---\n{}", manifest("a", "{}"), manifest("b", "{ nonsense: 1 }"), "kind: [");
        inventory.take(snapshot([("1.yaml", Text(mixed)), ("2.yaml", Text(manifest("c", "{}")))]));
        assert_eq!(good(&inventory), ["a", "c"]);
        let Some(Declaration::Faulty(message)) = inventory.declared().get(&key("b")) else { panic!("{inventory:?}") };
        assert!(message.starts_with("1.yaml:9: spec.nonsense: unknown field"), "{message}");
        let lines: Vec<_> = inventory.complaints().iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [Some(12)]);
    }

    #[test]
    fn a_channel_declared_twice_is_a_fault_of_the_later_file() {
        let mut inventory = Inventory::default();
        let (first, second) = (manifest("a", "{ events: { heartbeatSeconds: 1 } }"), manifest("a", "{}"));
        inventory.take(snapshot([("b.yaml", Text(second)), ("a.yaml", Text(first))]));
        let Some(Declaration::Channel(channel)) = inventory.declared().get(&key("a")) else { panic!("{inventory:?}") };
        assert_eq!(channel.spec.events.heartbeat_seconds, 1);
        let complaint = inventory.complaints().first().unwrap();
        assert_eq!(complaint.file, Path::new("b.yaml"));
        assert_eq!(complaint.message, "the Channel shop/a is declared already, in a.yaml:1: this one is left out");
    }

    #[test]
    fn what_is_not_understood_protects_what_it_may_be_about() {
        let mut inventory = Inventory::default();
        // Never understood: it may be about anything.
        inventory.take(snapshot([("1.yaml", Unreadable("permission denied".into()))]));
        assert!(inventory.may_declare(&key("a")) && inventory.may_declare(&key("z")));
        // Understood once: it is about what it was about.
        inventory.take(snapshot([("1.yaml", Text(manifest("a", "{}")))]));
        for content in [Unreadable("permission denied".into()), Unsettled, Text("kind: [".into())] {
            inventory.take(snapshot([("1.yaml", content.clone())]));
            assert!(inventory.may_declare(&key("a")), "{content:?}");
            assert!(!inventory.may_declare(&key("z")), "{content:?}");
        }
        // Gone.
        inventory.take(snapshot([]));
        assert!(!inventory.may_declare(&key("a")));
    }

    #[test]
    fn an_unreadable_or_unsettled_file_means_what_it_meant() {
        let mut inventory = Inventory::default();
        inventory.take(snapshot([("1.yaml", Text(manifest("a", "{}")))]));
        inventory.take(snapshot([("1.yaml", Unsettled)]));
        assert!(inventory.is_unsettled());
        assert_eq!((good(&inventory), inventory.complaints()), (vec!["a"], [].as_slice()));
        inventory.take(snapshot([("1.yaml", Unreadable("permission denied".into()))]));
        assert_eq!((good(&inventory), inventory.complaints().len()), (vec!["a"], 1));
        inventory.take(snapshot([("1.yaml", Text(manifest("a", "{}")))]));
        assert_eq!((good(&inventory), inventory.complaints().len()), (vec!["a"], 0));
        assert!(!inventory.is_unsettled());
    }

    #[test]
    fn the_last_policy_outlives_the_manifest() {
        let mut inventory = Inventory::default();
        let delete = manifest("a", "{ history: { reclaimPolicy: Delete } }");
        inventory.take(snapshot([("1.yaml", Text(delete))]));
        inventory.take(snapshot([]));
        assert_eq!(inventory.last_policy(&key("a")), Some(ReclaimPolicy::Delete));
        assert_eq!(inventory.last_policy(&key("b")), None);
    }

    #[test]
    fn other_kinds_are_nobody_s_fault() {
        let mut inventory = Inventory::default();
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n";
        inventory.take(snapshot([("1.yaml", Text(namespace.into()))]));
        assert!(inventory.declared().is_empty() && inventory.complaints().is_empty());
        assert!(!inventory.may_declare(&key("a")));
    }
}
