//! The offline checker: holds a subscriber's record against what the stream really held.
//!
//! It looks for everything the promise forbids: events lost, repeated, out of order, altered or not asked for, a loss
//! that no gap announced, and gaps that announce what did not happen.

use std::time::Instant;

use serde::Deserialize;
use tidings_crds::position::Position;
use tidings_crds::topic::TopicSet;

use crate::event_source::{Happening, Record};
use crate::sse::Event;
use crate::truth::{Incarnation, Removal, Truth};

/// What a subscriber asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which topics.
    pub topics: TopicSet,
    /// Where to start without a position.
    pub from: From,
}

/// Where a subscriber without a position starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the head.
    New,
    /// At the oldest event.
    All,
}

// === impl Request ===

impl Request {
    /// Everything that exists.
    pub fn all() -> Self {
        Self { topics: TopicSet::all(), from: From::All }
    }

    /// Everything from now on.
    pub fn new() -> Self {
        Self { topics: TopicSet::all(), from: From::New }
    }

    /// Of these topics only.
    ///
    /// # Panics
    /// When one is no filter.
    pub fn topics(mut self, filters: &[&str]) -> Self {
        let filters = filters.iter().map(|filter| filter.parse().expect("a topic filter"));
        self.topics = TopicSet::new(filters).unwrap_or_else(TopicSet::all);
        self
    }
}

impl Default for Request {
    fn default() -> Self {
        Self::new()
    }
}

/// Something the promise forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An id that is no position, or the position of nothing that was ever stored.
    Id(String),
    /// An event at or before the position that the subscriber had.
    Back {
        /// The position it had.
        from: u64,
        /// The event's.
        to: u64,
    },
    /// An event that was stored, asked for, and passed over.
    Lost(u64),
    /// An event that was removed with all before it, passed over without a gap.
    Silent(u64),
    /// An event of a topic that was not asked for.
    NotAsked(u64),
    /// An event that differs from what was stored.
    Altered {
        /// Its sequence.
        sequence: u64,
        /// What was received.
        received: String,
        /// What was stored.
        stored: String,
    },
    /// Another epoch without a gap before it.
    Epoch(String),
    /// A block without data.
    Blank,
    /// A gap that should not be there, or not like this.
    Gap {
        /// The gap's data.
        data: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
}

/// The data of a `tidings.gap`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Gap {
    /// Why continuity cannot be proven.
    pub reason: String,
    /// The position that the subscriber had.
    #[serde(default)]
    pub after: Option<String>,
    /// The position before the next event.
    #[serde(default)]
    pub resumed: Option<String>,
}

/// Checks a whole record, taken when everything stored had had its time to arrive.
pub fn check(truth: &Truth, request: &Request, record: &Record) -> Vec<Fault> {
    let mut reader = Reader { truth, request, at: None, last_id: String::new(), fresh: false, faults: Vec::new() };
    for entry in record {
        match &entry.what {
            Happening::Connecting(id) => reader.connect(id),
            Happening::Event(event) if event.event == "tidings.gap" => reader.gap(event, entry.at),
            Happening::Event(event) if event.event.starts_with("tidings.") => reader.moved(&event.id, entry.at),
            Happening::Event(event) => reader.event(event, entry.at),
            Happening::Checkpoint(id) => reader.moved(id, entry.at),
            Happening::Blank => reader.faults.push(Fault::Blank),
            _ => {}
        }
    }
    if let Some(last) = record.last() {
        reader.finish(last.at);
    }
    reader.faults
}

/// Checks a whole record, and panics with what is wrong with it.
pub fn assert_faultless(truth: &Truth, request: &Request, record: &Record) {
    let faults = check(truth, request, record);
    let shown: Vec<_> = faults.iter().take(20).collect();
    assert!(faults.is_empty(), "{} faults, the first of them: {shown:#?}", faults.len());
}

/// The gaps of a record, in order.
pub fn gaps(record: &Record) -> Vec<Gap> {
    let events = record.iter().filter_map(|entry| match &entry.what {
        Happening::Event(event) if event.event == "tidings.gap" => Some(&event.data),
        _ => None,
    });
    events.map(|data| serde_json::from_str(data).expect("a gap's data is JSON of its shape")).collect()
}

struct Reader<'t> {
    truth: &'t Truth,
    request: &'t Request,
    /// What was proven to the subscriber: everything up to this sequence of this incarnation.
    at: Option<(&'t Incarnation, u64)>,
    last_id: String,
    /// Whether it asked for what exists and has seen nothing of it: what goes meanwhile is no loss.
    fresh: bool,
    faults: Vec<Fault>,
}

impl<'t> Reader<'t> {
    /// A client without a position starts anew with every connection.
    fn connect(&mut self, id: &str) {
        if !id.is_empty() {
            self.fresh = false;
            if self.last_id.is_empty() {
                self.at = self.find(id).map(|(incarnation, position)| (incarnation, position.sequence));
                id.clone_into(&mut self.last_id);
            }
            return;
        }
        self.fresh = self.request.from == From::All;
        let newest = self.truth.0.last();
        // The head is where the gateway believes it to be, which may lie a little back: more than was asked for, not less.
        self.at = newest.filter(|_| self.request.from == From::All).map(|incarnation| (incarnation, 0));
    }

    fn moved(&mut self, id: &str, now: Instant) {
        if id == self.last_id {
            return;
        }
        let Some((incarnation, position)) = self.place(id) else { return };
        let opening = self.last_id.is_empty();
        if let Some((_, at)) = self.at {
            if position.sequence < at {
                self.faults.push(Fault::Back { from: at, to: position.sequence });
            } else {
                self.pass(incarnation, at, position.sequence + 1, !opening && !self.fresh, now);
            }
        }
        self.at = Some((incarnation, position.sequence));
        id.clone_into(&mut self.last_id);
    }

    fn event(&mut self, event: &Event, now: Instant) {
        let Some((incarnation, position)) = self.place(&event.id) else { return };
        let sequence = position.sequence;
        if let Some((_, at)) = self.at {
            if sequence <= at {
                self.faults.push(Fault::Back { from: at, to: sequence });
            }
            self.pass(incarnation, at, sequence, !self.last_id.is_empty() && !self.fresh, now);
        }
        match incarnation.facts.get(&sequence) {
            None => self.faults.push(Fault::Id(event.id.clone())),
            Some(fact) if !self.request.topics.matches(&fact.topic) => self.faults.push(Fault::NotAsked(sequence)),
            Some(fact) if (&fact.event, &fact.data) != (&event.event, &event.data) => {
                let received = format!("{} {}", event.event, event.data);
                self.faults.push(Fault::Altered {
                    sequence,
                    received,
                    stored: format!("{} {}", fact.event, fact.data),
                });
            }
            Some(_) => {}
        }
        self.fresh = false;
        self.at = Some((incarnation, sequence));
        event.id.clone_into(&mut self.last_id);
    }

    fn gap(&mut self, event: &Event, now: Instant) {
        let wrong = |wrong| Fault::Gap { data: event.data.clone(), wrong };
        let Ok(gap) = serde_json::from_str::<Gap>(&event.data) else {
            return self.faults.push(wrong("not JSON of the right shape"));
        };
        if gap.resumed.as_deref() != Some(&event.id) {
            self.faults.push(wrong("`resumed` is not the event's id"));
        }
        let Some((incarnation, resumed)) = self.find(&event.id) else {
            return self.faults.push(Fault::Id(event.id.clone()));
        };
        let after = gap.after.as_deref().and_then(|after| self.find(after));
        match (gap.reason.as_str(), self.at) {
            ("expired", Some((old, at))) => {
                let after = after.map_or(at, |(_, after)| after.sequence);
                if old.epoch != incarnation.epoch {
                    self.faults.push(wrong("expired, and in another epoch"));
                }
                // The subscriber may stand further on than it was told, where nothing that it asked for lies between.
                if after < at {
                    self.faults.push(wrong("`after` lies before the subscriber's position"));
                }
                self.pass(incarnation, at, after + 1, !self.fresh, now);
                if !incarnation.keeps_all {
                    self.faults.push(wrong("expired, where older values are dropped by contract"));
                }
                if incarnation.first_at_most(now) <= after + 1 || resumed.sequence <= after {
                    self.faults.push(wrong("expired, and nothing had"));
                }
                self.pass(incarnation, after, resumed.sequence + 1, false, now);
                self.fresh = false;
            }
            ("reset", Some((old, _))) => {
                if old.epoch == incarnation.epoch {
                    self.faults.push(wrong("reset, and in the same epoch"));
                }
                self.pass(incarnation, 0, resumed.sequence + 1, false, now);
                self.fresh = true;
            }
            ("reset" | "unknown-position", None) => {}
            ("unknown-position", Some(_)) => self.faults.push(wrong("the position is known")),
            (_, None) => self.faults.push(wrong("the subscriber had no position")),
            _ => self.faults.push(wrong("another reason than those of the contract")),
        }
        self.at = Some((incarnation, resumed.sequence));
        event.id.clone_into(&mut self.last_id);
    }

    /// At the end, nothing that was asked for may be outstanding.
    fn finish(&mut self, now: Instant) {
        if let (Some((at_in, at)), Some(newest)) = (self.at, self.truth.0.last()) {
            if at_in.epoch != newest.epoch {
                self.faults.push(Fault::Epoch(at_in.epoch.to_string()));
            }
            let end = newest.facts.last_key_value().map_or(0, |(last, _)| last + 1);
            self.pass(newest, at, end, false, now);
        }
    }

    /// The subscriber goes from `after` to `next`, both exclusive: what lies between must be gone.
    fn pass(&mut self, incarnation: &Incarnation, after: u64, next: u64, told: bool, now: Instant) {
        if after + 1 >= next {
            return;
        }
        for (sequence, fact) in incarnation.facts.range(after + 1..next) {
            if !self.request.topics.matches(&fact.topic) {
                continue;
            }
            match fact.removed {
                Some((Removal::Front, since)) if since <= now && told && incarnation.keeps_all => {
                    self.faults.push(Fault::Silent(*sequence));
                }
                Some((_, since)) if since <= now => {}
                _ => self.faults.push(Fault::Lost(*sequence)),
            }
        }
    }

    /// The position that an id names, in the subscriber's own epoch.
    fn place(&mut self, id: &str) -> Option<(&'t Incarnation, Position)> {
        let Some((incarnation, position)) = self.find(id) else {
            self.faults.push(Fault::Id(id.to_owned()));
            return None;
        };
        if self.at.is_some_and(|(old, _)| old.epoch != incarnation.epoch) {
            self.faults.push(Fault::Epoch(id.to_owned()));
            self.at = None;
        }
        Some((incarnation, position))
    }

    fn find(&self, id: &str) -> Option<(&'t Incarnation, Position)> {
        let position: Position = id.parse().ok()?;
        let incarnation = self.truth.0.iter().find(|incarnation| incarnation.epoch == position.epoch)?;
        let fact = incarnation.facts.get(&position.sequence);
        let stored = fact.is_some() || position.sequence == 0;
        let stamped = match (fact.and_then(|fact| fact.stamp), position.stamp) {
            (Some(true_stamp), Some(stamp)) => true_stamp == stamp,
            _ => true,
        };
        (stored && stamped).then_some((incarnation, position))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tidings_crds::position::{Epoch, Stamp};

    use super::*;
    use crate::event_source::Entry;
    use crate::truth::Fact;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn truth(count: u64) -> Incarnation {
        let mut incarnation = Incarnation::new(Epoch::from_nanos(36));
        for sequence in 1..=count {
            let fact = Fact {
                topic: if sequence % 2 == 0 { "even".into() } else { "odd".into() },
                event: "message".into(),
                data: sequence.to_string(),
                stamp: Some(Stamp::from_millis(sequence)),
                removed: None,
            };
            incarnation.facts.insert(sequence, fact);
        }
        incarnation
    }

    fn id(sequence: u64) -> String {
        Position { epoch: Epoch::from_nanos(36), sequence, stamp: (sequence > 0).then(|| Stamp::from_millis(sequence)) }
            .to_string()
    }

    fn event(sequence: u64) -> Happening {
        Happening::Event(Event { id: id(sequence), event: "message".into(), data: sequence.to_string() })
    }

    fn gap(reason: &str, after: u64, resumed: u64) -> Happening {
        let data = serde_json::json!({ "reason": reason, "after": id(after), "resumed": id(resumed) }).to_string();
        Happening::Event(Event { id: id(resumed), event: "tidings.gap".into(), data })
    }

    fn record(start: Instant, happenings: impl IntoIterator<Item = Happening>) -> Record {
        let late = at(start, 1_000_000);
        happenings.into_iter().map(|what| Entry { at: late, what }).collect()
    }

    fn faults(truth: &Incarnation, request: &Request, record: Record) -> Vec<Fault> {
        check(&Truth(vec![truth.clone()]), request, &record)
    }

    #[test]
    fn a_complete_record_has_no_faults() {
        let start = Instant::now();
        let seen = [Happening::Connecting(String::new()), Happening::Checkpoint(id(0)), event(1), event(2), event(3)];
        assert_eq!(faults(&truth(3), &Request::all(), record(start, seen)), []);
    }

    #[test]
    fn what_other_topics_hold_is_not_missed() {
        let start = Instant::now();
        let request = Request { topics: TopicSet::new(["even".parse().unwrap()]).unwrap(), from: From::All };
        let seen = [Happening::Connecting(String::new()), event(2), Happening::Checkpoint(id(3)), event(4)];
        assert_eq!(faults(&truth(4), &request, record(start, seen)), []);
        let seen = [Happening::Connecting(String::new()), event(2), Happening::Checkpoint(id(4))];
        assert_eq!(faults(&truth(4), &request, record(start, seen)), [Fault::Lost(4)]);
        let seen = [Happening::Connecting(String::new()), event(2), event(3), event(4)];
        assert_eq!(faults(&truth(4), &request, record(start, seen)), [Fault::NotAsked(3)]);
    }

    #[test]
    fn a_purge_must_be_told_and_a_deletion_need_not() {
        let start = Instant::now();
        let mut truth = truth(6);
        for sequence in 1..=3 {
            truth.facts.get_mut(&sequence).unwrap().removed = Some((Removal::Front, at(start, 10)));
        }
        truth.facts.get_mut(&5).unwrap().removed = Some((Removal::Single, at(start, 10)));
        let told = [Happening::Connecting(id(1)), gap("expired", 1, 3), event(4), event(6)];
        assert_eq!(faults(&truth, &Request::all(), record(start, told)), []);
        let silent = [Happening::Connecting(id(1)), event(4), event(6)];
        assert_eq!(faults(&truth, &Request::all(), record(start, silent)), [Fault::Silent(2), Fault::Silent(3)]);
        let fresh = [Happening::Connecting(String::new()), event(4), event(6)];
        assert_eq!(
            faults(&truth, &Request::all(), record(start, fresh)),
            [],
            "a client without a position misses nothing"
        );
    }

    #[test]
    fn a_gap_where_nothing_was_lost_is_a_fault() {
        let start = Instant::now();
        let seen = [Happening::Connecting(id(1)), gap("expired", 1, 2), event(3)];
        let found = faults(&truth(3), &Request::all(), record(start, seen));
        assert!(
            matches!(found[..], [Fault::Gap { wrong: "expired, and nothing had", .. }, Fault::Lost(2)]),
            "{found:?}"
        );
    }

    #[test]
    fn another_epoch_needs_a_reset() {
        let start = Instant::now();
        let (old, mut new) = (truth(3), truth(2));
        new.epoch = Epoch::from_nanos(37);
        let truth = Truth(vec![old, new.clone()]);
        let event = |sequence| {
            let id = new.position(sequence).to_string();
            Happening::Event(Event { id, event: "message".into(), data: sequence.to_string() })
        };
        let resumed = Position { epoch: new.epoch, sequence: 0, stamp: None }.to_string();
        let data = serde_json::json!({ "reason": "reset", "after": id(3), "resumed": resumed }).to_string();
        let reset = Happening::Event(Event { id: resumed, event: "tidings.gap".into(), data });
        let told = [Happening::Connecting(id(3)), reset, event(1), event(2)];
        assert_eq!(check(&truth, &Request::all(), &record(start, told)), []);
        let silent = check(&truth, &Request::all(), &record(start, [Happening::Connecting(id(3)), event(1), event(2)]));
        assert!(matches!(silent[..], [Fault::Epoch(_)]), "{silent:?}");
    }

    #[test]
    fn a_block_without_data_is_a_fault() {
        let start = Instant::now();
        let seen = [Happening::Connecting(String::new()), Happening::Blank, event(1)];
        assert_eq!(faults(&truth(1), &Request::all(), record(start, seen)), [Fault::Blank]);
    }

    #[test]
    fn a_new_subscriber_is_owed_what_comes_after_its_opening_position() {
        let start = Instant::now();
        let opening = [Happening::Connecting(String::new()), Happening::Checkpoint(id(3))];
        let complete = opening.clone().into_iter().chain([event(4), event(5)]);
        assert_eq!(faults(&truth(5), &Request::new(), record(start, complete)), []);
        let incomplete = opening.into_iter().chain([event(5)]);
        assert_eq!(faults(&truth(5), &Request::new(), record(start, incomplete)), [Fault::Lost(4)]);
    }

    proptest! {
        #[test]
        fn every_single_change_to_a_complete_record_is_found(count in 2u64..20, place in 0usize..19, kind in 0..5) {
            let start = Instant::now();
            let place = place % usize::try_from(count).unwrap();
            let mut seen: Vec<Happening> = (1..=count).map(event).collect();
            match kind {
                0 => { seen.remove(place); }
                1 => seen.insert(place, seen[place].clone()),
                2 if place > 0 => seen.swap(place - 1, place),
                3 => if let Happening::Event(event) = &mut seen[place] { event.data.push('x') },
                _ => if let Happening::Event(event) = &mut seen[place] { event.id.push('x') },
            }
            seen.insert(0, Happening::Connecting(String::new()));
            prop_assert_ne!(faults(&truth(count), &Request::all(), record(start, seen)), []);
        }
    }
}
