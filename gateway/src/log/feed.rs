//! A Feed: all subscribers of one channel with one topic filter, and the entries of the Log that pass it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use tidings_crds::topic::TopicSet;

use crate::log::chunked::Frame;
use crate::log::event_log::{Entry, Kind};
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
    entries: VecDeque<Arc<Entry>>,
    /// Everything behind this that passes the filter is in `entries`. The Log's own floor moves on with what other feeds are
    /// sent; this one only with what is this feed's, or its subscribers would fall behind for events that are none of theirs.
    floor: u64,
    seats: Vec<Seat>,
    free: Vec<usize>,
    waiting: Vec<usize>,
    /// What was read last: most subscribers stand at the same place.
    read: RefCell<Option<Read>>,
}

#[derive(Debug, Default)]
struct Seat {
    waker: Option<Waker>,
    /// Whether it stands in `waiting`.
    listed: bool,
}

/// A batch, and the question that it answers.
#[derive(Debug)]
struct Read {
    after: u64,
    budget: usize,
    batch: Batch,
}

/// Frames that were put together are kept for the next reader where a feed has at least this many: at most a budget of
/// 64 KiB until the next publication, 8 KiB for each of them.
const SHARED: usize = 8;

// === impl Feed ===

impl Feed {
    /// A feed over what the Log holds now, which is everything behind `floor`.
    pub fn new<'l>(topics: TopicSet, floor: u64, log: impl Iterator<Item = &'l Arc<Entry>>) -> Self {
        let entries = log.filter(|entry| entry.is_for_all() || topics.matches(&entry.topic)).cloned().collect();
        let read = RefCell::default();
        Self { topics, entries, floor, seats: Vec::new(), free: Vec::new(), waiting: Vec::new(), read }
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

    /// Adds an entry that passes the filter.
    pub fn push(&mut self, entry: Arc<Entry>) {
        self.read.take();
        self.entries.push_back(entry);
    }

    /// Up to here the stream must be read; what comes behind is here.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Forgets what the Log has let go.
    pub fn evict(&mut self, through: u64) {
        self.read.take();
        self.floor = self.floor.max(through);
        while self.entries.front().is_some_and(|entry| entry.sequence <= through) {
            self.entries.pop_front();
        }
    }

    /// Forgets everything: the Log starts over, behind `floor`.
    pub fn clear(&mut self, floor: u64) {
        self.read.take();
        self.floor = floor;
        self.entries.clear();
    }

    /// The frames behind `after`, as many as fit into `budget` bytes, at least one if there is any; up to where something
    /// was lost.
    pub fn read(&self, after: u64, budget: usize) -> Option<Batch> {
        if self.is_read(after) {
            return None;
        }
        if let Some(read) = self.read.borrow().as_ref().filter(|read| read.after == after && read.budget == budget) {
            return Some(read.batch.clone());
        }
        let start = self.entries.partition_point(|entry| entry.sequence <= after);
        let batch = batch(self.entries.range(start..).take_while(|entry| entry.kind != Kind::Lost), budget)?;
        if batch.events == 1 || self.seats.len() - self.free.len() >= SHARED {
            *self.read.borrow_mut() = Some(Read { after, budget, batch: batch.clone() });
        }
        Some(batch)
    }

    /// Whether there is nothing behind `after`.
    pub fn is_read(&self, after: u64) -> bool {
        self.entries.back().is_none_or(|newest| newest.sequence <= after)
    }

    /// Where continuity ends right behind `after`, if something was lost there.
    pub fn lost(&self, after: u64) -> Option<u64> {
        let start = self.entries.partition_point(|entry| entry.sequence <= after);
        self.entries.get(start).filter(|entry| entry.kind == Kind::Lost).map(|entry| entry.sequence)
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

    fn entry(sequence: u64, topic: &str) -> Arc<Entry> {
        Arc::new(Entry {
            sequence,
            time: sequence,
            topic: topic.into(),
            frame: format!("<{sequence}>").into(),
            kind: Kind::Event,
        })
    }

    fn feed() -> Feed {
        let topics = TopicSet::new(["a".parse().unwrap()]).unwrap();
        Feed::new(topics, 0, [entry(1, "a"), entry(2, "b"), entry(3, "a"), entry(4, "a")].iter())
    }

    #[test]
    fn frames_behind_a_cursor_leave_as_one_piece() {
        let batch = |after, budget| feed().read(after, budget).map(|b| (b.bytes, b.events, b.last));
        assert_eq!(batch(0, 100), Some(("<1><3><4>".into(), 3, 4)));
        assert_eq!(batch(1, 100), Some(("<3><4>".into(), 2, 4)));
        assert_eq!(batch(0, 6), Some(("<1><3>".into(), 2, 3)));
        assert_eq!(batch(0, 0), Some(("<1>".into(), 1, 1)));
        assert_eq!(batch(4, 100), None);
    }

    #[test]
    fn readers_at_the_same_place_share_what_was_put_together() {
        let mut feed = feed();
        let _seats: Vec<_> = (0..SHARED).map(|_| feed.sit()).collect();
        let first = feed.read(0, 100).unwrap().bytes.text();
        assert_eq!(first.as_ptr(), feed.read(0, 100).unwrap().bytes.text().as_ptr());
        assert_eq!(feed.read(1, 100).unwrap().bytes, "<3><4>");
        assert_eq!(feed.read(0, 6).unwrap().bytes, "<1><3>");
        feed.push(entry(5, "a"));
        assert_eq!(feed.read(0, 100).unwrap().bytes, "<1><3><4><5>");
        feed.evict(1);
        assert_eq!(feed.read(0, 100).unwrap().bytes, "<3><4><5>");
        feed.clear(9);
        assert_eq!(feed.floor(), 9);
        assert_eq!(feed.read(0, 100), None);
    }

    #[test]
    fn a_seat_that_changes_hands_is_listed_once() {
        let mut feed = feed();
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
        let mut feed = feed();
        feed.evict(3);
        assert_eq!(feed.read(0, 100).unwrap().bytes, "<4>");
    }

    #[test]
    fn seats_are_used_again() {
        let mut feed = feed();
        let (a, b) = (feed.sit(), feed.sit());
        assert!(!feed.rise(a));
        assert_eq!(feed.sit(), a);
        assert!(!feed.rise(a) && feed.rise(b));
    }
}
