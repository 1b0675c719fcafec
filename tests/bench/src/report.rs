//! What comes out: a line of JSON for each case and server, and a table of medians beside the targets.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::case::{Case, Figures};
use crate::server::Kind;

/// One case on one server, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) case: String,
    pub(crate) server: String,
    pub(crate) round: u32,
    /// The machine's load average of the last minute when it began: what else was going on.
    pub(crate) load: f64,
    pub(crate) figures: BTreeMap<String, f64>,
}

/// All lines of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

/// What Tidings has to reach.
struct Target {
    case: Case,
    figure: &'static str,
    unit: &'static str,
    /// Larger is better.
    more: bool,
    limits: &'static [Limit],
}

enum Limit {
    /// The figure itself.
    Is(f64),
    /// Its ratio to another server's.
    Of(Kind, f64),
}

use Limit::{Is, Of};

const fn at_most(case: Case, figure: &'static str, unit: &'static str, limits: &'static [Limit]) -> Target {
    Target { case, figure, unit, more: false, limits }
}

const TARGETS: &[Target] = &[
    at_most(Case::Idle, "bytes_per_subscriber", "B", &[Is(1024.0), Of(Kind::Nchan, 0.1)]),
    at_most(Case::Idle, "memory_kept_mb", "MB", &[Is(10.0)]),
    at_most(Case::Idle, "cpu_us_per_connect", "µs", &[Of(Kind::Nchan, 1.2)]),
    at_most(Case::Steady1k, "cpu_us", "µs", &[Of(Kind::Floor, 1.15), Of(Kind::Nchan, 0.65)]),
    at_most(Case::Steady1k, "p99_ms", "ms", &[Of(Kind::Nchan, 0.8)]),
    at_most(Case::Steady10k, "cpu_us", "µs", &[Of(Kind::Floor, 1.2), Of(Kind::Nchan, 0.65)]),
    at_most(Case::Steady10k, "p99_ms", "ms", &[Of(Kind::Nchan, 0.8)]),
    at_most(Case::Steady10k, "head_max_ms", "ms", &[Is(10.0)]),
    Target {
        case: Case::OneInFlight,
        figure: "deliveries_per_s",
        unit: "/s",
        more: true,
        limits: &[Of(Kind::Nchan, 1.25)],
    },
    at_most(Case::OneInFlight, "cpu_us", "µs", &[]),
    Target {
        case: Case::SixteenInFlight,
        figure: "deliveries_per_s",
        unit: "/s",
        more: true,
        limits: &[Is(2_223_000.0)],
    },
    at_most(Case::SixteenInFlight, "cpu_us", "µs", &[]),
    at_most(Case::Topics, "cpu_us", "µs", &[Of(Kind::Nchan, 1.2)]),
    at_most(Case::Topics, "p99_ms", "ms", &[]),
    at_most(Case::Stopped, "p99_ms", "ms", &[]),
    at_most(Case::Stopped, "cpu_us", "µs", &[]),
    at_most(Case::Turnover, "faults", "", &[Is(0.0)]),
    at_most(Case::Resume, "missing", "", &[Is(0.0)]),
    at_most(Case::Resume, "cpu_us", "µs", &[]),
    at_most(Case::Resume, "memory_above_steady_mb", "MB", &[Is(64.0)]),
];

// === impl Report ===

impl Report {
    /// Lines written by an earlier run.
    pub(crate) fn read(text: &str) -> Result<Self> {
        Ok(Self { lines: text.lines().map(serde_json::from_str).collect::<Result<_, _>>()? })
    }

    /// Adds a result and returns its line.
    pub(crate) fn add(&mut self, case: Case, kind: Kind, round: u32, load: f64, figures: Figures) -> Result<String> {
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), (value * 1e3).round() / 1e3)).collect();
        let line = Line { case: case.name(), server: kind.name().to_owned(), round, load, figures };
        let text = serde_json::to_string(&line)?;
        self.lines.push(line);
        Ok(text)
    }

    fn median(&self, case: Case, kind: Kind, figure: &str) -> Option<f64> {
        let lines = self.lines.iter().filter(|line| line.case == case.name() && line.server == kind.name());
        let mut values: Vec<f64> = lines.filter_map(|line| line.figures.get(figure).copied()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// The table, beside an earlier run if there is one.
    pub(crate) fn table(&self, before: Option<&Self>) -> String {
        let mut table =
            String::from("| case | figure | floor | nchan | tidings | ratio to floor | ratio to nchan | target |");
        table.push_str(if before.is_some() { " before |\n" } else { "\n" });
        table.push_str("|---|---|---|---|---|---|---|---|");
        table.push_str(if before.is_some() { "---|\n" } else { "\n" });
        for target in TARGETS {
            let of = |report: &Self, kind| report.median(target.case, kind, target.figure);
            let Some(ours) = of(self, Kind::Gateway) else { continue };
            let (floor, nchan) = (of(self, Kind::Floor), of(self, Kind::Nchan));
            let ratio = |other: Option<f64>| other.filter(|other| *other > 0.0).map(|other| ours / other);
            let ratios = (ratio(floor), ratio(nchan));
            let reached = |limit: &Limit| {
                let (value, limit) = match limit {
                    Is(limit) => (Some(ours), *limit),
                    Of(Kind::Floor, limit) => (ratios.0, *limit),
                    Of(_, limit) => (ratios.1, *limit),
                };
                value.map(|value| if target.more { value >= limit } else { value <= limit })
            };
            let sign = if target.more { '≥' } else { '≤' };
            let said: Vec<String> = target
                .limits
                .iter()
                .map(|limit| {
                    let mark = match reached(limit) {
                        Some(true) => "✓",
                        Some(false) => "✗",
                        None => "?",
                    };
                    match limit {
                        Is(value) => format!("{mark} {sign} {}", short(*value)),
                        Of(kind, value) => format!("{mark} {sign} {value} × {}", kind.name()),
                    }
                })
                .collect();
            let cell = |value: Option<f64>| value.map_or("–".to_owned(), short);
            let _ = write!(
                table,
                "| {} | {} {} | {} | {} | {} | {} | {} | {} |",
                target.case.name(),
                target.figure.trim_end_matches("_ms").trim_end_matches("_mb").trim_end_matches("_us").replace('_', " "),
                target.unit,
                cell(floor),
                cell(nchan),
                short(ours),
                cell(ratios.0),
                cell(ratios.1),
                if said.is_empty() { "–".to_owned() } else { said.join(", ") },
            );
            if let Some(before) = before {
                let _ = write!(table, " {} |", cell(of(before, Kind::Gateway)));
            }
            table.push('\n');
        }
        table
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 10_000.0 => format!("{:.0} k", value / 1e3),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_targets_stand_in_the_table() {
        let mut report = Report::default();
        for (round, ours) in [4.0, 9.0, 3.8].into_iter().enumerate() {
            for (kind, value) in [(Kind::Floor, 3.5), (Kind::Nchan, 6.0), (Kind::Gateway, ours)] {
                let figures = Figures::from([("cpu_us", value)]);
                report.add(Case::Steady1k, kind, round as u32, 0.5, figures).unwrap();
            }
        }
        let table = report.table(Some(&report));
        let row = table.lines().nth(2).unwrap();
        assert_eq!(
            row,
            "| steady1k | cpu µs | 3.50 | 6.00 | 4.00 | 1.14 | 0.67 | ✓ ≤ 1.15 × floor, ✗ ≤ 0.65 × nchan | 4.00 |"
        );
        let lines: Vec<String> = report.lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        assert_eq!(Report::read(&lines.join("\n")).unwrap().table(None).lines().count(), 3);
    }
}
