//! The status of all Channels as a table for people. Pure.

use std::fmt::Write;

use crate::files::inventory::Complaint;
use crate::reconcile::report::Report;

/// One line of the table.
struct Row {
    cells: [String; 4],
    complaint: String,
}

/// The table, with what is wrong below its Channel, and what is wrong with files at the end.
pub fn table<'r>(reports: impl IntoIterator<Item = &'r Report>, complaints: &[Complaint]) -> String {
    let rows: Vec<Row> = reports.into_iter().map(Row::of).collect();
    let head = ["CHANNEL", "STATE", "STREAM", "SUBJECTS"];
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    if rows.is_empty() {
        text.push_str("No Channels.\n");
    } else {
        line(&mut text, &head, &widths);
    }
    for row in &rows {
        line(&mut text, &row.cells.each_ref().map(String::as_str), &widths);
        if !row.complaint.is_empty() {
            let _ = writeln!(text, "  └ {}", row.complaint);
        }
    }
    for complaint in complaints {
        let _ = writeln!(text, "! {complaint}");
    }
    text
}

fn line(text: &mut String, cells: &[&str; 4], widths: &[usize; 4]) {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(line, "{cell:<width$}   ");
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

// === impl Row ===

impl Row {
    fn of(report: &Report) -> Self {
        let served = if report.served.is_some() && !(report.is_accepted() && report.is_programmed()) {
            // The last good Route is worth knowing about exactly when the newest is not in force.
            " (last valid Route served)"
        } else {
            ""
        };
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        Self {
            cells: [
                report.key.to_string(),
                format!("{}{served}", report.state()),
                or_dash(report.stream.as_deref().unwrap_or_default()),
                or_dash(&report.subjects.join(" ")),
            ],
            complaint: report.complaint().to_owned(),
        }
    }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_crds::condition::{AcceptedReason, ProgrammedReason};
    use tidings_crds::key::ChannelKey;

    #[test]
    fn columns_are_aligned_and_complaints_stand_below_their_channel() {
        let bad = Report::unusable(
            ChannelKey::new("demo", "bad"),
            AcceptedReason::InvalidSpec,
            "spec.events.retryMilliseconds: write at least 500".into(),
            None,
        );
        let good = Report {
            key: ChannelKey::new("shop", "orders"),
            accepted: AcceptedReason::Accepted,
            programmed: ProgrammedReason::Programmed,
            stream: Some("TIDINGS_shop_orders".into()),
            subjects: vec!["tidings.shop.orders".into(), "tidings.shop.orders.>".into()],
            ..bad.clone()
        };
        let complaint = Complaint { file: "x/c.yaml".into(), line: Some(3), message: "not YAML".into() };
        let expected = "\
CHANNEL       STATE         STREAM                SUBJECTS
demo/bad      InvalidSpec   -                     -
  └ spec.events.retryMilliseconds: write at least 500
shop/orders   Programmed    TIDINGS_shop_orders   tidings.shop.orders tidings.shop.orders.>
! x/c.yaml:3: not YAML
";
        assert_eq!(table([&bad, &good], &[complaint]), expected);
        assert_eq!(table([], &[]), "No Channels.\n");
    }
}
