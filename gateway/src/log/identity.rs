//! Whether the stream under a name is still the one that was read so far: replaced streams, and streams that went back in
//! time under an unchanged creation time (a Memory stream that came back empty, a restored volume).
//!
//! This is the only place where a stream is taken for another one. It does no io and reads no clock. What it believes:
//!
//! - A creation time later than the known one is another stream, regardless of who says so: that stream exists or existed.
//! - An earlier creation time, or an end below a sequence that was seen before the question, is believed only from a leader
//!   that was in contact with a majority of its replicas *after* that sequence was seen (`cluster.replicas[].active` in the
//!   answer to STREAM.INFO), and, where there are others, whose end has stayed where it is for 10 s; or when it is told for
//!   longer than a leader can go without noticing that it lost its quorum. A leader that was cut off from its cluster answers
//!   with an old end for 10 to 15 s; one that was just elected with the end up to which it has applied its log.
//! - After a connection broke, nothing is believed before the newest known message that still exists was compared with what
//!   the leader has at its sequence. Messages that are gone are passed over; one that exists where nothing did, or that was
//!   stored at another time, makes it another stream. An unknown stamp proves nothing. Where all known messages are gone, the
//!   leader is asked for the first message that was stored later than all that was seen: at or below the head there is none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidings_crds::position::{Epoch, Stamp};

use crate::log::event_log::Mark;
use crate::log::publication::Millis;

/// How many of the newest known messages are kept for comparison: 64 of 16 bytes, 1 KiB a channel.
const MARKS: usize = 64;

/// For how long a leader without a quorum can answer: nats-server checks every 10 s whether it has heard from a majority within
/// the last 10 s (`lostQuorumCheckInterval`, `lostQuorumInterval`).
const LOST_QUORUM: Duration = Duration::from_secs(25);

/// How often in a row an end that lies too low has to be told.
const TIMES: u32 = 2;

/// For how long the end of a replicated stream has to stay where it lies too low: a leader that was just elected may have yet to
/// apply what its log holds, and answers meanwhile.
const APPLYING: Duration = Duration::from_secs(10);

/// The state of a stream, as its leader tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// When it was created.
    pub epoch: Epoch,
    /// The first sequence that still exists, or will exist.
    pub first: u64,
    /// The last sequence given out.
    pub last: u64,
    /// When its last message was stored; 0 before the first, or if the server does not know.
    pub last_time: Millis,
    /// How long ago the leader was in contact with a majority of the replicas, itself included: zero if it is the only one,
    /// `None` if it has no majority.
    pub heard: Option<Duration>,
    /// Whether it takes subjects that the Route does not have: the Route is older.
    pub unrouted: bool,
}

/// What is known of a stream's identity.
#[derive(Debug)]
pub struct Identity {
    epoch: Epoch,
    /// The newest known messages that were seen, oldest first.
    marks: VecDeque<(u64, Stamp)>,
    /// When the latest message up to the head was stored; 0 if that is not known.
    latest: Millis,
    doubt: Doubt,
    /// When the highest sequence so far was seen.
    advanced: Instant,
    backwards: Option<Backwards>,
    confirmed: Option<Confirmed>,
}

/// A state of the stream that its leader told, and that the stream was certainly in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// When the leader was last known to be the leader.
    pub at: Instant,
    /// When the stream was created.
    pub epoch: Epoch,
    /// The first sequence that existed, or would exist.
    pub first: u64,
    /// The last sequence given out.
    pub last: u64,
}

/// What an answer says about the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the known one.
    Same,
    /// It is another one, or it went back in time.
    Another,
    /// More has to be asked: [`Identity::wanted`], or the state again.
    Unproven,
}

/// What the leader is to be asked for, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The message at this sequence, or the next one.
    From(u64),
    /// The first message stored later than this.
    After(Millis),
}

/// Whether this is still the known stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// It is.
    None,
    /// The leader has yet to tell when it was created and where it ends.
    State,
    /// Creation time and end fit. Is the message at this mark, counted from the oldest, the known one?
    Mark { info: Info, contact: Option<Instant>, mark: usize },
    /// No known message exists any more. Is there one at or below the head that is later than all that was seen?
    Later { info: Info, contact: Option<Instant> },
}

/// An end, or a creation time, that lies too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Backwards {
    since: Instant,
    times: u32,
    /// The end that was told last, and since when it has been told.
    last: u64,
    still: Instant,
}

// === impl Identity ===

impl Identity {
    /// A stream that was created at `epoch` and ends at `head`, whose last message was stored at `latest`, if that is known.
    pub fn new(epoch: Epoch, head: Mark, latest: Millis, now: Instant) -> Self {
        let mut marks = VecDeque::new();
        marks.extend(head.stamp.map(|stamp| (head.sequence, stamp)));
        Self { epoch, marks, latest, doubt: Doubt::None, advanced: now, backwards: None, confirmed: None }
    }

    /// When the stream was created.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether what arrives may be believed.
    pub fn is_certain(&self) -> bool {
        self.doubt == Doubt::None
    }

    /// The newest state of the stream that is certain.
    pub fn confirmed(&self) -> Option<Confirmed> {
        self.confirmed
    }

    /// Something happened behind which another stream could hide: a connection broke, or an old sequence came with a new time.
    pub fn doubt(&mut self) {
        self.doubt = Doubt::State;
    }

    /// Whether the leader has to tell the state of the stream.
    pub fn needs_state(&self) -> bool {
        self.doubt == Doubt::State
    }

    /// What the leader is to be asked for, for comparison.
    pub fn wanted(&self) -> Option<Wanted> {
        match self.doubt {
            Doubt::Mark { mark, .. } => self.marks.get(mark).map(|(sequence, _)| Wanted::From(*sequence)),
            Doubt::Later { .. } => Some(Wanted::After(self.latest)),
            Doubt::None | Doubt::State => None,
        }
    }

    /// The next message of the stream was seen.
    pub fn saw(&mut self, sequence: u64, time: Millis, now: Instant) {
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((sequence, Stamp::from_millis(time)));
        self.latest = self.latest.max(time);
        self.advanced = now;
    }

    /// These messages, in ascending order, are the newest that exist up to and including the one at the head.
    pub fn knew(&mut self, messages: impl DoubleEndedIterator<Item = (u64, Stamp)>) {
        for (sequence, stamp) in messages.rev() {
            match self.marks.iter().find(|(known, _)| *known == sequence) {
                Some((_, known)) if *known != stamp => self.doubt(),
                Some(_) => {}
                None if self.marks.len() < MARKS && self.marks.front().is_none_or(|(oldest, _)| sequence < *oldest) => {
                    self.marks.push_front((sequence, stamp));
                }
                None => {}
            }
        }
    }

    /// The head moved on over messages that were not seen.
    pub fn jumped(&mut self, head: Mark, latest: Millis, now: Instant) {
        self.latest = self.latest.max(latest);
        self.marks.clear();
        self.marks.extend(head.stamp.map(|stamp| (head.sequence, stamp)));
        self.advanced = now;
    }

    /// The leader's state of the stream, asked for at `asked`, when everything up to `head_then` was seen, and told at `now`.
    pub fn state(&mut self, info: Info, head: Mark, head_then: u64, asked: Instant, now: Instant) -> Verdict {
        if info.epoch > self.epoch {
            return Verdict::Another;
        }
        let contact = info.heard.and_then(|age| asked.checked_sub(age));
        // Subscribers may stand at an end that was confirmed, though nothing was read up to there yet.
        let reached = self.confirmed.map_or(head_then, |known| known.last.max(head_then));
        if info.epoch < self.epoch || info.last < reached {
            return self.backwards(&info, contact, asked);
        }
        if info.last > reached {
            self.advanced = now;
        }
        self.backwards = None;
        if self.doubt == Doubt::State {
            let at_head = info.stamp().filter(|_| info.last == head.sequence);
            self.doubt = if head.sequence == 0 || (at_head.is_some() && at_head == head.stamp) {
                Doubt::None
            } else if let Some(mark) = self.marks.len().checked_sub(1) {
                Doubt::Mark { info, contact, mark }
            } else if info.last == head.sequence {
                // Nothing is known that could be compared, and nothing came since.
                Doubt::None
            } else {
                Doubt::Later { info, contact }
            };
        }
        if let Doubt::Later { .. } = self.doubt
            && let Some(verdict) = self.without_marks(&info, head.sequence)
        {
            return self.decided(verdict, info, contact);
        }
        if self.doubt != Doubt::None {
            return Verdict::Unproven;
        }
        self.confirm(info, contact);
        Verdict::Same
    }

    /// The leader's answer to [`Identity::wanted`].
    pub fn message(&mut self, found: Option<(u64, Stamp)>, head: u64) -> Verdict {
        match self.doubt {
            Doubt::Mark { info, contact, mark } => {
                let Some(&(sequence, stamp)) = self.marks.get(mark) else { return Verdict::Unproven };
                match found {
                    Some((found, stored)) if found == sequence && stored == stamp => {
                        return self.decided(Verdict::Same, info, contact);
                    }
                    // Newer ones were told to be gone, perhaps by a leader that had yet to apply its log: this one is known.
                    Some(found) if self.marks.contains(&found) => return self.decided(Verdict::Same, info, contact),
                    // Another message, or one where there was none.
                    Some((found, _)) if found <= head => return self.decided(Verdict::Another, info, contact),
                    _ => {}
                }
                // It is gone, with all that came behind it: an older one has to tell.
                if let Some(mark) = mark.checked_sub(1) {
                    self.doubt = Doubt::Mark { info, contact, mark };
                    return Verdict::Unproven;
                }
                self.doubt = Doubt::Later { info, contact };
                match self.without_marks(&info, head) {
                    Some(verdict) => self.decided(verdict, info, contact),
                    None => Verdict::Unproven,
                }
            }
            Doubt::Later { info, contact } => {
                let same = found.is_none_or(|(found, _)| found > head);
                self.decided(if same { Verdict::Same } else { Verdict::Another }, info, contact)
            }
            Doubt::None | Doubt::State => Verdict::Unproven,
        }
    }

    /// What the state alone says when no known message is left; `None` if the leader has to be asked for a later one.
    fn without_marks(&self, info: &Info, head: u64) -> Option<Verdict> {
        let at_end = self.marks.back().filter(|(newest, _)| *newest == info.last);
        let other_end = at_end.is_some_and(|(_, stamp)| info.stamp().is_some_and(|told| told != *stamp));
        match info.first {
            _ if other_end => Some(Verdict::Another),
            // All that was seen is gone. What else is gone is told as expired.
            first if first > head => Some(Verdict::Same),
            _ if self.latest == 0 => Some(Verdict::Another),
            _ => None,
        }
    }

    fn decided(&mut self, verdict: Verdict, info: Info, contact: Option<Instant>) -> Verdict {
        if verdict == Verdict::Same {
            self.doubt = Doubt::None;
            self.confirm(info, contact);
        }
        verdict
    }

    fn backwards(&mut self, info: &Info, contact: Option<Instant>, asked: Instant) -> Verdict {
        let first = Backwards { since: asked, times: 0, last: info.last, still: asked };
        let seen = self.backwards.get_or_insert(first);
        seen.times += 1;
        if info.last != seen.last {
            (seen.last, seen.still) = (info.last, asked);
        }
        let alone = info.heard == Some(Duration::ZERO);
        let applied = alone || asked.duration_since(seen.still) >= APPLYING;
        let proven = applied && contact.is_some_and(|at| at > self.advanced);
        let proven = proven || asked.duration_since(seen.since) >= LOST_QUORUM;
        if seen.times >= TIMES && proven { Verdict::Another } else { Verdict::Unproven }
    }

    fn confirm(&mut self, info: Info, contact: Option<Instant>) {
        let Some(at) = contact.filter(|at| self.confirmed.is_none_or(|known| known.at <= *at)) else { return };
        self.confirmed = Some(Confirmed { at, epoch: info.epoch, first: info.first, last: info.last });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch::from_nanos(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn stamp(millis: u64) -> Stamp {
        Stamp::from_millis(millis)
    }

    fn mark(sequence: u64) -> Mark {
        Mark { sequence, stamp: Some(stamp(sequence)) }
    }

    fn info(first: u64, last: u64) -> Info {
        Info { epoch: EPOCH, first, last, last_time: last, heard: Some(Duration::ZERO), unrouted: false }
    }

    /// A stream of which 8, 9 and 10 were seen, now in doubt.
    fn doubted(now: Instant) -> Identity {
        let mut identity = Identity::new(EPOCH, mark(7), 7, now);
        (8..=10).for_each(|sequence| identity.saw(sequence, sequence, now));
        identity.doubt();
        identity
    }

    #[test]
    fn an_unchanged_end_of_the_same_time_is_the_same_stream() {
        let now = Instant::now();
        let mut identity = doubted(now);
        assert_eq!(identity.state(info(1, 10), mark(10), 10, now, now), Verdict::Same);
        assert!(identity.is_certain());
        assert_eq!(identity.confirmed(), Some(Confirmed { at: now, epoch: EPOCH, first: 1, last: 10 }));
    }

    #[test]
    fn a_longer_stream_is_the_same_if_the_message_at_the_head_is() {
        let now = Instant::now();
        for (found, verdict) in [(10, Verdict::Same), (99, Verdict::Another)] {
            let mut identity = doubted(now);
            assert_eq!(identity.state(info(1, 20), mark(10), 10, now, now), Verdict::Unproven);
            assert_eq!(identity.wanted(), Some(Wanted::From(10)));
            assert_eq!(identity.message(Some((10, stamp(found))), 10), verdict);
        }
    }

    #[test]
    fn a_head_that_is_gone_is_spoken_for_by_an_older_message() {
        let now = Instant::now();
        let mut identity = doubted(now);
        identity.state(info(1, 20), mark(10), 10, now, now);
        assert_eq!(identity.message(Some((11, stamp(50))), 10), Verdict::Unproven);
        assert_eq!(identity.wanted(), Some(Wanted::From(9)));
        assert_eq!(identity.message(Some((9, stamp(9))), 10), Verdict::Same);
    }

    #[test]
    fn a_message_where_there_was_none_is_another_stream() {
        let now = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(7), 7, now);
        identity.saw(10, 10, now);
        identity.doubt();
        identity.state(info(1, 20), mark(10), 10, now, now);
        assert_eq!(identity.message(None, 10), Verdict::Unproven);
        assert_eq!(identity.message(Some((8, stamp(8))), 10), Verdict::Another);
    }

    #[test]
    fn with_nothing_left_to_compare_a_message_that_is_later_than_all_that_was_seen_tells() {
        let now = Instant::now();
        for (first, later, verdict) in [
            (5, Some(11), Verdict::Same),
            (5, None, Verdict::Same),
            // Stored later than 10, and not behind it.
            (5, Some(6), Verdict::Another),
        ] {
            let mut identity = doubted(now);
            identity.state(info(first, 20), mark(10), 10, now, now);
            for _ in 7..=10 {
                assert_eq!(identity.message(Some((11, stamp(50))), 10), Verdict::Unproven);
            }
            assert_eq!(identity.wanted(), Some(Wanted::After(10)));
            assert_eq!(identity.message(later.map(|later| (later, stamp(50))), 10), verdict, "{later:?}");
        }
        let mut identity = doubted(now);
        identity.state(info(11, 20), mark(10), 10, now, now);
        let verdicts: Vec<_> = (7..=10).map(|_| identity.message(None, 10)).collect();
        assert_eq!(verdicts.last(), Some(&Verdict::Same), "all that was seen is gone");
    }

    #[test]
    fn an_unknown_stamp_is_no_certainty() {
        let now = Instant::now();
        let unknown = Mark { sequence: 10, stamp: None };
        for (first, last, verdict) in
            [(1, 20, Verdict::Another), (11, 20, Verdict::Same), (1, 10, Verdict::Same), (1, 9, Verdict::Unproven)]
        {
            let mut identity = Identity::new(EPOCH, unknown, 0, now);
            identity.doubt();
            let state = Info { last_time: 0, ..info(first, last) };
            assert_eq!(identity.state(state, unknown, 10, now, now), verdict, "{first} to {last}");
        }
    }

    #[test]
    fn an_end_below_a_confirmed_one_is_another_stream_though_nothing_was_read_up_to_there() {
        let now = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(3), 3, now);
        assert_eq!(identity.state(info(6, 5), mark(3), 3, now, now), Verdict::Same);
        identity.doubt();
        let asked = now + SECOND;
        assert_eq!(identity.state(info(4, 3), mark(3), 3, asked, asked), Verdict::Unproven);
        assert_eq!(identity.state(info(4, 3), mark(3), 3, asked, asked), Verdict::Another);
    }

    #[test]
    fn a_leader_cut_off_from_its_cluster_is_not_believed() {
        let start = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(7), 7, start);
        identity.saw(10, 10, start + 5 * SECOND);
        // It last heard from a follower 1 s after the start, and says so for as long as it believes itself the leader.
        for asked in 6..20 {
            let asked = start + asked * SECOND;
            let state = Info { heard: Some(asked - (start + SECOND)), ..info(1, 8) };
            assert_eq!(identity.state(state, mark(10), 10, asked, asked), Verdict::Unproven);
        }
        // The true leader's end is above what was seen, and all is well again.
        let asked = start + 20 * SECOND;
        assert_eq!(identity.state(info(1, 11), mark(10), 10, asked, asked), Verdict::Same);
        let asked = asked + SECOND;
        assert_eq!(identity.state(info(1, 8), mark(10), 10, asked, asked), Verdict::Unproven, "once is not enough");
        assert_eq!(identity.state(info(1, 8), mark(10), 10, asked, asked), Verdict::Another);
    }

    #[test]
    fn a_known_message_that_was_told_to_be_gone_is_known_all_the_same() {
        let now = Instant::now();
        let mut identity = doubted(now);
        identity.state(info(1, 20), mark(10), 10, now, now);
        assert_eq!(identity.message(None, 10), Verdict::Unproven, "10 is not applied yet");
        assert_eq!(identity.message(Some((10, stamp(10))), 10), Verdict::Same, "9 is gone, and 10 is there");
    }

    #[test]
    fn a_leader_that_has_yet_to_apply_its_log_is_not_believed() {
        let start = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(41), 41, start);
        let elected = |last| Info { heard: Some(Duration::from_millis(20)), ..info(1, last) };
        let mut ask = |second: u32, last| {
            let asked = start + second * SECOND;
            identity.state(elected(last), mark(41), 41, asked, asked)
        };
        assert_eq!(ask(1, 7), Verdict::Unproven);
        assert_eq!(ask(2, 14), Verdict::Unproven);
        assert_eq!(ask(11, 14), Verdict::Unproven);
        assert_eq!(ask(12, 14), Verdict::Another, "nothing was left to apply");
    }

    #[test]
    fn what_is_told_for_longer_than_a_quorum_can_be_missing_is_believed() {
        let start = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(10), 10, start);
        let state = Info { heard: None, ..info(1, 8) };
        assert_eq!(identity.state(state, mark(10), 10, start, start), Verdict::Unproven);
        assert_eq!(identity.state(state, mark(10), 10, start + 24 * SECOND, start + 24 * SECOND), Verdict::Unproven);
        assert_eq!(identity.state(state, mark(10), 10, start + 25 * SECOND, start + 25 * SECOND), Verdict::Another);
    }

    #[test]
    fn a_later_creation_is_believed_at_once_and_an_earlier_one_is_not() {
        let now = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(10), 10, now);
        let other = |nanos| Info { epoch: Epoch::from_nanos(nanos), heard: None, ..info(1, 99) };
        assert_eq!(identity.state(other(9), mark(10), 10, now, now), Verdict::Unproven);
        assert_eq!(identity.state(other(9), mark(10), 10, now, now), Verdict::Unproven);
        assert_eq!(identity.state(other(11), mark(10), 10, now, now), Verdict::Another);
    }

    #[test]
    fn messages_before_the_head_are_compared_as_well() {
        let now = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(10), 10, now);
        identity.knew([(5, stamp(5)), (8, stamp(8)), (10, stamp(10))].into_iter());
        identity.doubt();
        identity.state(info(1, 20), mark(10), 10, now, now);
        assert_eq!(identity.message(None, 10), Verdict::Unproven);
        assert_eq!(identity.message(Some((8, stamp(8))), 10), Verdict::Same);
        identity.knew([(10, stamp(11))].into_iter());
        assert!(!identity.is_certain(), "the message at the head is another one");
    }

    #[test]
    fn what_is_kept_for_comparison_is_bounded() {
        let now = Instant::now();
        let mut identity = Identity::new(EPOCH, mark(7), 7, now);
        (8..1000).for_each(|sequence| identity.saw(sequence, sequence, now));
        assert_eq!(identity.marks.len(), MARKS);
    }
}
