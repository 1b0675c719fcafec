//! What comes out: a line of JSON for each case and server, and a table of medians beside the targets.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::case::{Case, Figures};
use crate::machine::Machine;
use crate::server::Kind;
use crate::target::{Limit, ROWS, Row};

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

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Record {
    Machine { machine: Box<Machine> },
    Line(Line),
}

/// All lines of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    machine: Option<Machine>,
    lines: Vec<Line>,
}

/// The middle of several values, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Values {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    count: usize,
}

// === impl Report ===

impl Report {
    /// A run that begins here and now. Also its first line.
    pub(crate) fn begin(machine: Machine) -> Result<(Self, String)> {
        let line = serde_json::to_string(&serde_json::json!({ "machine": machine }))?;
        Ok((Self { machine: Some(machine), lines: Vec::new() }, line))
    }

    /// Lines written by an earlier run.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            match serde_json::from_str(line).with_context(|| format!("not a line of a run: {line}"))? {
                Record::Machine { machine } => report.machine = Some(*machine),
                Record::Line(line) => report.lines.push(line),
            }
        }
        Ok(report)
    }

    /// Adds a result and returns its line.
    pub(crate) fn add(&mut self, case: &str, kind: Kind, round: u32, load: f64, figures: Figures) -> Result<String> {
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), (value * 1e3).round() / 1e3)).collect();
        let line = Line { case: case.to_owned(), server: kind.name().to_owned(), round, load, figures };
        let text = serde_json::to_string(&line)?;
        self.lines.push(line);
        Ok(text)
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The faults of all lines: events lost, repeated or out of order, streams broken.
    pub(crate) fn faults(&self) -> f64 {
        let of = |line: &Line| ["faults", "missing"].iter().filter_map(|name| line.figures.get(*name)).sum::<f64>();
        self.lines.iter().map(of).sum()
    }

    pub(crate) fn values(&self, case: Case, kind: Kind, figure: &str) -> Option<Values> {
        let lines = self.lines.iter().filter(|line| line.case == case.name() && line.server == kind.name());
        Values::of(lines.filter_map(|line| line.figures.get(figure).copied()))
    }

    /// The table, beside an earlier run if there is one.
    pub(crate) fn table(&self, before: Option<&Self>) -> String {
        let mut columns = vec!["measure", "floor", "nchan", "Tidings", "÷ floor", "÷ nchan", "target", "reached"];
        columns.extend(before.map(|_| "Tidings before"));
        let mut table = format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        for row in ROWS {
            let Some(mut cells) = self.cells(row) else { continue };
            if let Some(before) = before {
                cells.push(cell(before.values(row.case, Kind::Tidings, row.figure)));
            }
            let _ = writeln!(table, "| {} |", cells.join(" | "));
        }
        let _ = write!(table, "\n{}", self.footnotes());
        table
    }

    fn cells(&self, row: &Row) -> Option<Vec<String>> {
        let of = |kind| self.values(row.case, kind, row.figure);
        let ours = of(Kind::Tidings)?;
        let ratio = |kind| of(kind).filter(|other| other.median > 0.0).map(|other| ours.median / other.median);
        let sign = if row.more { '≥' } else { '≤' };
        let targets = row.limits.iter().map(|limit| match limit {
            Limit::Is(value) => format!("{sign} {}", short(*value)),
            Limit::Of(kind, value) => format!("{sign} {value} × {}", kind.name()),
        });
        let reached = row.limits.iter().map(|limit| match row.reached(ours.median, *limit, ratio) {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "?",
        });
        let name = if row.unit.is_empty() { row.what.to_owned() } else { format!("{}, {}", row.what, row.unit) };
        let ratios = [Kind::Floor, Kind::Nchan].map(|kind| ratio(kind).map_or("–".to_owned(), short));
        let mut cells = vec![name, cell(of(Kind::Floor)), cell(of(Kind::Nchan)), cell(Some(ours))];
        cells.extend(ratios);
        cells.push(targets.collect::<Vec<_>>().join(", "));
        cells.push(reached.collect::<Vec<_>>().join(", "));
        Some(cells)
    }

    /// On what machine, how often, and who was left out of what.
    fn footnotes(&self) -> String {
        let rounds = self.lines.iter().map(|line| line.round).max().unwrap_or_default();
        let mut text = format!("Medians of {rounds}, least and most in brackets.");
        if let Some(machine) = &self.machine {
            let _ = write!(text, " {}", machine.sentence());
        }
        text.push_str("\n\n");
        let measured = |case: &Case| self.lines.iter().any(|line| line.case == case.name());
        let mut reasons: Vec<(Kind, &str, Vec<String>)> = Vec::new();
        for case in Case::value_variants().iter().copied().filter(measured) {
            for kind in [Kind::Floor, Kind::Nchan] {
                let Some(reason) = case.leaves_out(kind) else { continue };
                let name = format!("`{}`", case.name());
                match reasons.iter_mut().find(|known| (known.0, known.1) == (kind, reason)) {
                    Some(known) => known.2.push(name),
                    None => reasons.push((kind, reason, vec![name])),
                }
            }
        }
        for (kind, reason, cases) in reasons {
            let _ = writeln!(text, "- {} is not asked for {}: {reason}.", kind.name(), cases.join(", "));
        }
        text
    }
}

// === impl Values ===

impl Values {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: values.get(values.len() / 2).copied()?,
            least: values.first().copied()?,
            most: values.last().copied()?,
            count: values.len(),
        })
    }
}

/// Puts a text into a document, in place of the one between the comments that bear this name.
pub(crate) fn put_into(document: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let missing = || format!("the document needs a place for what is put in: {} … {end}", begin.trim_end());
    let (before, rest) = document.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}

fn cell(spread: Option<Values>) -> String {
    match spread {
        None => "–".to_owned(),
        Some(Values { median, count: 1, .. }) => short(median),
        Some(Values { median, least, most, .. }) if least == most => short(median),
        Some(Values { median, least, most, .. }) => format!("{} ({}–{})", short(median), short(least), short(most)),
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 10_000_000.0 => format!("{:.0} M", value / 1e6),
        large if large >= 1_000_000.0 => format!("{:.2} M", value / 1e6),
        large if large >= 10_000.0 => format!("{:.0} k", value / 1e3),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let (mut report, _) = Report::begin(Machine::default()).unwrap();
        for (round, ours) in [4.0, 9.0, 3.8].into_iter().enumerate() {
            for (kind, value) in [(Kind::Floor, 3.5), (Kind::Nchan, 6.0), (Kind::Tidings, ours)] {
                let figures = Figures::from([("cpu_us", value)]);
                report.add("steady1k", kind, round as u32 + 1, 0.5, figures).unwrap();
            }
        }
        report
    }

    #[test]
    fn medians_ratios_and_targets_stand_in_the_table() {
        let report = report();
        let table = report.table(Some(&report));
        assert_eq!(
            table.lines().nth(2).unwrap(),
            "| CPU per delivery, 1,000 × 50/s, µs | 3.50 | 6.00 | 4.00 (3.80–9.00) | 1.14 | 0.67 | ≤ 1.15 × floor, ≤ 0.65 × nchan | yes, **no** | 4.00 (3.80–9.00) |"
        );
        assert!(table.contains("Medians of 3"), "{table}");
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let (mut report, first) = Report::begin(Machine { cores: 2, ..Machine::default() }).unwrap();
        let faulty = Figures::from([("faults", 2.0), ("missing", 1.0)]);
        let line = report.add("resume", Kind::Tidings, 1, 0.0, faulty).unwrap();
        let read = Report::read(&format!("{first}\n{line}\n")).unwrap();
        assert_eq!((read.table(None), read.faults()), (report.table(None), 3.0));
        assert!(read.table(None).contains("nchan is not asked for `resume`: there is no stream behind it"));
        assert!(Report::read("{}").is_err());
    }

    #[test]
    fn a_table_replaces_the_one_in_a_document() {
        let document = |text: &str| format!("# A\n<!-- t: begin -->\n{text}\n<!-- t: end -->\nrest\n");
        assert_eq!(put_into(&document("old"), "t", "new\n").unwrap(), document("new"));
        assert!(put_into(&document("old"), "u", "new\n").is_err());
    }
}
