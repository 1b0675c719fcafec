//! The Log: the newest frames of a channel, in stream order and proven free of holes, bounded by bytes and count.
//!
//! Everything above `floor` and up to `head` is either here or proven not to exist. Who proves it is the
//! [`crate::log::ingest`]; who reads it are feeds.

use std::collections::VecDeque;
use std::sync::Arc;

use tidings_crds::position::{Epoch, Position, Stamp};
use tidings_crds::topic::TopicSet;

use crate::log::chunked::Frame;
use crate::log::publication::Millis;

/// One publication, encoded once and shared by everybody who is sent it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stream sequence.
    pub sequence: u64,
    /// When the server stored it.
    pub time: Millis,
    /// What feeds filter by.
    pub topic: Box<str>,
    /// The bytes of the event.
    pub frame: Frame,
    /// What it is.
    pub kind: Kind,
}

/// By how many milliseconds the clocks of two leaders may differ: a new one whose clock is behind stores messages that are
/// earlier than those before.
const CLOCK_SKEW: Millis = 10_000;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A publication, for those whose filter it passes.
    Event,
    /// A control event for everybody, whatever they filter by.
    Notice,
    /// Nothing to send: here continuity ends for everybody who stands before it, as what lay between was removed unseen.
    Lost,
}

/// A sequence and, where the message there is known, its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The stream sequence; 0 before the first message.
    pub sequence: u64,
    /// The stamp of the message at it.
    pub stamp: Option<Stamp>,
}

/// How much a Log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Frames.
    pub entries: usize,
    /// Bytes of frames, with [`Entry::COST`] for each.
    pub bytes: usize,
}

/// The bounded tail of one incarnation of a channel.
#[derive(Debug)]
pub struct Log {
    epoch: Epoch,
    entries: VecDeque<Arc<Entry>>,
    floor: Mark,
    head: Mark,
    bytes: usize,
    limits: LogLimits,
}

/// Where a position lies, seen from a Log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// Within: reading on from here is proven to be continuous.
    Here,
    /// Of another incarnation of the stream, as far as this gateway knows.
    OtherEpoch,
    /// The message at its sequence is not the one the subscriber saw.
    OtherStamp,
    /// Beyond the head, as far as this gateway knows.
    Ahead,
    /// Before the floor, or at it with the stamp unknown: only the stream can tell.
    Behind,
}

// === impl Entry ===

impl Entry {
    /// What an entry costs beside its frame: itself, two reference counts, its place in the Log, its topic.
    pub const COST: usize = 160;

    /// The stamp of its position.
    pub fn stamp(&self) -> Stamp {
        Stamp::from_millis(self.time)
    }

    /// Its place as a mark.
    pub fn mark(&self) -> Mark {
        Mark { sequence: self.sequence, stamp: (self.kind != Kind::Lost).then(|| self.stamp()) }
    }

    /// Whether it can have been stored after a message of this stamp that is gone: it cannot be older, but for what leaders'
    /// clocks differ by.
    pub fn can_follow(&self, gone: Stamp) -> bool {
        !Stamp::from_millis(self.time.saturating_add(CLOCK_SKEW)).is_before(gone)
    }

    /// Whether it concerns everybody.
    pub fn is_for_all(&self) -> bool {
        self.kind != Kind::Event
    }

    /// Whether a subscriber of these topics sees it.
    pub fn is_seen_by(&self, topics: &TopicSet) -> bool {
        self.is_for_all() || topics.matches(&self.topic)
    }

    /// What it counts for against a limit in bytes.
    pub fn cost(&self) -> usize {
        self.frame.len() + Self::COST
    }
}

// === impl Mark ===

impl Mark {
    /// As a position in this epoch.
    pub fn position(self, epoch: Epoch) -> Position {
        Position { epoch, sequence: self.sequence, stamp: self.stamp }
    }
}

// === impl Log ===

impl Log {
    /// An empty Log whose head is at `head`.
    pub fn new(epoch: Epoch, head: Mark, limits: LogLimits) -> Self {
        Self { epoch, entries: VecDeque::new(), floor: head, head, bytes: 0, limits }
    }

    /// Which incarnation of the stream this is the tail of.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Everything up to here is known.
    pub fn head(&self) -> Mark {
        self.head
    }

    /// Everything up to here must be read from the stream.
    pub fn floor(&self) -> Mark {
        self.floor
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }

    /// The entries behind a sequence, oldest first.
    pub fn behind(&self, after: u64) -> impl Iterator<Item = &Arc<Entry>> + Clone {
        self.entries.range(self.entries.partition_point(|entry| entry.sequence <= after)..)
    }

    /// How many entries it holds, and how many bytes they cost.
    pub fn holds(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Adds the next entry and gives back those that no longer fit, oldest first.
    ///
    /// The caller has proven that nothing exists between the head and this entry.
    pub fn append(&mut self, entry: Arc<Entry>) -> Vec<Arc<Entry>> {
        debug_assert!(entry.sequence > self.head.sequence, "the Log only grows");
        self.head = entry.mark();
        self.bytes += entry.cost();
        self.entries.push_back(entry);
        let mut evicted = Vec::new();
        while self.entries.len() > self.limits.entries || self.bytes > self.limits.bytes {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.cost();
            self.floor = oldest.mark();
            evicted.push(oldest);
        }
        evicted
    }

    /// Moves the head over sequences that are proven not to exist, or that nobody is shown.
    pub fn skip(&mut self, to: Mark) {
        if to.sequence > self.head.sequence {
            self.head = to;
            if self.entries.is_empty() {
                self.floor = to;
            }
        }
    }

    /// Where the position of a subscriber lies that sees these topics alone. It must not be told when anything else was stored, so the
    /// stamp of its position is only compared with that of an event that it sees.
    pub fn locate_among(&self, position: Position, topics: &TopicSet) -> Located {
        let n = position.sequence;
        match self.locate(Position { stamp: None, ..position }) {
            // Whose stamp the floor's is, only the stream knows.
            Located::Here if position.stamp.is_some() && n == self.floor.sequence && n > 0 => Located::Behind,
            Located::Here if self.sees_at(n, topics) => self.locate(position),
            located => located,
        }
    }

    /// Whether a subscriber of these topics sees what stands at a sequence, or first behind it.
    fn sees_at(&self, sequence: u64, topics: &TopicSet) -> bool {
        let at = self.entries.partition_point(|entry| entry.sequence < sequence);
        let next = self.entries.iter().skip(at).find(|entry| entry.kind != Kind::Lost);
        next.is_some_and(|entry| entry.is_seen_by(topics))
    }

    /// Where a subscriber's position lies.
    pub fn locate(&self, position: Position) -> Located {
        if position.epoch != self.epoch {
            return Located::OtherEpoch;
        }
        let n = position.sequence;
        if n > self.head.sequence {
            return Located::Ahead;
        }
        if n < self.floor.sequence {
            return Located::Behind;
        }
        let Some(seen) = position.stamp else { return Located::Here };
        let at = self.entries.partition_point(|entry| entry.sequence < n);
        let next = self.entries.iter().skip(at).find(|entry| entry.kind != Kind::Lost);
        let here = match next {
            Some(entry) if entry.sequence == n => Some(entry.stamp()),
            _ if n == self.floor.sequence => match self.floor.stamp {
                Some(stamp) => Some(stamp),
                None if n == 0 => None,
                None => return Located::Behind,
            },
            _ if n == self.head.sequence => self.head.stamp,
            _ => None,
        };
        let same = match here {
            Some(stamp) => stamp == seen,
            None => next.is_none_or(|next| next.can_follow(seen)),
        };
        if same { Located::Here } else { Located::OtherStamp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch::from_nanos(10);

    fn entry(sequence: u64) -> Arc<Entry> {
        Arc::new(Entry { sequence, time: sequence * 1000, topic: "t".into(), frame: "12345".into(), kind: Kind::Event })
    }

    fn log(head: u64, entries: usize) -> Log {
        let limits = LogLimits { entries, bytes: 1 << 20 };
        Log::new(EPOCH, Mark { sequence: head, stamp: Some(Stamp::from_millis(head * 1000)) }, limits)
    }

    fn position(sequence: u64) -> Position {
        Position { epoch: EPOCH, sequence, stamp: Some(Stamp::from_millis(sequence * 1000)) }
    }

    #[test]
    fn the_floor_rises_to_what_was_evicted() {
        let mut log = log(4, 2);
        assert!(log.append(entry(5)).is_empty());
        assert!(log.append(entry(7)).is_empty());
        assert_eq!(log.append(entry(8)), vec![entry(5)]);
        assert_eq!((log.floor(), log.head()), (entry(5).mark(), entry(8).mark()));
    }

    #[test]
    fn bytes_are_a_limit_too() {
        let mut log = Log::new(EPOCH, Mark { sequence: 0, stamp: None }, LogLimits { entries: 100, bytes: 2 * 165 });
        log.append(entry(1));
        log.append(entry(2));
        assert_eq!(log.append(entry(3)), vec![entry(1)]);
    }

    #[test]
    fn positions_are_located() {
        let mut log = log(4, 3);
        for sequence in [5, 6, 8, 9] {
            log.append(entry(sequence));
        }
        for (position, expected) in [
            (position(9), Located::Here),
            (position(6), Located::Here),
            (position(5), Located::Here),
            (position(4), Located::Behind),
            (position(10), Located::Ahead),
            (position(7), Located::Here),
            (Position { stamp: Some(Stamp::from_millis(1)), ..position(8) }, Located::OtherStamp),
            (Position { stamp: Some(Stamp::from_millis(8_000 + CLOCK_SKEW)), ..position(7) }, Located::Here),
            (Position { stamp: Some(Stamp::from_millis(8_001 + CLOCK_SKEW)), ..position(7) }, Located::OtherStamp),
            (Position { stamp: Some(Stamp::from_millis(1)), ..position(5) }, Located::OtherStamp),
            (Position { stamp: None, ..position(8) }, Located::Here),
            (Position { epoch: Epoch::from_nanos(11), ..position(8) }, Located::OtherEpoch),
        ] {
            assert_eq!(log.locate(position), expected, "{position}");
        }
    }

    #[test]
    fn a_stamp_says_nothing_about_what_a_subscriber_does_not_see() {
        let mut log = log(3, 9);
        for (sequence, topic) in [(4, "mine"), (5, "other"), (7, "mine"), (9, "other")] {
            let made = entry(sequence);
            let entry =
                Entry { topic: topic.into(), frame: made.frame.clone(), sequence, time: made.time, kind: made.kind };
            log.append(Arc::new(entry));
        }
        let mine = TopicSet::new(["mine".parse().unwrap()]).unwrap();
        let guess = |sequence| Position { stamp: Some(Stamp::from_millis(1)), ..position(sequence) };
        for (sequence, right, wrong) in [
            (3, Located::Behind, Located::Behind),
            (4, Located::Here, Located::OtherStamp),
            (5, Located::Here, Located::Here),
            (7, Located::Here, Located::OtherStamp),
            (8, Located::Here, Located::Here),
            (9, Located::Here, Located::Here),
            (10, Located::Ahead, Located::Ahead),
        ] {
            assert_eq!(log.locate_among(position(sequence), &mine), right, "{sequence}");
            assert_eq!(log.locate_among(guess(sequence), &mine), wrong, "{sequence}");
        }
        assert_eq!(log.locate_among(Position { stamp: None, ..position(3) }, &mine), Located::Here);
    }

    #[test]
    fn where_messages_were_lost_the_next_one_speaks_for_a_position() {
        let mut log = log(4, 9);
        let lost = Entry { sequence: 8, time: 1, topic: "".into(), frame: Frame::default(), kind: Kind::Lost };
        log.append(Arc::new(lost));
        assert_eq!(log.head(), Mark { sequence: 8, stamp: None });
        for sequence in 5..=8 {
            assert_eq!(log.locate(position(sequence)), Located::Here, "another gateway may have seen {sequence}");
        }
        log.append(entry(9));
        assert_eq!(log.locate(position(8)), Located::Here);
        let later = Position { stamp: Some(Stamp::from_millis(9_001 + CLOCK_SKEW)), ..position(8) };
        assert_eq!(log.locate(later), Located::OtherStamp);
    }

    /// In a last-value channel a message goes when the next one of its topic comes, and that one may be another leader's.
    #[test]
    fn a_leader_whose_clock_is_behind_makes_no_other_stream_of_what_it_replaces() {
        let mut log = log(4, 9);
        log.append(entry(5));
        log.skip(Mark { sequence: 6, stamp: None });
        log.append(entry(7));
        let seen = Position { stamp: Some(Stamp::from_millis(9_000)), ..position(6) };
        assert_eq!(log.locate(seen), Located::Here, "2 s behind");
    }

    #[test]
    fn a_floor_of_unknown_stamp_proves_nothing() {
        let log = Log::new(EPOCH, Mark { sequence: 4, stamp: None }, LogLimits { entries: 1, bytes: 1 });
        assert_eq!(log.locate(position(4)), Located::Behind);
        assert_eq!(log.locate(Position { stamp: None, ..position(4) }), Located::Here);
    }

    #[test]
    fn skipping_moves_the_head_alone() {
        let mut log = log(4, 3);
        log.append(entry(5));
        log.skip(Mark { sequence: 7, stamp: None });
        assert_eq!((log.floor().sequence, log.head().sequence), (4, 7));
        assert_eq!(log.locate(position(7)), Located::Here);
        log.skip(Mark { sequence: 6, stamp: None });
        assert_eq!(log.head().sequence, 7);
    }
}
