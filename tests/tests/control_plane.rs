//! The control plane that all Kubernetes tests stand on does what they rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tidings_tests::api_audit::ApiRequest;
use tidings_tests::control_plane::ControlPlane;
use tidings_tests::kube_cluster::KubeCluster;
use tidings_tests::kube_release::KubeRelease;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

const GADGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: gadgets.example.com }
spec:
  group: example.com
  scope: Namespaced
  names: { plural: gadgets, singular: gadget, kind: Gadget }
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                size: { type: integer }
                color: { type: string, maxLength: 20 }
              x-kubernetes-validations:
                - { rule: "self.size < 10", message: "size must be below 10" }
                - { rule: "self.color == oldSelf.color", message: "color is immutable" }
"#;

fn gadget(size: u32, color: &str) -> String {
    format!(
        "{{apiVersion: example.com/v1, kind: Gadget, metadata: {{name: one}}, spec: {{size: {size}, color: {color}}}}}"
    )
}

fn config_map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

async fn config_maps(client: Client, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(client, namespace)
}

/// Waits until the object is gone from the API.
async fn gone<K>(api: Api<K>, name: &str, uid: &str) -> Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    timeout(PATIENCE, await_condition(api, name, is_deleted(uid))).await.with_context(|| format!("{name} stays"))??;
    Ok(())
}

#[tokio::test]
async fn kubectl_and_server_have_the_pinned_version() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let version: serde_json::Value = serde_json::from_str(&cluster.kubectl().run(&["version", "-o", "json"]).await?)?;
    let of = |side: &str| version.pointer(&format!("/{side}/gitVersion")).and_then(|version| version.as_str());
    let client = of("clientVersion").context("no client version")?;
    assert!(client.starts_with("v1."), "{version}");
    if !cluster.is_given() && std::env::var_os("KUBEBUILDER_ASSETS").is_none() {
        let pins = include_str!("../cluster/go.mod");
        assert!(pins.contains(&format!("k8s.io/kubernetes {client}\n")), "{client} is not what go.mod pins");
        assert_eq!(of("serverVersion"), Some(client));
    }
    Ok(())
}

#[tokio::test]
async fn rules_of_a_custom_resource_refuse_with_their_message() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let kubectl = cluster.kubectl();
    let namespace = cluster.namespace("rules").await?;
    kubectl.run_with(&["apply", "-f", "-"], GADGETS).await?;
    let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd/gadgets.example.com"];
    kubectl.run(&established).await?;

    let apply = ["apply", "-n", namespace.name(), "-f", "-"];
    let refused = kubectl.refused(&apply, &gadget(10, "red")).await?;
    assert!(refused.contains("size must be below 10"), "{refused}");
    kubectl.run_with(&apply, &gadget(9, "red")).await?;
    let refused = kubectl.refused(&apply, &gadget(9, "blue")).await?;
    assert!(refused.contains("color is immutable"), "{refused}");
    kubectl.run(&["delete", "crd", "gadgets.example.com"]).await?;
    Ok(())
}

#[tokio::test]
async fn children_of_a_deleted_owner_are_collected() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let namespace = cluster.namespace("collect").await?;
    let maps = config_maps(cluster.client().await?, namespace.name()).await;
    let create = PostParams::default();
    let owner = maps.create(&create, &config_map("owner")).await?;
    let mut child = config_map("child");
    child.metadata.owner_references = kube::Resource::controller_owner_ref(&owner, &()).map(|owner| vec![owner]);
    let child = maps.create(&create, &child).await?;
    maps.delete("owner", &DeleteParams::default()).await?;
    gone(maps, "child", &child.metadata.uid.context("no uid")?).await
}

#[tokio::test]
async fn a_deleted_namespace_takes_its_objects_with_it() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let namespace = cluster.namespace("vanish").await?;
    let maps = config_maps(cluster.client().await?, namespace.name()).await;
    maps.create(&PostParams::default(), &config_map("inside")).await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client().await?);
    let uid = namespaces.get(namespace.name()).await?.metadata.uid.context("no uid")?;
    namespaces.delete(namespace.name(), &DeleteParams::default()).await?;
    gone(namespaces, namespace.name(), &uid).await?;
    assert_eq!(maps.get_opt("inside").await?, None);
    Ok(())
}

/// Waits until the release's EndpointSlices say exactly this: pod uid and readiness of each endpoint.
async fn endpoints_become(slices: &Api<EndpointSlice>, expected: &[(&str, bool)]) -> Result<()> {
    let expected: BTreeSet<(String, bool)> = expected.iter().map(|(uid, ready)| ((*uid).to_owned(), *ready)).collect();
    let mut seen = BTreeMap::new();
    let mut events = pin!(watcher(slices.clone(), watcher::Config::default()).touched_objects());
    let told = timeout(PATIENCE, async {
        while let Some(slice) = events.try_next().await? {
            let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
                let uid = endpoint.target_ref.as_ref()?.uid.clone()?;
                Some((uid, endpoint.conditions.as_ref()?.ready?))
            });
            seen.insert(slice.name_any(), endpoints.collect::<BTreeSet<_>>());
            if seen.values().flatten().cloned().collect::<BTreeSet<_>>() == expected {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the watch ended")
    });
    told.await.map_err(|_| anyhow::anyhow!("expected {expected:?}, but the EndpointSlices say {seen:?}"))?
}

#[tokio::test]
async fn endpoint_slices_follow_the_records_of_pods() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    if cluster.is_given() {
        return Ok(());
    }
    let release = KubeRelease::install(cluster, "endpoints").await?;
    release.gateway_service().await?;
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client().await?, release.namespace());
    let (one, two) = (release.gateway_pod().await?, release.gateway_pod().await?);

    one.set_ready(true).await?;
    two.set_ready(false).await?;
    endpoints_become(&slices, &[(one.uid(), true), (two.uid(), false)]).await?;
    two.set_ready(true).await?;
    endpoints_become(&slices, &[(one.uid(), true), (two.uid(), true)]).await?;
    one.delete().await?;
    endpoints_become(&slices, &[(two.uid(), true)]).await
}

#[tokio::test]
async fn a_service_account_has_the_rights_it_was_given_and_no_other() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let namespace = cluster.namespace("rights").await?;
    let name = namespace.name();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "-n", name, "serviceaccount", "reader"]).await?;
    kubectl.run(&["create", "-n", name, "role", "reader", "--verb=get,list", "--resource=configmaps"]).await?;
    let subject = format!("--serviceaccount={name}:reader");
    kubectl.run(&["create", "-n", name, "rolebinding", "reader", "--role=reader", &subject]).await?;

    let reader = cluster.kubectl_with(&cluster.kubeconfig_for(name, "reader").await?);
    reader.run(&["get", "configmaps"]).await?;
    let refused = reader.refused(&["create", "configmap", "mine"], "").await?;
    assert!(refused.contains("Forbidden") || refused.contains("forbidden"), "{refused}");
    let client = cluster.client_for(name, "reader").await?;
    let elsewhere = config_maps(client, "kube-system").await;
    let error = elsewhere.get_opt("any").await.expect_err("reading another namespace must be refused");
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_restarted_api_server_keeps_data_address_and_tokens() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    let namespace = plane.cluster().namespace("restart").await?;
    let name = namespace.name();
    let maps = config_maps(plane.cluster().client().await?, name).await;
    maps.create(&PostParams::default(), &config_map("kept")).await?;
    let kubectl = plane.cluster().kubectl();
    kubectl.run(&["create", "-n", name, "serviceaccount", "writer"]).await?;
    kubectl.run(&["create", "-n", name, "role", "writer", "--verb=create,get", "--resource=configmaps"]).await?;
    let subject = format!("--serviceaccount={name}:writer");
    kubectl.run(&["create", "-n", name, "rolebinding", "writer", "--role=writer", &subject]).await?;
    let writer = config_maps(plane.cluster().client_for(name, "writer").await?, name).await;

    plane.kill_api_server();
    maps.get("kept").await.expect_err("a killed API server answers nobody");
    plane.start_api_server().await?;
    maps.get("kept").await?;

    plane.freeze_api_server().await;
    timeout(Duration::from_millis(500), maps.get("kept")).await.expect_err("a frozen API server answers nobody");
    plane.thaw_api_server().await?;
    maps.get("kept").await?;

    let audit = plane.audit();
    let mark = audit.mark()?;
    writer.create(&PostParams::default(), &config_map("written")).await?;
    writer.delete("written", &DeleteParams::default()).await.expect_err("deleting was not granted");
    let request = |verb: &str, name_in_path: &str, code| ApiRequest {
        user: format!("system:serviceaccount:{name}:writer"),
        verb: verb.to_owned(),
        resource: "configmaps".to_owned(),
        namespace: name.to_owned(),
        name: name_in_path.to_owned(),
        code,
    };
    let expected = [request("create", "written", 201), request("delete", "written", 403)];
    assert_eq!(audit.since(mark, name, "writer")?, expected);
    Ok(())
}
