//! What the chart's rules, dashboard and scaling ask Prometheus for.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::helm::label;

/// Every expression of rules and dashboards among rendered objects.
pub fn expressions(objects: &[Value]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for object in objects {
        match object["kind"].as_str() {
            Some("PrometheusRule") => collect(&object["spec"], &mut found),
            Some("ConfigMap") if label(object).ends_with("-dashboard") => {
                let dashboard = object["data"]["tidings.json"].as_str().context("no dashboard")?;
                collect(&serde_json::from_str(dashboard).context("the dashboard is not JSON")?, &mut found);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The values of all fields `expr`, wherever they stand, as Grafana would send them.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" => found.push(text.replace("$__rate_interval", "5m")),
                    other => collect(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// Every metric that rules, dashboards and scaling among rendered objects use; a histogram by its own name.
pub fn used(objects: &[Value]) -> BTreeSet<String> {
    let asking = objects.iter().filter(|object| match object["kind"].as_str() {
        Some("PrometheusRule" | "HorizontalPodAutoscaler") => true,
        Some("ConfigMap") => label(object).ends_with("-dashboard"),
        _ => false,
    });
    let texts = asking.map(|object| format!("{} {}", object["spec"], object["data"]));
    let names = texts.flat_map(|text| metrics_in(&text));
    names.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

/// Every metric that a text mentions: names with our prefix, or the process's.
pub fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    let ours = words.filter(|word| word.starts_with("tidings_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}
