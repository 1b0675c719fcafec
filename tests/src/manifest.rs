//! A Channel manifest as tests write it, and where its messages are.

use std::fmt;

use serde_json::{Value, json};

use crate::web::query;

/// A Channel manifest: what `kubectl apply` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    namespace: String,
    name: String,
    spec: Value,
}

// === impl Manifest ===

impl Manifest {
    /// A Channel with an empty spec.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), spec: json!({}) }
    }

    /// A Channel in the namespace `test` that everybody may read and nobody may publish to over HTTP.
    pub fn public(name: &str) -> Self {
        Self::new("test", name).with("access/subscribe", json!({ "mode": "Public", "topics": [">"] }))
    }

    /// A [`Manifest::public`] that everybody may publish to over HTTP as well.
    pub fn open(name: &str) -> Self {
        Self::public(name).with("access/publish", json!({ "mode": "Public", "topics": [">"] }))
    }

    /// With a field of the spec set; `path` reads `history/maxMessages`.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.spec;
        for key in path.split('/') {
            if place.is_null() {
                *place = json!({});
            }
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The name of the file that a test writes it to.
    pub fn file_name(&self) -> String {
        format!("{}.{}.yaml", self.namespace, self.name)
    }

    /// Its stream's name.
    pub fn stream(&self) -> String {
        format!("TIDINGS_{}_{}", self.namespace, self.name)
    }

    /// The subject of a topic; the empty topic is the base subject.
    pub fn subject(&self, topic: &str) -> String {
        let base = format!("tidings.{}.{}", self.namespace, self.name);
        if topic.is_empty() { base } else { format!("{base}.{topic}") }
    }

    /// Where its live messages are republished.
    pub fn live_subject(&self, topic: &str) -> String {
        format!("tidings-live.{}.{}", self.stream(), self.subject(topic))
    }

    /// The path of its events.
    pub fn path(&self) -> String {
        format!("/channels/{}/{}/events", self.namespace, self.name)
    }

    /// Its path with a query, as in `[("topic", "a.*"), ("from", "all")]`.
    pub fn path_with(&self, parameters: &[(&str, &str)]) -> String {
        let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", query(value))).collect();
        if pairs.is_empty() { self.path() } else { format!("{}?{}", self.path(), pairs.join("&")) }
    }

    /// Whether it keeps its messages in JetStream.
    pub fn is_durable(&self) -> bool {
        self.spec["durability"] != "Ephemeral"
    }

    /// Whether everybody may read it.
    pub fn is_public(&self) -> bool {
        self.spec["access"]["subscribe"]["mode"] == "Public"
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let document = json!({
            "apiVersion": "tidings.dev/v1alpha1",
            "kind": "Channel",
            "metadata": { "namespace": self.namespace, "name": self.name },
            "spec": self.spec,
        });
        f.write_str(&serde_yaml::to_string(&document).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_what_kubectl_takes() {
        let manifest = Manifest::new("shop", "orders").with("history/maxMessages", 5).with("className", "x");
        assert_eq!(
            manifest.to_string(),
            "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata:\n  name: orders\n  namespace: shop\n\
             spec:\n  className: x\n  history:\n    maxMessages: 5\n"
        );
        assert_eq!(manifest.subject("user.42"), "tidings.shop.orders.user.42");
        assert_eq!(manifest.path_with(&[("topic", "a.>")]), "/channels/shop/orders/events?topic=a.%3E");
    }
}
