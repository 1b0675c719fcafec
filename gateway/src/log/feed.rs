//! A Feed: all subscribers of one channel with one topic filter, and the newest entries of the Log that pass it.
//!
//! What a feed holds beside the Log is bounded by count, since there may be as many feeds as subscribers: the older entries
//! that pass are found in the Log by a reader that lags.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use tidings_crds::topic::TopicSet;

use crate::log::chunked::Frame;
use crate::log::event_log::{Entry, Kind, Log};
use crate::log::publication::Millis;

/// Several frames on their way out as one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whole frames, in stream order, as one.
    pub bytes: Frame,
    /// How many.
    pub events: u64,
    /// The sequence of the last one.
    pub last: u64,
    /// When the last one was stored.
    pub newest: Millis,
}

/// The subscribers of one topic filter.
#[derive(Debug)]
pub struct Feed {
    topics: TopicSet,
    /// The newest entries that pass the filter, at most [`RECENT`]; empty only if the Log holds none that does.
    recent: VecDeque<Arc<Entry>>,
    /// Everything behind this that passes the filter is in `recent`; what comes before, behind `floor`, is in the Log alone.
    recent_from: u64,
    /// Everything behind this that passes the filter is in the Log. The Log's own floor moves on with what other feeds are
    /// sent; this one only with what is this feed's, or its subscribers would fall behind for events that are none of theirs.
    floor: u64,
    seats: Vec<Seat>,
    free: Vec<usize>,
    waiting: Vec<usize>,
}

/// How many entries a feed has at hand: 256 bytes of pointers. Readers that stand farther back pass over the Log for what is
/// theirs; that they are so many events behind pays for it.
const RECENT: usize = 32;

#[derive(Debug, Default)]
struct Seat {
    waker: Option<Waker>,
    /// Whether it stands in `waiting`.
    listed: bool,
}

// === impl Feed ===

impl Feed {
    /// A feed over what the Log holds now.
    pub fn new(topics: TopicSet, log: &Log) -> Self {
        let floor = log.floor().sequence;
        let mut passing = log.entries().rev().filter(|entry| entry.is_seen_by(&topics));
        let mut recent: VecDeque<_> = passing.by_ref().take(RECENT).cloned().collect();
        recent.make_contiguous().reverse();
        let recent_from = passing.next().map_or(floor, |entry| entry.sequence);
        Self { topics, recent, recent_from, floor, seats: Vec::new(), free: Vec::new(), waiting: Vec::new() }
    }

    /// What it lets pass.
    pub fn topics(&self) -> &TopicSet {
        &self.topics
    }

    /// Takes a seat for a subscriber.
    pub fn sit(&mut self) -> usize {
        match self.free.pop() {
            Some(seat) => seat,
            None => {
                self.seats.push(Seat::default());
                self.seats.len() - 1
            }
        }
    }

    /// Gives a seat back; says whether it was the last.
    pub fn rise(&mut self, seat: usize) -> bool {
        if let Some(place) = self.seats.get_mut(seat) {
            place.waker = None;
            self.free.push(seat);
        }
        self.free.len() == self.seats.len()
    }

    /// How many seats are taken.
    pub fn members(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    /// Adds an entry that passes the filter and is about to be the Log's newest.
    pub fn push(&mut self, entry: Arc<Entry>) {
        if self.recent.len() >= RECENT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_from = oldest.sequence;
        }
        self.recent.push_back(entry);
    }

    /// Up to here the stream must be read; what comes behind is in the Log.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Forgets what the Log has let go.
    pub fn evict(&mut self, through: u64) {
        self.floor = self.floor.max(through);
        self.recent_from = self.recent_from.max(through);
        while self.recent.front().is_some_and(|entry| entry.sequence <= through) {
            self.recent.pop_front();
        }
    }

    /// Forgets everything: the Log starts over, behind `floor`.
    pub fn clear(&mut self, floor: u64) {
        self.floor = floor;
        self.recent_from = floor;
        self.recent.clear();
    }

    /// The frames behind `after`, which is not below the floor, as many as fit into `budget` bytes, at least one if there is
    /// any; up to where something was lost.
    pub fn read(&self, log: &Log, after: u64, budget: usize) -> Option<Batch> {
        if self.is_read(after) {
            return None;
        }
        batch(self.behind(log, after).take_while(|entry| entry.kind != Kind::Lost), budget)
    }

    /// Whether there is nothing behind `after`.
    pub fn is_read(&self, after: u64) -> bool {
        self.recent.back().is_none_or(|newest| newest.sequence <= after)
    }

    /// Where continuity ends right behind `after`, if something was lost there.
    pub fn lost(&self, log: &Log, after: u64) -> Option<u64> {
        if self.is_read(after) {
            return None;
        }
        self.behind(log, after).next().filter(|entry| entry.kind == Kind::Lost).map(|entry| entry.sequence)
    }

    /// What passes the filter behind `after`: from the Log as far as it is not at hand.
    fn behind<'f>(&'f self, log: &'f Log, after: u64) -> impl Iterator<Item = &'f Arc<Entry>> + Clone {
        let older = (after < self.recent_from).then(|| {
            let unread = log.behind(after).take_while(|entry| entry.sequence <= self.recent_from);
            unread.filter(|entry| entry.is_seen_by(&self.topics))
        });
        let start = self.recent.partition_point(|entry| entry.sequence <= after);
        older.into_iter().flatten().chain(self.recent.range(start..))
    }

    /// Remembers whom to wake when something changes.
    pub fn wait(&mut self, seat: usize, waker: &Waker) {
        let Some(place) = self.seats.get_mut(seat) else { return };
        match &mut place.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        // A seat that was given back and taken again while nothing happened is still listed.
        if !std::mem::replace(&mut place.listed, true) {
            self.waiting.push(seat);
        }
    }

    /// Collects everybody who waits.
    pub fn wake(&mut self, woken: &mut Vec<Waker>) {
        for seat in self.waiting.drain(..) {
            if let Some(place) = self.seats.get_mut(seat) {
                place.listed = false;
                woken.extend(place.waker.take());
            }
        }
    }
}

/// Puts whole frames together. One alone is shared, not copied.
pub fn batch<'e>(entries: impl Iterator<Item = &'e Arc<Entry>> + Clone, budget: usize) -> Option<Batch> {
    let (mut size, mut events) = (0, 0);
    let mut last: Option<&Arc<Entry>> = None;
    for entry in entries.clone() {
        if events > 0 && size + entry.frame.len() > budget {
            break;
        }
        size += entry.frame.len();
        events += 1;
        last = Some(entry);
    }
    let last = last?;
    let bytes = if events == 1 {
        last.frame.clone()
    } else {
        Frame::join(entries.take(events).map(|entry| &entry.frame), size)
    };
    Some(Batch { bytes, events: events as u64, last: last.sequence, newest: last.time })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::event_log::{LogLimits, Mark};
    use tidings_crds::position::Epoch;

    fn entry(sequence: u64, topic: &str) -> Arc<Entry> {
        Arc::new(Entry {
            sequence,
            time: sequence,
            topic: topic.into(),
            frame: format!("<{sequence}>").into(),
            kind: Kind::Event,
        })
    }

    fn log(entries: impl IntoIterator<Item = Arc<Entry>>) -> Log {
        let limits = LogLimits { entries: 1000, bytes: 1 << 20 };
        let mut log = Log::new(Epoch::from_nanos(10), Mark { sequence: 0, stamp: None }, limits);
        entries.into_iter().for_each(|entry| drop(log.append(entry)));
        log
    }

    fn feed() -> (Feed, Log) {
        let topics = TopicSet::new(["a".parse().unwrap()]).unwrap();
        let log = log([entry(1, "a"), entry(2, "b"), entry(3, "a"), entry(4, "a")]);
        (Feed::new(topics, &log), log)
    }

    #[test]
    fn frames_behind_a_cursor_leave_as_one_piece() {
        let (feed, log) = feed();
        let batch = |after, budget| feed.read(&log, after, budget).map(|b| (b.bytes, b.events, b.last));
        assert_eq!(batch(0, 100), Some(("<1><3><4>".into(), 3, 4)));
        assert_eq!(batch(1, 100), Some(("<3><4>".into(), 2, 4)));
        assert_eq!(batch(0, 6), Some(("<1><3>".into(), 2, 3)));
        assert_eq!(batch(0, 0), Some(("<1>".into(), 1, 1)));
        assert_eq!(batch(4, 100), None);
    }

    #[test]
    fn what_is_not_at_hand_is_found_in_the_log() {
        let topics = TopicSet::new(["a".parse().unwrap()]).unwrap();
        let all: Vec<_> = (1..=200).map(|n| entry(n, if n % 2 == 0 { "a" } else { "b" })).collect();
        let late = Feed::new(topics.clone(), &log(all.clone()));
        let mut early = Feed::new(topics, &log([]));
        all.iter().filter(|entry| &*entry.topic == "a").for_each(|entry| early.push(entry.clone()));
        let log = log(all.clone());
        for feed in [&late, &early] {
            assert_eq!((feed.recent.len(), feed.recent_from), (RECENT, 136));
            for after in 0..=201 {
                let expected: Vec<_> = (after + 1..=200).filter(|n| n % 2 == 0).map(|n| format!("<{n}>")).collect();
                let read = feed.read(&log, after, 10_000).map(|batch| (batch.bytes, batch.events));
                let expected = (!expected.is_empty()).then(|| (expected.concat().into(), expected.len() as u64));
                assert_eq!(read, expected, "behind {after}");
                assert_eq!(feed.is_read(after), after >= 200);
            }
            let first = feed.read(&log, 0, 0).map(|batch| (batch.bytes, batch.last));
            assert_eq!(first, Some(("<2>".into(), 2)));
        }
    }

    #[test]
    fn a_loss_is_found_behind_what_is_at_hand_too() {
        let lost = Entry { sequence: 3, time: 1, topic: "".into(), frame: Frame::default(), kind: Kind::Lost };
        let mut all = vec![entry(1, "a"), Arc::new(lost)];
        all.extend((4..100).map(|n| entry(n, "a")));
        let log = log(all);
        let feed = Feed::new(TopicSet::new(["a".parse().unwrap()]).unwrap(), &log);
        assert_eq!(feed.read(&log, 0, 10_000).map(|batch| batch.bytes), Some("<1>".into()));
        assert_eq!((feed.read(&log, 1, 10_000), feed.lost(&log, 1)), (None, Some(3)));
        assert_eq!((feed.lost(&log, 0), feed.lost(&log, 3), feed.lost(&log, 99)), (None, None, None));
    }

    #[test]
    fn a_seat_that_changes_hands_is_listed_once() {
        let (mut feed, _) = feed();
        for _ in 0..5 {
            let seat = feed.sit();
            feed.wait(seat, Waker::noop());
            feed.rise(seat);
        }
        assert_eq!(feed.waiting.len(), 1);
        let mut woken = Vec::new();
        feed.wake(&mut woken);
        assert!(woken.is_empty());
    }

    #[test]
    fn eviction_takes_from_the_front() {
        let (mut feed, log) = feed();
        feed.evict(3);
        assert_eq!(feed.read(&log, 3, 100).unwrap().bytes, "<4>");
        assert_eq!((feed.recent.len(), feed.floor(), feed.recent_from), (1, 3, 3));
        feed.clear(9);
        assert_eq!((feed.read(&log, 9, 100), feed.floor(), feed.recent_from), (None, 9, 9));
    }

    #[test]
    fn seats_are_used_again() {
        let (mut feed, _) = feed();
        let (a, b) = (feed.sit(), feed.sit());
        assert!(!feed.rise(a));
        assert_eq!(feed.sit(), a);
        assert!(!feed.rise(a) && feed.rise(b));
    }
}
