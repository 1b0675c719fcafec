//! The chart's NetworkPolicies, held against the connections that must pass and those that must not. Nothing enforces them
//! here, so a model of the rules decides (`tests/src/network_policy.rs`).

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::Value;
use tidings_tests::chart_values::{everything, pods, production};
use tidings_tests::helm::Helm;
use tidings_tests::network_policy::{Endpoint, NetworkPolicies, PodFacts};

/// The pod of a component, as it would run in `namespace`.
fn endpoint(objects: &[Value], maker: &str, last: u8) -> Result<Endpoint> {
    let (_, template) = pods(objects).into_iter().find(|(name, _)| name == maker).context("no such pod")?;
    let labels = template["metadata"]["labels"].as_object().context("no labels")?;
    let labels = labels.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
    let ports = template["spec"]["containers"][0]["ports"].as_array().into_iter().flatten().filter_map(|port| {
        Some((port["name"].as_str()?.to_owned(), u16::try_from(port["containerPort"].as_u64()?).ok()?))
    });
    let pod = PodFacts { namespace: "tidings-system".into(), labels: labels.collect(), ports: ports.collect() };
    Ok(Endpoint { address: Ipv4Addr::new(10, 244, 0, last), pod: Some(pod) })
}

fn stranger(namespace: &str) -> Endpoint {
    let pod = PodFacts { namespace: namespace.into(), ..PodFacts::default() };
    Endpoint { address: Ipv4Addr::new(10, 244, 9, 9), pod: Some(pod) }
}

#[tokio::test]
async fn needed_connections_pass_the_policies_and_no_others() -> Result<()> {
    let helm = Helm::find().await?;
    let directory = tempfile::tempdir()?;
    let (production, everything) = (production(), everything(directory.path())?);
    let outside = Endpoint { address: Ipv4Addr::new(192, 0, 2, 1), pod: None };
    let node = Endpoint { address: Ipv4Addr::new(10, 99, 0, 1), pod: None };
    let dns = stranger("kube-system");

    let objects = helm.objects("tidings", "tidings-system", &[]).await?;
    let policies = NetworkPolicies::of(&objects);
    let operator = endpoint(&objects, "Deployment/tidings-operator", 1)?;
    let gateway = endpoint(&objects, "Deployment/tidings-gateway", 2)?;
    let nats = endpoint(&objects, "StatefulSet/tidings-nats", 3)?;
    let other = stranger("shop");
    let neighbour = stranger("tidings-system");
    let flows: [(&str, &Endpoint, &Endpoint, &str, u16, bool); 31] = [
        ("browser to gateway", &outside, &gateway, "TCP", 8080, true),
        ("pod to gateway", &other, &gateway, "TCP", 8080, true),
        ("operator to NATS", &operator, &nats, "TCP", 4222, true),
        ("gateway to NATS", &gateway, &nats, "TCP", 4222, true),
        ("publisher to NATS", &other, &nats, "TCP", 4222, true),
        ("operator to the API", &operator, &node, "TCP", 6443, true),
        ("gateway to the API", &gateway, &node, "TCP", 6443, true),
        ("operator to DNS", &operator, &dns, "UDP", 53, true),
        ("gateway to DNS", &gateway, &dns, "UDP", 53, true),
        ("gateway to DNS, long answers", &gateway, &dns, "TCP", 53, true),
        ("browser to the gateway's admin port", &outside, &gateway, "TCP", 9090, false),
        ("pod to the gateway's admin port", &other, &gateway, "TCP", 9090, false),
        ("neighbour to the gateway's admin port", &neighbour, &gateway, "TCP", 9090, false),
        ("operator to the gateway", &operator, &gateway, "TCP", 8080, false),
        ("operator to the gateway's admin port", &operator, &gateway, "TCP", 9090, false),
        ("gateway to the operator", &gateway, &operator, "TCP", 9091, false),
        ("pod to the operator's admin port", &other, &operator, "TCP", 9091, false),
        ("browser to the operator", &outside, &operator, "TCP", 9091, false),
        ("neighbour to the operator", &neighbour, &operator, "TCP", 8080, false),
        ("browser to NATS", &outside, &nats, "TCP", 4222, false),
        ("pod to NATS' monitor", &other, &nats, "TCP", 8222, false),
        ("gateway to NATS' monitor", &gateway, &nats, "TCP", 8222, false),
        ("pod to NATS' cluster port", &other, &nats, "TCP", 6222, false),
        ("NATS to anywhere", &nats, &outside, "TCP", 443, false),
        ("NATS to DNS", &nats, &dns, "UDP", 53, false),
        ("NATS to the gateway", &nats, &gateway, "TCP", 8080, false),
        ("gateway to a pod", &gateway, &other, "TCP", 8080, false),
        ("operator to a pod", &operator, &other, "TCP", 8080, false),
        ("gateway to the kubelet", &gateway, &node, "TCP", 10250, false),
        ("operator to a mail server", &operator, &outside, "TCP", 25, false),
        ("gateway to another NATS", &gateway, &other, "TCP", 4222, false),
    ];
    for (name, from, to, protocol, port, passes) in flows {
        assert_eq!(policies.pass(from, to, protocol, port), passes, "default: {name}");
    }

    let objects = helm.objects("tidings", "tidings-system", &[&production]).await?;
    let policies = NetworkPolicies::of(&objects);
    let (gateway, operator) =
        (endpoint(&objects, "Deployment/tidings-gateway", 2)?, endpoint(&objects, "Deployment/tidings-operator", 1)?);
    let monitoring = stranger("monitoring");
    let flows: [(&str, &Endpoint, &Endpoint, &str, u16, bool); 7] = [
        ("Prometheus to the gateway", &monitoring, &gateway, "TCP", 9090, true),
        ("Prometheus to the operator", &monitoring, &operator, "TCP", 9091, true),
        ("others to the admin port", &other, &gateway, "TCP", 9090, false),
        ("gateway to NATS in another namespace", &gateway, &stranger("nats"), "TCP", 4222, true),
        ("gateway to NATS outside", &gateway, &outside, "TCP", 4222, true),
        ("gateway to its monitor", &gateway, &stranger("nats"), "TCP", 8222, false),
        ("browser to gateway", &outside, &gateway, "TCP", 8080, true),
    ];
    for (name, from, to, protocol, port, passes) in flows {
        assert_eq!(policies.pass(from, to, protocol, port), passes, "production: {name}");
    }

    let objects = helm.objects("tidings", "tidings-system", &[&everything]).await?;
    let policies = NetworkPolicies::of(&objects);
    let (gateway, nats) =
        (endpoint(&objects, "Deployment/tidings-gateway", 2)?, endpoint(&objects, "StatefulSet/tidings-nats", 3)?);
    assert!(policies.pass(&stranger("shop"), &nats, "TCP", 4222), "a publisher that was named");
    assert!(!policies.pass(&stranger("news"), &nats, "TCP", 4222), "a publisher that was not");
    assert!(policies.pass(&gateway, &nats, "TCP", 4222), "the gateway, with publishers named");
    assert!(policies.pass(&gateway, &outside, "TCP", 443), "the keys of issuers");
    Ok(())
}
