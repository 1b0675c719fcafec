//! The finalizer that keeps a Channel there until its stream is deleted.
//!
//! Set and removed by JSON patch, each with a `test` of the very object and list that was seen: server-side apply would
//! create a Channel that is gone, and a merge would drop the finalizers of others.

use std::sync::Arc;

use http::{Request, header};
use kube::Client;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::leader::elector::Leadership;
use crate::leader::fenced_api::{self, ApiError};
use crate::schedule::observed::{FINALIZER, ObservedChannel};

/// Sets and removes it.
#[derive(Clone)]
pub struct Finalizers {
    client: Client,
    leadership: Arc<Leadership>,
}

// === impl Finalizers ===

impl Finalizers {
    /// Nothing is done yet.
    pub fn new(client: Client, leadership: Leadership) -> Self {
        Self { client, leadership: Arc::new(leadership) }
    }

    /// Sets it, and returns the Channel as it is now.
    pub async fn set(&self, channel: &ObservedChannel) -> Result<DynamicObject, ApiError> {
        self.patch("set the finalizer of", channel, &setting(channel)).await
    }

    /// Removes it, and returns the Channel as it was then: the last one may be what it waited for.
    pub async fn remove(&self, channel: &ObservedChannel) -> Result<DynamicObject, ApiError> {
        self.patch("remove the finalizer of", channel, &removing(channel)).await
    }

    async fn patch(
        &self,
        verb: &'static str,
        channel: &ObservedChannel,
        patch: &Value,
    ) -> Result<DynamicObject, ApiError> {
        let key = &channel.key;
        // Namespaces and names are DNS labels or subdomains: nothing in them needs to be encoded.
        let path = format!("/apis/tidings.dev/v1alpha1/namespaces/{}/channels/{}", key.namespace, key.name);
        let request = Request::patch(path)
            .header(header::CONTENT_TYPE, "application/json-patch+json")
            .body(patch.to_string().into_bytes());
        let call = async { self.client.request(request.map_err(kube::Error::HttpError)?).await };
        fenced_api::write(&self.leadership, verb, key.to_string(), call).await
    }
}

fn setting(channel: &ObservedChannel) -> Value {
    let test = json!({ "op": "test", "path": "/metadata/uid", "value": channel.uid });
    if channel.finalizers.is_empty() {
        let version = json!({ "op": "test", "path": "/metadata/resourceVersion", "value": channel.version });
        let add = json!({ "op": "add", "path": "/metadata/finalizers", "value": [FINALIZER] });
        return json!([test, version, add]);
    }
    let list = json!({ "op": "test", "path": "/metadata/finalizers", "value": channel.finalizers });
    json!([test, list, { "op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER }])
}

fn removing(channel: &ObservedChannel) -> Value {
    let others: Vec<&String> = channel.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    json!([
        { "op": "test", "path": "/metadata/uid", "value": channel.uid },
        { "op": "test", "path": "/metadata/finalizers", "value": channel.finalizers },
        { "op": "replace", "path": "/metadata/finalizers", "value": others },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::observed::tests::read;

    fn channel(finalizers: Value) -> ObservedChannel {
        read(json!({
            "apiVersion": "tidings.dev/v1alpha1", "kind": "Channel",
            "metadata": {
                "namespace": "shop", "name": "orders", "uid": "u", "resourceVersion": "5", "finalizers": finalizers,
            },
        }))
    }

    #[test]
    fn the_first_finalizer_is_set_only_on_the_version_that_was_seen() {
        let expected = json!([
            { "op": "test", "path": "/metadata/uid", "value": "u" },
            { "op": "test", "path": "/metadata/resourceVersion", "value": "5" },
            { "op": "add", "path": "/metadata/finalizers", "value": ["tidings.dev/stream"] },
        ]);
        assert_eq!(setting(&channel(json!([]))), expected);
    }

    #[test]
    fn the_finalizers_of_others_stay() {
        let expected = json!([
            { "op": "test", "path": "/metadata/uid", "value": "u" },
            { "op": "test", "path": "/metadata/finalizers", "value": ["a/b"] },
            { "op": "add", "path": "/metadata/finalizers/-", "value": "tidings.dev/stream" },
        ]);
        assert_eq!(setting(&channel(json!(["a/b"]))), expected);
        let removed = removing(&channel(json!(["a/b", "tidings.dev/stream", "c/d"])));
        assert_eq!(removed[2]["value"], json!(["a/b", "c/d"]));
    }
}
