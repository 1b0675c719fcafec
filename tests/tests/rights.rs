//! The rights that are shipped: enough for the work, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use tidings_tests::kube_cluster::KubeCluster;
use tidings_tests::kube_release::KubeRelease;
use tokio::time::timeout;

/// Merging roles takes the controller a moment.
const PATIENCE: Duration = Duration::from_secs(60);

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// Group, resource, subresource and name: what the two work with, and what an intruder would ask for next.
const RESOURCES: [(&str, &str, &str, &str); 22] = [
    ("tidings.dev", "channels", "", "any"),
    ("tidings.dev", "channels", "status", "any"),
    ("tidings.dev", "channels", "finalizers", "any"),
    ("tidings.dev", "channels", "subscribe", "any"),
    ("tidings.dev", "channels", "publish", "any"),
    ("", "configmaps", "", "any"),
    ("", "secrets", "", "any"),
    ("", "pods", "", "any"),
    ("", "pods", "exec", "any"),
    ("", "services", "", "any"),
    ("", "serviceaccounts", "token", "any"),
    ("", "namespaces", "", "any"),
    ("", "events", "", "any"),
    ("events.k8s.io", "events", "", "any"),
    ("coordination.k8s.io", "leases", "", "any"),
    ("coordination.k8s.io", "leases", "", "tidings-operator"),
    ("discovery.k8s.io", "endpointslices", "", "any"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "", "any"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "", "channels.tidings.dev"),
    ("authentication.k8s.io", "tokenreviews", "", ""),
    ("authorization.k8s.io", "subjectaccessreviews", "", ""),
    ("rbac.authorization.k8s.io", "clusterroles", "", "any"),
];

/// Who asks: a user and the groups that the API server would add.
struct Asker {
    user: String,
    groups: Vec<String>,
}

impl Asker {
    fn service_account(namespace: &str, name: &str) -> Asker {
        let groups = ["system:serviceaccounts", "system:authenticated"].map(String::from);
        let user = format!("system:serviceaccount:{namespace}:{name}");
        Asker { user, groups: [groups.to_vec(), vec![format!("system:serviceaccounts:{namespace}")]].concat() }
    }

    fn person(name: &str) -> Asker {
        Asker { user: name.to_owned(), groups: vec!["system:authenticated".to_owned()] }
    }
}

/// All that `asker` may do in a namespace, as `verb resource.group/subresource name`.
async fn rights(client: &Client, asker: &Asker, namespace: &str) -> Result<BTreeSet<String>> {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let mut allowed = BTreeSet::new();
    for (group, resource, subresource, name) in RESOURCES {
        for verb in VERBS {
            let attributes = ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(subresource.to_owned()),
                name: Some(name.to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                user: Some(asker.user.clone()),
                groups: Some(asker.groups.clone()),
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let answer = reviews.create(&PostParams::default(), &review).await?;
            if answer.status.context("the review was not answered")?.allowed {
                let subresource = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
                let name = if name == "any" { String::new() } else { format!(" {name}") };
                allowed.insert(format!("{verb} {resource}{subresource}{name}"));
            }
        }
    }
    Ok(allowed)
}

/// Whether the controller has merged our roles into this one.
fn lets(verb: &'static str) -> impl Condition<ClusterRole> {
    move |role: Option<&ClusterRole>| {
        let rules = role.and_then(|role| role.rules.as_deref()).unwrap_or_default();
        let ours = |groups: &Option<Vec<String>>| groups.as_deref().unwrap_or_default().contains(&"tidings.dev".into());
        rules.iter().any(|rule| ours(&rule.api_groups) && rule.verbs.iter().any(|allowed| allowed == verb))
    }
}

fn expected(rows: &[(&str, &str)]) -> BTreeSet<String> {
    rows.iter().flat_map(|(verbs, what)| verbs.split(' ').map(move |verb| format!("{verb} {what}"))).collect()
}

/// What the operator may do wherever Channels are.
const OPERATOR_ANYWHERE: [(&str, &str); 4] = [
    ("get list watch patch", "channels"),
    ("patch", "channels/status"),
    ("create patch", "events"),
    ("get", "customresourcedefinitions channels.tidings.dev"),
];

#[tokio::test]
async fn the_operator_may_do_its_work_and_nothing_else() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let client = cluster.client().await?;
    let release = KubeRelease::install(cluster, "tidings").await?;
    let tenant = cluster.namespace("tenant").await?;
    let operator = Asker::service_account(release.namespace(), release.operator_account());

    assert_eq!(rights(&client, &operator, tenant.name()).await?, expected(&OPERATOR_ANYWHERE));
    let at_home = [
        ("get list watch create patch delete", "configmaps"),
        ("create", "leases"),
        ("get create update", "leases tidings-operator"),
        ("list watch", "endpointslices"),
    ];
    let at_home = expected(&[&OPERATOR_ANYWHERE[..], &at_home[..]].concat());
    assert_eq!(rights(&client, &operator, release.namespace()).await?, at_home);
    Ok(())
}

#[tokio::test]
async fn the_gateway_reads_routes_and_asks_for_reviews_and_nothing_else() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let client = cluster.client().await?;
    let release = KubeRelease::install(cluster, "tidings").await?;
    let tenant = cluster.namespace("tenant").await?;
    let gateway = Asker::service_account(release.namespace(), release.gateway_account());

    let anywhere = [("create", "tokenreviews "), ("create", "subjectaccessreviews ")];
    assert_eq!(rights(&client, &gateway, tenant.name()).await?, expected(&anywhere));
    let at_home = expected(&[&anywhere[..], &[("list watch", "configmaps")]].concat());
    assert_eq!(rights(&client, &gateway, release.namespace()).await?, at_home);
    Ok(())
}

#[tokio::test]
async fn view_and_edit_cover_channels_but_not_what_they_carry() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let client = cluster.client().await?;
    let _release = KubeRelease::install(cluster, "tidings").await?;
    let tenant = cluster.namespace("tenant").await?;
    let kubectl = cluster.kubectl();
    let roles = ["view", "edit", "admin", "tidings-subscriber", "tidings-publisher"];
    for role in roles {
        let user = format!("--user={role}-person");
        kubectl.run(&["create", "-n", tenant.name(), "rolebinding", role, "--clusterrole", role, &user]).await?;
    }
    for (role, verb) in [("view", "list"), ("edit", "deletecollection"), ("admin", "deletecollection")] {
        let merged = await_condition(Api::<ClusterRole>::all(client.clone()), role, lets(verb));
        timeout(PATIENCE, merged).await.with_context(|| format!("{role} does not learn about Channels"))??;
    }

    let mut seen = Vec::new();
    for role in roles {
        let allowed = rights(&client, &Asker::person(&format!("{role}-person")), tenant.name()).await?;
        seen.push(allowed.into_iter().filter(|right| right.contains("channels")).collect::<BTreeSet<_>>());
    }
    let view = expected(&[("get list watch", "channels")]);
    let edit = expected(&[("get list watch create update patch delete deletecollection", "channels")]);
    let (subscriber, publisher) = ([("create", "channels/subscribe")], [("create", "channels/publish")]);
    assert_eq!(seen, [view, edit.clone(), edit, expected(&subscriber), expected(&publisher)]);
    Ok(())
}
