//! What watches an installation: the chart's monitors, rules, dashboard and scaling.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidings_tests::chart_metrics::{expressions, metrics_in, used};
use tidings_tests::chart_values::{pods, renderings};
use tidings_tests::helm::label;
use tidings_tests::process::repository;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

#[tokio::test]
async fn metrics_in_rules_dashboard_and_scaling_exist() -> Result<()> {
    let reference = |name: &str| std::fs::read_to_string(repository().join("docs/reference").join(name));
    let known = metrics_in(&(reference("metrics.md")? + &reference("operator.md")?));
    let used: std::collections::BTreeSet<_> =
        renderings().await?.iter().flat_map(|(_, objects)| used(objects)).collect();
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty() && used.len() > 15, "unknown: {unknown:?}; used: {used:?}");
    Ok(())
}

/// Whether Prometheus' own parser takes these expressions, and what it says.
async fn parsed(expressions: &[String]) -> Result<(bool, String)> {
    // The first time, it is built.
    let mut build = Command::new(repository().join("tests/promql/build.sh"));
    let built = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    ensure!(built.status.success(), "the parser is not to be had");
    let mut parser = Command::new(String::from_utf8(built.stdout)?.trim());
    let mut parser = parser.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut input = parser.stdin.take().context("no standard input")?;
    input.write_all(expressions.join("\n").as_bytes()).await?;
    drop(input);
    let output = parser.wait_with_output().await?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

#[tokio::test]
async fn prometheus_can_parse_every_expression() -> Result<()> {
    let mut seen = 0;
    for (values, objects) in renderings().await? {
        let expressions = expressions(&objects)?;
        seen += expressions.len();
        let (taken, complaint) = parsed(&expressions).await?;
        assert!(taken, "{values}: {complaint}");
    }
    assert!(seen > 15, "only {seen} expressions");
    let (taken, complaint) = parsed(&["sum by (pod) (tidings_connections".to_owned()]).await?;
    assert!(!taken && complaint.contains("unclosed left parenthesis"), "a fault is found: {complaint}");
    Ok(())
}

#[tokio::test]
async fn monitors_scaling_and_budgets_find_the_pods_they_are_for() -> Result<()> {
    for (values, objects) in renderings().await? {
        let templates = pods(&objects);
        let labels_of = |name: &str| {
            let template = templates.iter().find(|(pod, _)| pod == name).map(|(_, template)| template);
            template.and_then(|template| template["metadata"]["labels"].as_object().cloned()).unwrap_or_default()
        };
        let ports_of = |name: &str| {
            let template = templates.iter().find(|(pod, _)| pod == name).map(|(_, template)| template.to_string());
            template.unwrap_or_default()
        };
        for object in &objects {
            let selector = match object["kind"].as_str() {
                Some("PodMonitor" | "PodDisruptionBudget") => &object["spec"]["selector"]["matchLabels"],
                Some("Service") => &object["spec"]["selector"],
                Some("NetworkPolicy") => &object["spec"]["podSelector"]["matchLabels"],
                _ => continue,
            };
            let component = selector["app.kubernetes.io/component"].as_str().context("no component")?;
            let kind = if component == "nats" { "StatefulSet" } else { "Deployment" };
            let pod = format!("{kind}/tidings-{component}");
            for (key, value) in selector.as_object().context("no selector")? {
                assert_eq!(labels_of(&pod).get(key), Some(value), "{values}: {} does not select {pod}", label(object));
            }
            for part in ["podMetricsEndpoints", "ports"] {
                for endpoint in object["spec"][part].as_array().into_iter().flatten() {
                    let port = if part == "ports" { &endpoint["targetPort"] } else { &endpoint["port"] };
                    assert!(ports_of(&pod).contains(&format!("\"name\":{port}")), "{values}: {} {port}", label(object));
                }
            }
        }
        for monitor in objects.iter().filter(|object| object["kind"] == "ServiceMonitor") {
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().context("no selector")?;
            let carries =
                |service: &&Value| wanted.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value);
            let services: Vec<_> =
                objects.iter().filter(|object| object["kind"] == "Service").filter(carries).collect();
            assert_eq!(services.len(), 1, "{values}: {}", label(monitor));
            assert_eq!(services[0]["spec"]["ports"][0]["name"], monitor["spec"]["endpoints"][0]["port"]);
        }
        for scaler in objects.iter().filter(|object| object["kind"] == "HorizontalPodAutoscaler") {
            assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "tidings-gateway");
            let gateway =
                objects.iter().find(|object| label(object) == "Deployment/tidings-gateway").context("none")?;
            assert!(gateway["spec"].get("replicas").is_none(), "{values}: two would decide how many there are");
        }
    }
    Ok(())
}
