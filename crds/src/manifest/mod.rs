//! Channels written in YAML files, as `kubectl apply` takes them: several documents a file, lists, each by itself.
//!
//! What the API server would refuse is refused here too: unknown fields, the bounds of the schema, and the rules over a
//! Channel. Pure: the text comes in, Channels and faults go out; which files there are is the operator's matter.

pub mod locate;
pub mod nesting;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::api::channel::{Channel, ChannelSpec};
use crate::api::definition::API_VERSION;
use crate::api::rule;
use crate::api::schema;
use crate::name::fault::Fault;
use crate::name::key::ChannelKey;
use crate::name::label::is_label;

/// Where a Channel belongs that names no namespace, as for `kubectl` without a context.
pub const DEFAULT_NAMESPACE: &str = "default";

const GROUP: &str = "tidings.dev";

/// The byte order mark, U+FEFF.
const MARK: char = '\u{feff}';

/// Faults told of one document: each costs another reading of it for its line.
const MOST_FAULTS: usize = 32;

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The line that it starts at, counted from 1.
    pub line: usize,
    /// Which Channel it is about, as far as that can be read, also where it has faults.
    pub key: Option<ChannelKey>,
    /// What stands in it.
    pub content: Content,
}

/// What stands in a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A Channel, with every default filled in.
    Channel(Box<Channel>),
    /// An object of another kind, which is not our matter.
    Skipped {
        /// `apiVersion` and `kind`.
        kind: String,
    },
    /// Something that the API server would refuse; at least one fault.
    Faulty(Vec<Located>),
}

/// A fault with the line it is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The line in the file, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// Reads every object of a file, in order. Empty documents are left out.
pub fn read(text: &str) -> Vec<Document> {
    let text = without_byte_order_marks(text);
    let mut documents: Vec<Document> = chunks(&text).flat_map(|chunk| chunk.documents()).collect();
    refuse_duplicates(&mut documents);
    documents
}

/// A YAML text without the byte order marks that editors put before a document, and joined files have in the middle.
pub fn without_byte_order_marks(text: &str) -> Cow<'_, str> {
    if !text.contains(MARK) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    // Whether nothing of the document has been seen: later in it a mark would be a character of a text.
    let mut fresh = true;
    for line in text.split_inclusive('\n') {
        let unmarked = line.trim_start_matches(MARK);
        let marker = is_marker(unmarked);
        let line = if fresh || marker { unmarked } else { line };
        let content = line.trim();
        fresh = marker || (fresh && (content.is_empty() || content.starts_with('#')));
        clean.push_str(line);
    }
    Cow::Owned(clean)
}

// === impl Located ===

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.fault)
    }
}

/// The text of one YAML document.
struct Chunk<'t> {
    /// Lines of the file before it.
    before: usize,
    text: &'t str,
}

/// One object of a chunk: the chunk's own, or an item of its list.
struct Object {
    /// `items[0].` for an item.
    prefix: String,
    value: Value,
}

/// Splits a file at its `---` lines, so that a fault in one document leaves the others readable. YAML allows no other
/// meaning of `---` at the start of a line.
fn chunks(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut starts = vec![(0, 0)];
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && offset > 0 {
            starts.push((offset, number));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|(start, _)| *start).chain([text.len()]).collect();
    starts
        .into_iter()
        .zip(ends)
        .filter_map(|((start, before), end)| Some(Chunk { before, text: text.get(start..end)? }))
}

/// Whether a line begins a document.
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl Chunk<'_> {
    fn documents(&self) -> Vec<Document> {
        let value = match self.parse() {
            Ok(Value::Null) => return Vec::new(),
            Ok(value) => value,
            Err(located) => {
                return vec![Document { line: self.first_line(), key: None, content: Content::Faulty(vec![located]) }];
            }
        };
        match items(&value) {
            Some(items) => {
                let objects = items.iter().enumerate();
                objects
                    .map(|(at, item)| self.document(&Object { prefix: format!("items[{at}]."), value: item.clone() }))
                    .collect()
            }
            None => vec![self.document(&Object { prefix: String::new(), value })],
        }
    }

    fn parse(&self) -> Result<Value, Located> {
        let unreadable = |error: serde_yaml::Error| {
            let line = error.location().map_or(self.first_line(), |location| self.before + location.line());
            Located { line, fault: Fault::new("", format!("no YAML: {error}")) }
        };
        if let Some(line) = nesting::too_deep(self.text) {
            let message = format!("nested more than {} deep, which is no manifest", nesting::DEEPEST);
            return Err(Located { line: self.before + line, fault: Fault::new("", message) });
        }
        let mut yaml: serde_yaml::Value = serde_yaml::from_str(self.text).map_err(unreadable)?;
        yaml.apply_merge().map_err(unreadable)?;
        json(yaml, "").map_err(|fault| self.locate(fault))
    }

    fn document(&self, object: &Object) -> Document {
        let line =
            if object.prefix.is_empty() { self.first_line() } else { self.line(object.prefix.trim_end_matches('.')) };
        let key = key(&object.value);
        let content = match object.read() {
            Ok(content) => content,
            Err(mut faults) => {
                let more = faults.len().saturating_sub(MOST_FAULTS);
                faults.truncate(MOST_FAULTS);
                for fault in &mut faults {
                    fault.path.insert_str(0, &object.prefix);
                }
                if more > 0 {
                    faults.push(Fault::new(object.prefix.trim_end_matches('.'), format!("and {more} more faults")));
                }
                let mut located: Vec<Located> = faults.into_iter().map(|fault| self.locate(fault)).collect();
                located.sort_by_key(|located| located.line);
                Content::Faulty(located)
            }
        };
        let key = if matches!(content, Content::Skipped { .. }) { None } else { key };
        Document { line, key, content }
    }

    fn locate(&self, fault: Fault) -> Located {
        Located { line: self.line(&fault.path), fault }
    }

    fn line(&self, path: &str) -> usize {
        locate::line(self.text, path).map_or(self.first_line(), |line| self.before + line)
    }

    /// The first line that says something.
    fn first_line(&self) -> usize {
        let says_something = |line: &str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---"
        };
        self.before + self.text.lines().position(says_something).unwrap_or_default() + 1
    }
}

impl Object {
    fn read(&self) -> Result<Content, Vec<Fault>> {
        let Value::Object(object) = &self.value else {
            return Err(vec![Fault::new("", "a manifest is an object with apiVersion, kind, metadata and spec")]);
        };
        let text = |key: &str| {
            let value = object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            value.ok_or_else(|| {
                vec![Fault::new(key, format!("a manifest says its {key}: for a Channel, {}", known(key)))]
            })
        };
        let (api_version, kind) = (text("apiVersion")?, text("kind")?);
        match api_version.split('/').next() {
            Some(GROUP) if api_version != API_VERSION => {
                Err(vec![Fault::new("apiVersion", format!("write {API_VERSION}, not {api_version}"))])
            }
            Some(GROUP) if kind == "Channel" => channel(object).map(|channel| Content::Channel(Box::new(channel))),
            Some(GROUP) => Err(vec![Fault::new("kind", format!("write Channel, not {kind}"))]),
            // Others have a kind of this name, each in a group of their own.
            Some(group) if kind == "Channel" && (group.contains("tidings") || !api_version.contains('/')) => {
                Err(vec![Fault::new("apiVersion", format!("write {API_VERSION}, not {api_version}"))])
            }
            _ => Ok(Content::Skipped { kind: format!("{api_version} {kind}") }),
        }
    }
}

fn known(key: &str) -> &'static str {
    if key == "kind" { "Channel" } else { API_VERSION }
}

/// The objects of a `List`, of whichever group.
fn items(value: &Value) -> Option<&Vec<Value>> {
    let kind = value.get("kind")?.as_str()?;
    (kind == "List" || kind == "ChannelList").then(|| value.get("items")?.as_array()).flatten()
}

/// Which Channel an object is about, if it is one.
fn key(value: &Value) -> Option<ChannelKey> {
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or(DEFAULT_NAMESPACE);
    Some(ChannelKey::new(namespace, metadata.get("name")?.as_str()?))
}

fn channel(object: &Map<String, Value>) -> Result<Channel, Vec<Fault>> {
    let mut faults = Vec::new();
    for key in object.keys() {
        // A status is dropped, as the API server does: it is not the user's to write.
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "spec" | "status") {
            let message = "unknown field; the fields here are apiVersion, kind, metadata, spec";
            faults.push(Fault::new(key.as_str(), message));
        }
    }
    let metadata = metadata(object.get("metadata"), &mut faults);
    let raw = match object.get("spec") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(spec) => spec.clone(),
    };
    faults.extend(schema::faults("spec", &raw));
    if !faults.is_empty() {
        return Err(faults);
    }
    let spec: ChannelSpec = serde_json::from_value(schema::with_defaults("spec", raw))
        .map_err(|error| vec![Fault::new("spec", error.to_string())])?;
    let faults = rule::broken(metadata.name.as_deref().unwrap_or_default(), &spec);
    if faults.is_empty() { Ok(Channel { metadata, spec, status: None }) } else { Err(faults) }
}

/// What a person writes: name, namespace, labels and annotations. What an API server has added is dropped.
fn metadata(value: Option<&Value>, faults: &mut Vec<Fault>) -> ObjectMeta {
    const ADDED: [&str; 11] = [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    let mut metadata = ObjectMeta { namespace: Some(DEFAULT_NAMESPACE.to_owned()), ..ObjectMeta::default() };
    let Some(Value::Object(object)) = value else {
        faults.push(Fault::new("metadata", "write metadata with the Channel's name"));
        return metadata;
    };
    for (key, value) in object {
        let path = format!("metadata.{key}");
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("name", Value::String(name)) => metadata.name = Some(name.clone()),
            ("namespace", Value::String(namespace)) if is_label(namespace) => {
                metadata.namespace = Some(namespace.clone());
            }
            ("namespace", _) => faults.push(Fault::new(path, "a namespace is a DNS label, as in shop")),
            ("name", _) => faults.push(Fault::new(path, "a name is a text, as in orders")),
            ("labels", Value::Object(map)) => metadata.labels = Some(texts(map, &path, faults)),
            ("annotations", Value::Object(map)) => metadata.annotations = Some(texts(map, &path, faults)),
            ("labels" | "annotations", _) => faults.push(Fault::new(path, "write an object with texts")),
            (added, _) if ADDED.contains(&added) => {}
            _ => {
                let message = "unknown field; the fields here are name, namespace, labels, annotations";
                faults.push(Fault::new(path, message));
            }
        }
    }
    if metadata.name.is_none() && !faults.iter().any(|fault| fault.path == "metadata.name") {
        faults.push(Fault::new("metadata.name", "write the Channel's name"));
    }
    metadata
}

fn texts(map: &Map<String, Value>, path: &str, faults: &mut Vec<Fault>) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (key, value) in map {
        match value {
            Value::String(text) => drop(texts.insert(key.clone(), text.clone())),
            _ => faults.push(Fault::new(
                format!("{path}.{key}"),
                "write a text, in quotes where it looks like something else",
            )),
        }
    }
    texts
}

/// JSON has texts as keys and finite numbers only; YAML has more, and what it has more is a fault.
fn json(yaml: serde_yaml::Value, path: &str) -> Result<Value, Fault> {
    use serde_yaml::Value as Yaml;
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => serde_json::to_value(&number)
            .ok()
            .filter(|value| !value.is_null())
            .ok_or_else(|| Fault::new(path, format!("{number} is not a number in JSON")))?,
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            Value::Array(items.map(|(at, item)| json(item, &format!("{path}[{at}]"))).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, value) in mapping {
                let Yaml::String(key) = key else {
                    return Err(Fault::new(
                        path,
                        "a field's name is a text; write it in quotes if it looks like something else",
                    ));
                };
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                object.insert(key, json(value, &below)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            return Err(Fault::new(path, format!("tags such as {} have no meaning here", tagged.tag)));
        }
    })
}

/// `kubectl apply` would let the last of two win; here nobody could tell which one was meant.
fn refuse_duplicates(documents: &mut [Document]) {
    let mut seen: BTreeMap<ChannelKey, usize> = BTreeMap::new();
    for document in documents {
        let Some(key) = &document.key else { continue };
        match seen.get(key) {
            Some(first) => {
                let message = format!("the Channel {key} stands at line {first} already: leave one of the two out");
                let located = Located { line: document.line, fault: Fault::new("metadata.name", message) };
                match &mut document.content {
                    Content::Faulty(faults) => faults.push(located),
                    content => *content = Content::Faulty(vec![located]),
                }
            }
            None => drop(seen.insert(key.clone(), document.line)),
        }
    }
}
