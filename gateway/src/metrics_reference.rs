//! `docs/reference/metrics.md` lists the metrics of all rooms, and nothing else.

use std::collections::BTreeSet;

use http::StatusCode;

use crate::auth::metrics::TokenMetrics;
use crate::limits::metrics::LimitMetrics;
use crate::metrics::registry::{Metrics, Operation};

const REFERENCE: &str = include_str!("../../docs/reference/metrics.md");

fn everything() -> String {
    let metrics = Metrics::new(10);
    LimitMetrics::registered(&metrics);
    TokenMetrics::registered(&metrics);
    metrics.channel("demo/hello").stream_opened();
    metrics.request(Operation::Subscribe, StatusCode::OK);
    metrics.text().unwrap()
}

/// The samples' names as Prometheus stores them.
fn exported() -> BTreeSet<String> {
    everything()
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .collect()
}

#[test]
fn the_reference_lists_exactly_the_metrics_that_exist() {
    let documented: BTreeSet<String> = REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("tidings_") || name.starts_with("process_"))
        .collect();
    assert_eq!(documented, exported());
}

#[test]
fn the_reference_lists_every_word_of_every_closed_set() {
    for line in everything().lines().filter(|line| !line.starts_with('#')) {
        for part in line.split(['{', ',', '}']) {
            let Some((label @ ("reason" | "kind" | "outcome" | "change"), word)) = part.split_once('=') else {
                continue;
            };
            let word = word.trim_matches('"');
            assert!(REFERENCE.contains(&format!("`{word}`")), "{label}={word} is missing in metrics.md");
        }
    }
}
