//! What a subscriber is sent next: Log, feeds and cursors of one channel, synchronous and without io.
//!
//! A subscriber is a [`Cursor`], not a queue: replay and live are the same read, a slow reader is a cursor that lags, and
//! one that falls off the Log is told to read [`Next::Behind`] from the stream. *How* the bytes leave is not known here:
//! [`crate::channel::event_stream`] asks, for streaming bodies and for shards.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use tidings_crds::position::{Epoch, Position};
use tidings_crds::topic::TopicSet;

use crate::log::end_reason::EndReason;
use crate::log::event_log::{Entry, Located, Log, LogLimits, Mark};
use crate::log::feed::{Batch, Feed};
use crate::log::shared_reads::SharedReads;
use crate::log::topic_index::{FeedId, Index};

/// The subscribers' side of one channel.
#[derive(Debug)]
pub struct Fanout {
    log: Log,
    limits: LogLimits,
    generation: u32,
    /// The first sequence that existed when the Log last started over.
    first: u64,
    feeds: Vec<Option<Feed>>,
    vacant: Vec<FeedId>,
    by_topics: HashMap<TopicSet, FeedId>,
    index: Index,
    found: Vec<FeedId>,
    /// What was put together for several subscribers of a feed.
    shared: SharedReads,
    ended: Option<EndReason>,
}

/// Where one subscriber stands.
#[derive(Debug)]
pub struct Cursor {
    feed: FeedId,
    seat: usize,
    generation: u32,
    epoch: Epoch,
    after: Mark,
}

/// What a subscriber is to be sent next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// These frames; the cursor has moved behind them.
    Frames(Batch),
    /// Nothing: the cursor is at the head.
    Wait,
    /// Read the stream behind the cursor, up to `floor`, then ask again.
    Behind {
        /// How far the stream must be read: behind that, everything that the subscriber's filter lets pass is here.
        floor: u64,
    },
    /// What followed `after` was removed from the front of the stream before it was seen: the cursor stands behind it.
    Expired {
        /// Where the subscriber stood.
        after: Position,
        /// Where it stands now.
        resumed: Position,
    },
    /// The stream was replaced or went back in time: continuity ends at `after`, the cursor stands before what exists now.
    Reset {
        /// Where the subscriber stood.
        after: Position,
        /// Where it stands now.
        resumed: Position,
    },
    /// The stream is to end.
    End(EndReason),
}

/// What is read for a feed with at least this many seats is kept for the next reader: most subscribers stand at the same place.
const SHARED: usize = 8;

// === impl Fanout ===

impl Fanout {
    /// A channel without subscribers whose head is at `head`.
    pub fn new(epoch: Epoch, head: Mark, first: u64, limits: LogLimits) -> Self {
        Self {
            log: Log::new(epoch, head, limits),
            limits,
            generation: 0,
            first,
            feeds: Vec::new(),
            vacant: Vec::new(),
            by_topics: HashMap::new(),
            index: Index::default(),
            found: Vec::new(),
            shared: SharedReads::default(),
            ended: None,
        }
    }

    /// Which incarnation of the stream is served.
    pub fn epoch(&self) -> Epoch {
        self.log.epoch()
    }

    /// Counts the times the Log started over.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Everything up to here is known.
    pub fn head(&self) -> Mark {
        self.log.head()
    }

    /// Everything up to here must be read from the stream.
    pub fn floor(&self) -> u64 {
        self.log.floor().sequence
    }

    /// How many entries the Log holds, and how many bytes they cost.
    pub fn holds(&self) -> (usize, usize) {
        self.log.holds()
    }

    /// Why every stream is to end, if so.
    pub fn ended(&self) -> Option<EndReason> {
        self.ended
    }

    /// Where a position lies, seen from the Log.
    pub fn locate(&self, position: Position) -> Located {
        self.log.locate(position)
    }

    /// The same for a subscriber that sees these topics alone and must not be told when anything else was stored.
    pub fn locate_among(&self, position: Position, topics: &TopicSet) -> Located {
        self.log.locate_among(position, topics)
    }

    /// Seats a subscriber behind `after`, which lies no further than the head.
    pub fn join(&mut self, topics: &TopicSet, after: Mark) -> Cursor {
        let feed = match self.by_topics.get(topics) {
            Some(feed) => *feed,
            None => self.open(topics),
        };
        let seat = self.feeds.get_mut(feed).and_then(Option::as_mut).map_or(0, Feed::sit);
        Cursor { feed, seat, generation: self.generation, epoch: self.log.epoch(), after }
    }

    /// Takes another seat in a subscriber's feed, for a task that waits on behalf of several.
    pub fn beside(&mut self, cursor: &Cursor) -> Cursor {
        let seat = self.feeds.get_mut(cursor.feed).and_then(Option::as_mut).map_or(0, Feed::sit);
        Cursor { seat, ..*cursor }
    }

    /// Takes a subscriber's seat away, and the feed with the last one.
    pub fn leave(&mut self, cursor: &Cursor) {
        let Some(slot) = self.feeds.get_mut(cursor.feed) else { return };
        if slot.as_mut().is_some_and(|feed| feed.rise(cursor.seat))
            && let Some(feed) = slot.take()
        {
            self.index.remove(feed.topics(), cursor.feed);
            self.by_topics.remove(feed.topics());
            self.shared.forget(cursor.feed);
            self.vacant.push(cursor.feed);
        }
    }

    /// Adds the next entry and collects whom it concerns into `woken`.
    pub fn append(&mut self, entry: Arc<Entry>, woken: &mut Vec<Waker>) {
        let mut found = std::mem::take(&mut self.found);
        self.concerned(&entry, &mut found);
        for id in &found {
            if let Some(feed) = self.feeds.get_mut(*id).and_then(Option::as_mut) {
                feed.push(entry.clone());
                feed.wake(woken);
                self.shared.forget(*id);
            }
        }
        self.found = found;
        let evicted = self.log.append(entry);
        self.evict(&evicted);
    }

    /// Moves the head over sequences proven not to exist.
    pub fn skip(&mut self, to: Mark) {
        self.log.skip(to);
    }

    /// Gives up on following: everything up to `head` is to be read from the stream by those who want it.
    pub fn jump(&mut self, head: Mark, woken: &mut Vec<Waker>) {
        self.start_over(self.log.epoch(), head, woken);
    }

    /// Starts over with another incarnation of the stream, in which `first` is the earliest event.
    pub fn reset(&mut self, epoch: Epoch, head: Mark, first: u64, woken: &mut Vec<Waker>) {
        self.generation += 1;
        self.first = first;
        self.start_over(epoch, head, woken);
    }

    /// Ends every stream.
    pub fn end(&mut self, reason: EndReason, woken: &mut Vec<Waker>) {
        self.ended = Some(reason);
        self.wake_all(woken);
    }

    /// Wakes everybody, to look around.
    pub fn wake_all(&mut self, woken: &mut Vec<Waker>) {
        self.feeds.iter_mut().flatten().for_each(|feed| feed.wake(woken));
    }

    /// What this subscriber is to be sent next, at most `budget` bytes of it beyond the first frame.
    pub fn next(&self, cursor: &mut Cursor, budget: usize) -> Next {
        if let Some(reason) = self.ended {
            return Next::End(reason);
        }
        if cursor.generation != self.generation {
            let after = cursor.position();
            let earliest = Mark { sequence: self.first.saturating_sub(1), stamp: None };
            cursor.generation = self.generation;
            cursor.epoch = self.log.epoch();
            cursor.after = earliest;
            return Next::Reset { after, resumed: cursor.position() };
        }
        let feed = self.feeds.get(cursor.feed).and_then(Option::as_ref);
        let floor = feed.map_or(self.log.floor().sequence, Feed::floor);
        if cursor.after.sequence < floor {
            return Next::Behind { floor };
        }
        match feed.and_then(|feed| self.read(feed, cursor, budget)) {
            Some(batch) => {
                cursor.pass(batch.last, batch.newest);
                Next::Frames(batch)
            }
            None if let Some(lost) = feed.and_then(|feed| feed.lost(&self.log, cursor.after.sequence)) => {
                let after = cursor.position();
                cursor.after = Mark { sequence: lost, stamp: None };
                Next::Expired { after, resumed: cursor.position() }
            }
            None => {
                if self.log.head().sequence > cursor.after.sequence {
                    cursor.after = self.log.head();
                }
                Next::Wait
            }
        }
    }

    /// Whether there is nothing that [`Fanout::next`] would send.
    pub fn is_at_end(&self, cursor: &Cursor) -> bool {
        let feed = self.feeds.get(cursor.feed).and_then(Option::as_ref);
        self.ended.is_none()
            && cursor.generation == self.generation
            && cursor.after.sequence >= feed.map_or(self.log.floor().sequence, Feed::floor)
            && feed.is_none_or(|feed| feed.is_read(cursor.after.sequence))
    }

    /// Has the subscriber woken at the next change. Nothing can come between [`Fanout::next`] and this, as both need the Fanout.
    pub fn wait(&mut self, cursor: &Cursor, waker: &Waker) {
        if let Some(feed) = self.feeds.get_mut(cursor.feed).and_then(Option::as_mut) {
            feed.wait(cursor.seat, waker);
        }
    }

    /// What a feed has for a cursor: put together once for subscribers at the same place.
    fn read(&self, feed: &Feed, cursor: &Cursor, budget: usize) -> Option<Batch> {
        let after = cursor.after.sequence;
        if feed.is_read(after) {
            return None;
        }
        if feed.members() < SHARED {
            return feed.read(&self.log, after, budget);
        }
        self.shared.get_or_read(cursor.feed, after, budget, || feed.read(&self.log, after, budget))
    }

    fn start_over(&mut self, epoch: Epoch, head: Mark, woken: &mut Vec<Waker>) {
        self.log = Log::new(epoch, head, self.limits);
        self.feeds.iter_mut().flatten().for_each(|feed| feed.clear(head.sequence));
        self.shared.clear();
        self.wake_all(woken);
    }

    fn open(&mut self, topics: &TopicSet) -> FeedId {
        let feed = Feed::new(topics.clone(), &self.log);
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.feeds.push(None);
            self.feeds.len() - 1
        });
        if let Some(slot) = self.feeds.get_mut(id) {
            *slot = Some(feed);
        }
        self.index.insert(topics, id);
        self.by_topics.insert(topics.clone(), id);
        id
    }

    /// The feeds that are sent this entry.
    fn concerned(&self, entry: &Entry, found: &mut Vec<FeedId>) {
        if entry.is_for_all() {
            found.clear();
            found.extend(0..self.feeds.len());
        } else {
            self.index.find(&entry.topic, found);
        }
    }

    fn evict(&mut self, evicted: &[Arc<Entry>]) {
        let mut found = std::mem::take(&mut self.found);
        for entry in evicted {
            self.concerned(entry, &mut found);
            for id in &found {
                if let Some(feed) = self.feeds.get_mut(*id).and_then(Option::as_mut) {
                    feed.evict(entry.sequence);
                    self.shared.forget(*id);
                }
            }
        }
        self.found = found;
    }
}

// === impl Cursor ===

impl Cursor {
    /// Where the subscriber stands.
    pub fn position(&self) -> Position {
        self.after.position(self.epoch)
    }

    /// Which feed of the channel it reads; another one's, once nobody sits there any more.
    pub fn feed(&self) -> FeedId {
        self.feed
    }

    /// The sequence it stands behind.
    pub fn after(&self) -> u64 {
        self.after.sequence
    }

    /// Which Log it reads.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Moves behind an event that was sent.
    pub fn pass(&mut self, sequence: u64, time: crate::log::publication::Millis) {
        self.after = Mark { sequence, stamp: Some(tidings_crds::position::Stamp::from_millis(time)) };
    }

    /// Moves to a place of the stream that was proven by reading it; never back.
    pub fn move_to(&mut self, sequence: u64) {
        if sequence > self.after.sequence {
            self.after = Mark { sequence, stamp: None };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::chunked::Frame;
    use crate::log::event_log::Kind;
    use proptest::prelude::*;
    use tidings_crds::position::Stamp;

    const EPOCH: Epoch = Epoch::from_nanos(10);
    const START: Mark = Mark { sequence: 0, stamp: None };

    fn entry(sequence: u64, topic: &str) -> Arc<Entry> {
        Arc::new(Entry {
            sequence,
            time: sequence,
            topic: topic.into(),
            frame: format!("<{sequence}>").into(),
            kind: Kind::Event,
        })
    }

    fn fanout(entries: usize) -> Fanout {
        Fanout::new(EPOCH, START, 1, LogLimits { entries, bytes: 1 << 20 })
    }

    fn topics(filter: &str) -> TopicSet {
        TopicSet::new([filter.parse().unwrap()]).unwrap()
    }

    fn mark(sequence: u64) -> Mark {
        Mark { sequence, stamp: Some(Stamp::from_millis(sequence)) }
    }

    fn append(fanout: &mut Fanout, sequence: u64, topic: &str) {
        fanout.append(entry(sequence, topic), &mut Vec::new());
    }

    fn frames(next: Next) -> Frame {
        match next {
            Next::Frames(batch) => batch.bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replay_and_live_are_the_same_read() {
        let mut fanout = fanout(10);
        append(&mut fanout, 1, "a");
        append(&mut fanout, 2, "b");
        let mut cursor = fanout.join(&topics("a"), START);
        assert_eq!(frames(fanout.next(&mut cursor, 100)), "<1>");
        assert_eq!(fanout.next(&mut cursor, 100), Next::Wait);
        append(&mut fanout, 3, "a");
        assert_eq!(frames(fanout.next(&mut cursor, 100)), "<3>");
    }

    #[test]
    fn at_the_head_a_cursor_moves_over_what_its_filter_hides() {
        let mut fanout = fanout(10);
        let mut cursor = fanout.join(&topics("a"), START);
        append(&mut fanout, 1, "b");
        append(&mut fanout, 2, "b");
        assert_eq!(fanout.next(&mut cursor, 100), Next::Wait);
        assert_eq!(cursor.position(), mark(2).position(EPOCH));
    }

    #[test]
    fn a_cursor_that_falls_off_the_log_reads_the_stream() {
        let mut fanout = fanout(2);
        let mut cursor = fanout.join(&TopicSet::all(), START);
        for sequence in 1..=5 {
            append(&mut fanout, sequence, "a");
        }
        assert_eq!(fanout.next(&mut cursor, 100), Next::Behind { floor: 3 });
        cursor.move_to(3);
        assert_eq!(frames(fanout.next(&mut cursor, 100)), "<4><5>");
    }

    #[test]
    fn what_others_are_sent_pushes_nobody_off_the_log() {
        let mut fanout = fanout(2);
        let mut cursor = fanout.join(&topics("a"), START);
        (1..=5).for_each(|sequence| append(&mut fanout, sequence, "b"));
        assert!(fanout.is_at_end(&cursor));
        append(&mut fanout, 6, "a");
        assert_eq!(
            frames(fanout.next(&mut cursor, 100)),
            "<6>",
            "nothing of its own was let go: no need to read the stream"
        );
        append(&mut fanout, 7, "a");
        (8..=10).for_each(|sequence| append(&mut fanout, sequence, "b"));
        assert_eq!(fanout.next(&mut cursor, 100), Next::Behind { floor: 7 });
        // Who comes now knows nothing of what was let go before.
        let mut late = fanout.join(&topics("c"), mark(7));
        assert_eq!(fanout.next(&mut late, 100), Next::Behind { floor: 8 });
    }

    #[test]
    fn a_reset_is_told_once_and_starts_with_what_exists() {
        let mut fanout = fanout(10);
        let mut cursor = fanout.join(&TopicSet::all(), START);
        append(&mut fanout, 1, "a");
        assert_eq!(frames(fanout.next(&mut cursor, 100)), "<1>");
        let new = Epoch::from_nanos(11);
        fanout.reset(new, mark(4), 3, &mut Vec::new());
        let resumed = Position { epoch: new, sequence: 2, stamp: None };
        assert_eq!(fanout.next(&mut cursor, 100), Next::Reset { after: mark(1).position(EPOCH), resumed });
        assert_eq!(fanout.next(&mut cursor, 100), Next::Behind { floor: 4 });
    }

    #[test]
    fn only_those_a_publication_concerns_are_woken() {
        let mut fanout = fanout(10);
        let (a, b) = (fanout.join(&topics("a"), START), fanout.join(&topics("b"), START));
        fanout.wait(&a, Waker::noop());
        fanout.wait(&a, Waker::noop());
        fanout.wait(&b, Waker::noop());
        let mut woken = Vec::new();
        fanout.append(entry(1, "a"), &mut woken);
        assert_eq!(woken.len(), 1);
        fanout.append(entry(2, "a"), &mut woken);
        assert_eq!(woken.len(), 1);
        fanout.end(EndReason::Shutdown, &mut woken);
        assert_eq!(woken.len(), 2);
    }

    #[test]
    fn what_is_for_all_passes_every_filter_and_is_evicted_again() {
        let mut fanout = fanout(2);
        let mut cursor = fanout.join(&topics("a"), START);
        let gap = Entry { sequence: 1, time: 1, topic: "".into(), frame: "gap".into(), kind: Kind::Notice };
        fanout.append(Arc::new(gap), &mut Vec::new());
        assert_eq!(frames(fanout.next(&mut cursor, 100)), "gap");
        let mut late = fanout.join(&topics("b"), START);
        assert_eq!(frames(fanout.next(&mut late, 100)), "gap");
        (2..=3).for_each(|sequence| append(&mut fanout, sequence, "c"));
        assert!(fanout.feeds.iter().flatten().all(|feed| feed.is_read(0)));
    }

    #[test]
    fn everybody_who_stands_before_a_loss_is_told_from_where_they_stand() {
        let mut fanout = fanout(9);
        let mut cursor = fanout.join(&topics("a"), START);
        append(&mut fanout, 1, "a");
        append(&mut fanout, 2, "b");
        let lost = Entry { sequence: 5, time: 1, topic: "".into(), frame: Frame::default(), kind: Kind::Lost };
        fanout.append(Arc::new(lost), &mut Vec::new());
        append(&mut fanout, 6, "a");
        assert_eq!(frames(fanout.next(&mut cursor, 100)), "<1>");
        let resumed = Position { epoch: EPOCH, sequence: 5, stamp: None };
        assert_eq!(fanout.next(&mut cursor, 100), Next::Expired { after: mark(1).position(EPOCH), resumed });
        assert_eq!(frames(fanout.next(&mut cursor, 100)), "<6>");
        let mut between = fanout.join(&topics("a"), mark(4));
        let after = mark(4).position(EPOCH);
        assert_eq!(fanout.next(&mut between, 100), Next::Expired { after, resumed });
    }

    #[test]
    fn readers_at_the_same_place_share_what_was_put_together() {
        let mut fanout = fanout(4);
        let mut cursors: Vec<_> = (0..SHARED).map(|_| fanout.join(&TopicSet::all(), START)).collect();
        (1..=2).for_each(|sequence| append(&mut fanout, sequence, "a"));
        let read: Vec<_> = cursors.iter_mut().map(|cursor| frames(fanout.next(cursor, 100)).text()).collect();
        assert!(read.iter().all(|text| text == "<1><2>" && text.as_ptr() == read[0].as_ptr()), "{read:?}");
        let at = |fanout: &mut Fanout, after, budget| {
            let mut cursor = fanout.join(&TopicSet::all(), Mark { sequence: after, stamp: None });
            frames(fanout.next(&mut cursor, budget))
        };
        assert_eq!(at(&mut fanout, 1, 100), "<2>");
        assert_eq!(at(&mut fanout, 0, 3), "<1>");
        append(&mut fanout, 3, "a");
        assert_eq!(at(&mut fanout, 0, 100), "<1><2><3>");
        (4..=5).for_each(|sequence| append(&mut fanout, sequence, "a"));
        assert_eq!(at(&mut fanout, 1, 100), "<2><3><4><5>");
        fanout.reset(EPOCH, mark(9), 9, &mut Vec::new());
        let mut cursor = fanout.join(&TopicSet::all(), mark(9));
        assert_eq!(fanout.next(&mut cursor, 100), Next::Wait);
    }

    #[test]
    fn a_feed_lives_as_long_as_its_subscribers() {
        let mut fanout = fanout(10);
        let (one, two) = (fanout.join(&topics("a"), START), fanout.join(&topics("a"), START));
        fanout.leave(&one);
        append(&mut fanout, 1, "a");
        fanout.leave(&two);
        assert!(fanout.by_topics.is_empty() && fanout.feeds.iter().all(Option::is_none));
        let mut late = fanout.join(&topics("*"), START);
        assert_eq!(frames(fanout.next(&mut late, 100)), "<1>");
    }

    proptest! {
        /// Whatever the order of appends, reads and small budgets: a subscriber is sent exactly what passes its filter.
        #[test]
        fn every_cursor_sees_what_passes_its_filter_once_and_in_order(
            (steps, capacity) in prop_oneof![
                (prop::collection::vec((prop::bool::ANY, "[ab]", 1usize..12), 1..60), 1usize..8),
                // Far behind, but not behind the Log: more than a feed has at hand.
                (prop::collection::vec((prop::bool::weighted(0.9), "[aab]", 1usize..200), 100..400), 8usize..200),
            ],
        ) {
            let mut fanout = fanout(capacity);
            let mut cursor = fanout.join(&topics("a"), START);
            let (mut sequence, mut expected, mut seen) = (0, Vec::new(), Vec::new());
            let mut stream: Vec<(u64, String)> = Vec::new();
            for (publish, topic, budget) in steps {
                if publish {
                    sequence += 1;
                    append(&mut fanout, sequence, &topic);
                    if topic == "a" {
                        expected.push(sequence);
                    }
                    stream.push((sequence, topic));
                    continue;
                }
                match fanout.next(&mut cursor, budget) {
                    Next::Frames(batch) => {
                        let text = String::from_utf8(batch.bytes.text().to_vec()).unwrap();
                        seen.extend(text.split(['<', '>']).filter(|t| !t.is_empty()).map(|t| t.parse::<u64>().unwrap()));
                    }
                    Next::Behind { floor } => {
                        let behind = stream.iter().filter(|(s, t)| *s > cursor.after() && *s <= floor && t == "a");
                        let before = seen.len();
                        seen.extend(behind.map(|(s, _)| *s));
                        prop_assert!(seen.len() > before, "nobody reads the stream for nothing");
                        cursor.move_to(floor);
                    }
                    Next::Wait => prop_assert_eq!(&seen, &expected),
                    other => panic!("{other:?}"),
                }
            }
            prop_assert!(expected.starts_with(&seen));
        }
    }
}
