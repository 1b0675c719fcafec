//! A client's record in short, and its faults in words: what a failed run prints last, as little of a log may be kept.

use std::fmt::Write as _;
use std::time::Instant;

use crate::event_source::{Entry, Happening, Record, sequence_of};
use crate::ledger::Fault;
use crate::truth::Truth;

/// More faults than these are counted, not told.
const FAULTS: usize = 12;

/// The longest text of a single entry.
const WIDTH: usize = 160;

/// One line a thing that happened, and one for events that followed each other without a hole.
pub fn told(record: &Record) -> String {
    let start = record.first().map_or_else(Instant::now, |entry| entry.at);
    let mut text = String::new();
    let mut rest = record.as_slice();
    while let [first, ..] = rest {
        let run = run(rest);
        let (taken, left) = rest.split_at(run);
        let until = taken.last().map_or(first.at, |last| last.at) - start;
        let _ = write!(text, "  {:>9.3?} ", first.at - start);
        let _ = match (&first.what, taken.last().map(|last| &last.what)) {
            (Happening::Event(from), Some(Happening::Event(to))) if run > 1 => {
                writeln!(text, "{run} events, {} to {}, until {until:.3?}", from.id, to.id)
            }
            _ if run > 1 => writeln!(text, "{run} times {}, until {until:.3?}", one(&first.what)),
            _ => writeln!(text, "{}", one(&first.what)),
        };
        rest = left;
    }
    text
}

/// The faults in a record, with what is known of the events in question; times count from the record's start.
pub fn explained(faults: &[Fault], truth: &Truth, record: &Record) -> String {
    let start = record.first().map_or_else(Instant::now, |entry| entry.at);
    let shown = faults.iter().take(FAULTS).map(|fault| match fault {
        Fault::Lost(sequence) | Fault::Silent(sequence) | Fault::NotAsked(sequence) => {
            format!("{fault:?}: {}", fate(truth, *sequence, start))
        }
        _ => format!("{fault:?}"),
    });
    let more = faults.len().saturating_sub(FAULTS);
    let more = (more > 0).then(|| format!("and {more} more"));
    shown.chain(more).collect::<Vec<_>>().join("; ")
}

/// How many entries from the first on are told in one line.
fn run(entries: &[Entry]) -> usize {
    let joined = entries.windows(2).take_while(|pair| match pair {
        [Entry { what: Happening::Event(one), .. }, Entry { what: Happening::Event(next), .. }] => {
            let plain = !one.event.starts_with("tidings.") && !next.event.starts_with("tidings.");
            plain && sequence_of(&one.id).map(|sequence| sequence + 1) == sequence_of(&next.id)
        }
        [Entry { what: Happening::Comment(_), .. }, Entry { what: Happening::Comment(_), .. }] => true,
        _ => false,
    });
    joined.count() + 1
}

fn one(what: &Happening) -> String {
    let text = match what {
        Happening::Event(event) if event.event.starts_with("tidings.") => {
            format!("{} {}, id {}", event.event, event.data, event.id)
        }
        Happening::Event(event) => format!("event {}", event.id),
        Happening::Open(_) => "open".to_owned(),
        other => format!("{other:?}"),
    };
    text.chars().take(WIDTH).collect()
}

fn fate(truth: &Truth, sequence: u64, start: Instant) -> String {
    let Some(fact) = truth.0.last().and_then(|newest| newest.facts.get(&sequence)) else {
        return "never stored".to_owned();
    };
    let removed = fact.removed.map_or_else(
        || "still stored".to_owned(),
        |(removal, since)| match since.checked_duration_since(start) {
            Some(after) => format!("removed ({removal:?}) after {after:.3?}"),
            None => format!("removed ({removal:?}) {:.3?} before", start.saturating_duration_since(since)),
        },
    );
    format!("topic {:?}, {removed}", fact.topic)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidings_crds::position::Epoch;

    use super::*;
    use crate::sse::Event;
    use crate::truth::{Fact, Incarnation, Removal};

    fn record(start: Instant, happenings: impl IntoIterator<Item = Happening>) -> Record {
        let times = (0u64..).map(|number| start + Duration::from_millis(number));
        times.zip(happenings).map(|(at, what)| Entry { at, what }).collect()
    }

    fn event(sequence: u64) -> Happening {
        Happening::Event(Event { id: format!("a-{sequence}"), event: "message".into(), data: "x".repeat(1000) })
    }

    #[test]
    fn events_without_a_hole_are_one_line() {
        let seen = [Happening::Connecting(String::new()), event(3), event(4), event(5), event(7), event(8)];
        assert_eq!(
            told(&record(Instant::now(), seen)),
            "    0.000ns Connecting(\"\")\n    1.000ms 3 events, a-3 to a-5, until 3.000ms\n    \
             4.000ms 2 events, a-7 to a-8, until 5.000ms\n"
        );
    }

    #[test]
    fn a_fault_comes_with_what_became_of_the_event() {
        let start = Instant::now();
        let mut truth = Incarnation::new(Epoch::from_nanos(10));
        let removed = Some((Removal::Front, start + Duration::from_millis(20)));
        truth.facts.insert(6, Fact { topic: "a".into(), removed, ..Fact::default() });
        assert_eq!(
            explained(&[Fault::Silent(6), Fault::Lost(9)], &Truth(vec![truth]), &record(start, [event(5)])),
            "Silent(6): topic \"a\", removed (Front) after 20.000ms; Lost(9): never stored"
        );
    }
}
