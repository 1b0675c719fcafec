//! What administrators have to provide for, from the medians of a run.

use std::fmt::Write;

use crate::case::Case;
use crate::report::Report;
use crate::server::Kind;

/// A row of the table: what, the figure of three cases (HTTP/1.1, TLS, HTTP/2), and how it is told.
type Row = (&'static str, [Option<(Case, &'static str)>; 3], fn(f64) -> String);

const fn of(case: Case, figure: &'static str) -> Option<(Case, &'static str)> {
    Some((case, figure))
}

const ROWS: &[Row] = &[
    (
        "memory of the process for 10,000 idle subscribers",
        [
            of(Case::Idle, "bytes_per_subscriber"),
            of(Case::IdleTls, "bytes_per_subscriber"),
            of(Case::IdleHttp2, "bytes_per_subscriber"),
        ],
        |bytes| format!("{:.0} MB", bytes * 10_000.0 / 1e6),
    ),
    (
        "1,000 deliveries/s, a publication to many",
        [of(Case::Steady1k, "cpu_us"), of(Case::Steady1kTls, "cpu_us"), of(Case::Steady1kHttp2, "cpu_us")],
        |micros| of_a_core(micros * 1_000.0),
    ),
    ("1,000 deliveries/s, a publication to one", [of(Case::Topics, "cpu_us"), None, None], |micros| {
        of_a_core(micros * 1_000.0)
    }),
    (
        "100 connects/s",
        [
            of(Case::Idle, "cpu_us_per_connect"),
            of(Case::IdleTls, "cpu_us_per_connect"),
            of(Case::IdleHttp2, "cpu_us_per_connect"),
        ],
        |micros| of_a_core(micros * 100.0),
    ),
    ("100 connects/s with a token (ES256)", [of(Case::ConnectEs256, "cpu_us_per_connect"), None, None], |micros| {
        of_a_core(micros * 100.0)
    }),
];

/// A table in Markdown.
pub(crate) fn table(report: &Report) -> String {
    let mut table = "| | HTTP/1.1 | HTTP/1.1 over TLS | HTTP/2 |\n|---|---|---|---|\n".to_owned();
    for (what, figures, tell) in ROWS {
        let cells = figures.map(|figure| {
            let median = figure.and_then(|(case, figure)| report.values(case, Kind::Tidings, figure));
            median.map_or("–".to_owned(), |values| tell(values.median))
        });
        let _ = writeln!(table, "| {what} | {} |", cells.join(" | "));
    }
    table
}

/// Microseconds a second.
fn of_a_core(micros: f64) -> String {
    format!("{:.1} % of a core", micros / 1e4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Figures;

    #[test]
    fn figures_become_what_to_provide() {
        let mut report = Report::default();
        report.add("idle", Kind::Tidings, 1, 0.0, Figures::from([("bytes_per_subscriber", 512.0)])).unwrap();
        report.add("topics", Kind::Tidings, 1, 0.0, Figures::from([("cpu_us", 23.0)])).unwrap();
        let table = table(&report);
        assert!(table.contains("| memory of the process for 10,000 idle subscribers | 5 MB | – | – |"), "{table}");
        assert!(table.contains("| 1,000 deliveries/s, a publication to one | 2.3 % of a core | – | – |"), "{table}");
    }
}
