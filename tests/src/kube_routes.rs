//! Route ConfigMaps, written as the operator writes them and with its rights, or in ways it never would.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tidings_crds::channel::Channel;
use tidings_crds::desired::{self, Desired, Verdict};
use tidings_crds::key::ChannelKey;
use tidings_crds::release::{
    CHANNEL_NAME_LABEL, CHANNEL_NAMESPACE_LABEL, MANAGED_BY, MANAGED_BY_LABEL, RELEASE_LABEL, ROUTE_KEY, Release,
};
use tidings_crds::route::Route;

use crate::kube_release::KubeRelease;
use crate::manifest::Manifest;

/// The Route ConfigMaps of one release.
#[derive(Clone, Debug)]
pub struct KubeRoutes {
    objects: Api<ConfigMap>,
    release: Release,
}

impl KubeRoutes {
    /// Those of a release, for whoever has its operator's rights.
    pub async fn of(release: &KubeRelease) -> Result<KubeRoutes> {
        let client = release.cluster().client_for(release.namespace(), release.operator_account()).await?;
        let named = Release::new(release.namespace(), "tidings")?;
        Ok(KubeRoutes { objects: Api::namespaced(client, release.namespace()), release: named })
    }

    /// The release they belong to.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Writes a Route as the operator does.
    pub async fn apply(&self, route: &Route) -> Result<()> {
        self.write(&ChannelKey::new(&route.namespace, &route.name), &route.to_yaml()).await
    }

    /// Writes any text where the Route of a channel belongs.
    pub async fn write(&self, channel: &ChannelKey, text: &str) -> Result<()> {
        self.put(channel, &self.release.route_object(channel), json!({ ROUTE_KEY: text })).await
    }

    /// Writes a ConfigMap with a channel's labels under any name, with any data.
    pub async fn put(&self, channel: &ChannelKey, name: &str, data: Value) -> Result<()> {
        let labels = BTreeMap::from([
            (RELEASE_LABEL, self.release.name()),
            (MANAGED_BY_LABEL, MANAGED_BY),
            (CHANNEL_NAMESPACE_LABEL, &channel.namespace),
            (CHANNEL_NAME_LABEL, &channel.name),
        ]);
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": labels }, "data": data,
        });
        let parameters = PatchParams::apply(MANAGED_BY).force();
        let written = self.objects.patch(name, &parameters, &Patch::Apply(object)).await;
        written.with_context(|| format!("failed to write {name}"))?;
        Ok(())
    }

    /// Takes the label away by which gateways find it, as somebody might by mistake.
    pub async fn strip_label(&self, channel: &ChannelKey) -> Result<()> {
        let name = self.release.route_object(channel);
        let patch = json!({ "metadata": { "labels": { RELEASE_LABEL: null } } });
        self.objects.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Deletes it, without marking it as removed first.
    pub async fn delete(&self, channel: &ChannelKey) -> Result<()> {
        self.objects.delete(&self.release.route_object(channel), &DeleteParams::default()).await?;
        Ok(())
    }
}

/// What the operator makes of a manifest.
///
/// # Panics
/// When that is refused.
pub fn desired_of(manifest: &Manifest) -> Desired {
    let channel: Channel = serde_yaml::from_str(&manifest.to_string()).expect("the manifest is a Channel");
    let installation = desired::Installation { cluster: "tests".to_owned(), ..desired::Installation::default() };
    match desired::desired(&channel, &installation, None) {
        Verdict::Accepted(desired) => *desired,
        Verdict::Rejected(rejection) => panic!("{}: {}", manifest.key(), rejection.message),
    }
}
