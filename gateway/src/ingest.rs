//! What makes the live relay trustworthy: order, holes, tail checks, and the signs that a stream was replaced.
//!
//! Live messages are a hint: they can be missing, late, twice or wrong. This machine decides what may be appended to the
//! Log and what has to be asked first. It does no io and reads no clock: messages and answers come in, [`Step`]s and
//! [`Ask`]s go out, and whoever drives it ([`crate::channel`]) carries them out.
//!
//! Rules, with NATS 2.15 in mind:
//! - An unfiltered reply, by whichever replica, proves absence only *below the highest sequence it contains*.
//! - Beyond that, only the stream's leader proves absence: it says twice that there is nothing, and in between that it
//!   knows the sequence in question.
//! - What is proven absent may have been removed before we ever saw it. If the stream now begins behind it, on a channel
//!   that keeps all messages, that is a loss, and everybody is told ([`Step::Expired`]). Asked after the proof.
//! - A sequence at or below the head with a newer time is a sign of another stream under the old name, or of one that went
//!   back in time; a reconnect can hide either. Until the leader has told when the stream was created, and that the message
//!   at our head is still the one we know, nothing more is appended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidings_crds::position::{Epoch, Stamp};

use crate::log::Mark;
use crate::publication::{Millis, Publication};

/// How many live messages wait above a hole at most; more are dropped and fetched later.
/// 4,096 are two seconds at 2,000 messages/s, much longer than a hole takes to fill.
const WAITING: usize = 4096;

/// And how many bytes of them.
const WAITING_BYTES: usize = 8 << 20;

/// How many messages are read from the leader one by one after a reply has broken the connection: what can be malformed
/// is then behind us, or shows itself again.
const CAREFUL: u32 = 256;

/// Pauses before tail checks while a channel is quiet. The first three follow a (re)connect: in a cluster a new
/// subscription takes a moment to be known everywhere.
const PAUSES: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// The pause that follows an event: 1 s after falling quiet.
const AFTER_EVENT: usize = 3;

/// The longest time between two questions to the leader whether the stream is still the same one.
const INFO_EVERY: Duration = Duration::from_secs(30);

/// The state of a stream, as its leader tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// When it was created.
    pub epoch: Epoch,
    /// The first sequence that still exists, or will exist.
    pub first: u64,
    /// The last sequence given out.
    pub last: u64,
    /// When its last message was stored; 0 before the first.
    pub last_time: Millis,
}

/// A question to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The leader: the state of the stream.
    Info,
    /// Any replica: the messages from this sequence on, unfiltered.
    Batch {
        /// The first sequence wanted.
        from: u64,
        /// Whether live messages wait for it.
        hole: bool,
    },
    /// The leader: the one message at this sequence or the next that exists.
    Leader {
        /// The first sequence wanted.
        from: u64,
    },
}

/// An answer from NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::Info`].
    Info(Info),
    /// To [`Ask::Batch`]: in ascending order; `more` if the batch was full.
    Batch {
        /// The messages.
        messages: Vec<Publication>,
        /// Whether there may be more.
        more: bool,
    },
    /// To [`Ask::Leader`].
    Leader(Option<Publication>),
    /// There is no such stream now.
    Missing,
    /// No answer in time, or nobody there.
    Unavailable,
    /// The connection broke while the answer was on its way: something in it may be malformed.
    Broken,
}

/// What is to happen to the Log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next publication.
    Append(Publication),
    /// Nothing exists, or is shown, up to here.
    Skip(Mark),
    /// What lay between the head and here was removed from the front of the stream before it was seen.
    Expired(Mark),
    /// Too far behind to follow: go on at this head.
    Jump(Mark),
    /// Another stream, or the same one gone back in time.
    Reset {
        /// Its epoch.
        epoch: Epoch,
        /// Where it ends.
        head: Mark,
        /// Where it begins.
        first: u64,
    },
}

/// The machine. See the module's words.
#[derive(Debug)]
pub struct Ingest {
    epoch: Epoch,
    head: Mark,
    head_time: Millis,
    /// The highest sequence we have reason to believe was given out.
    known: u64,
    /// Live messages above a hole.
    waiting: BTreeMap<u64, Publication>,
    waiting_bytes: usize,
    /// Whether the stream may be another one; nothing is appended until the leader has spoken.
    doubt: Doubt,
    /// How often in a row the leader's last sequence lay below one that we had seen before we asked.
    backwards: u8,
    in_flight: Option<(Ask, u64)>,
    /// The open question was asked before the connection broke: its answer may be about another stream.
    stale: bool,
    /// Whether retention by age, count or size is the only way for a message to go unseen.
    keeps_all: bool,
    /// What is not among `waiting` and lies at or below this was proven absent.
    proven: u64,
    /// Where the stream begins has been compared with what is absent up to here.
    compared: u64,
    turn: Turn,
    careful: u32,
    jump_beyond: u64,
    info_due: Instant,
    tail_due: Instant,
    pause: usize,
    failures: u32,
    hold_until: Option<Instant>,
    jitter: u64,
}

/// Whether this is still the stream we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// It is.
    None,
    /// When was it created, and where does it end?
    Stream,
    /// It was created when we think and reaches beyond our head. Is the message there the one we know?
    Head(Info),
}

/// Whose word is needed to fill the hole above the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Any replica's.
    Replica,
    /// The leader's: the replica did not reach far enough.
    Leader,
    /// The leader knows nothing there; does it know of `target` at all?
    Doubt { target: u64 },
    /// It does. If it still knows nothing there, there is nothing.
    Last { target: u64 },
}

// === impl Ingest ===

impl Ingest {
    /// Starts behind `head`, the leader's last sequence when the channel was opened. `jump_beyond` is the number of
    /// messages from which on following is not worth it: as many as the Log holds.
    pub fn new(epoch: Epoch, head: Mark, head_time: Millis, keeps_all: bool, jump_beyond: u64, now: Instant) -> Self {
        let mut ingest = Self {
            epoch,
            head,
            head_time,
            known: head.sequence,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            doubt: Doubt::None,
            backwards: 0,
            in_flight: None,
            stale: false,
            keeps_all,
            proven: head.sequence,
            compared: head.sequence,
            turn: Turn::Replica,
            careful: 0,
            jump_beyond,
            info_due: now,
            tail_due: now,
            pause: 0,
            failures: 0,
            hold_until: None,
            jitter: head.sequence ^ head_time ^ 0x9e37_79b9_7f4a_7c15,
        };
        ingest.info_due = now + ingest.info_pause();
        ingest
    }

    /// Everything up to here has been decided.
    pub fn head(&self) -> Mark {
        self.head
    }

    /// Whether live messages wait above a hole, or the stream itself is in doubt.
    pub fn is_waiting(&self) -> bool {
        self.doubt != Doubt::None || !self.waiting.is_empty()
    }

    /// A live message arrived.
    pub fn live(&mut self, publication: Publication, now: Instant, steps: &mut Vec<Step>) {
        let sequence = publication.sequence;
        if sequence <= self.head.sequence {
            if publication.time > self.head_time {
                self.doubt = Doubt::Stream;
            }
            return;
        }
        self.known = self.known.max(sequence);
        if sequence == self.head.sequence + 1 && self.doubt == Doubt::None {
            self.pass(publication, steps);
            self.drain(steps);
            self.rest(AFTER_EVENT, now);
        } else if self.waiting.len() < WAITING && self.waiting_bytes + publication.data.len() <= WAITING_BYTES {
            self.keep(publication);
        }
    }

    /// The subscription was made anew after the connection had broken, perhaps over a malformed message: what was missed
    /// is read from the leader one by one.
    pub fn reconnected(&mut self, now: Instant) {
        self.careful = CAREFUL;
        self.doubt = Doubt::Stream;
        self.stale = self.in_flight.is_some();
        self.interrupted(now);
    }

    /// The subscription may have dropped messages.
    pub fn interrupted(&mut self, now: Instant) {
        self.info_due = now;
        self.hold_until = None;
        self.failures = 0;
        self.rest(0, now);
    }

    /// Something came that could not be believed; what it stands for may exist.
    pub fn hint(&mut self, now: Instant) {
        self.pause = self.pause.min(1);
        self.tail_due = self.tail_due.min(now + PAUSES[1]);
    }

    /// Somebody has reason to believe that the stream has gone on, or is another one: ask now.
    pub fn look(&mut self, now: Instant) {
        self.info_due = now;
        self.tail_due = now;
    }

    /// What to ask now. At most one question is open at a time; it must be answered with [`Ingest::answer`].
    pub fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.in_flight.is_some() || self.hold_until.is_some_and(|until| until > now) {
            return None;
        }
        let ask = self.wanted(now)?;
        self.in_flight = Some((ask, self.head.sequence));
        Some(ask)
    }

    /// When [`Ingest::ask`] is worth calling again, if nothing comes in before.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let due = if self.wanted(now).is_some() { now } else { self.info_due.min(self.tail_due) };
        Some(self.hold_until.map_or(due, |until| due.max(until)))
    }

    /// The answer to the open question.
    pub fn answer(&mut self, answer: Answer, now: Instant, steps: &mut Vec<Step>) {
        let Some((ask, head_then)) = self.in_flight.take() else { return };
        if std::mem::take(&mut self.stale) {
            return;
        }
        if !matches!(answer, Answer::Missing | Answer::Unavailable | Answer::Broken) {
            self.failures = 0;
            self.hold_until = None;
        }
        match answer {
            Answer::Info(info) => self.told(info, head_then, now, steps),
            Answer::Leader(at_head) if ask == (Ask::Leader { from: head_then }) => self.verified(at_head, now, steps),
            // Of which stream these messages are is just being asked.
            Answer::Batch { .. } | Answer::Leader(_) if self.doubt != Doubt::None => {}
            Answer::Batch { messages, more } => self.batch(messages, more, now, steps),
            Answer::Leader(Some(publication)) => {
                self.careful = self.careful.saturating_sub(1);
                self.turn = Turn::Replica;
                self.take(publication, steps);
                self.rest(0, now);
            }
            Answer::Leader(None) => self.nothing(now, steps),
            Answer::Broken => {
                if matches!(ask, Ask::Batch { .. }) {
                    self.careful = CAREFUL;
                }
                self.back_off(now);
            }
            Answer::Missing | Answer::Unavailable => {
                if !matches!(ask, Ask::Info) {
                    self.info_due = now;
                }
                self.back_off(now);
            }
        }
    }

    fn wanted(&self, now: Instant) -> Option<Ask> {
        let from = self.head.sequence + 1;
        if matches!(self.doubt, Doubt::Head(_)) {
            return Some(Ask::Leader { from: self.head.sequence });
        }
        let in_doubt = self.doubt == Doubt::Stream || matches!(self.turn, Turn::Doubt { .. });
        if in_doubt || self.info_due <= now || (self.keeps_all && self.absent() > Some(self.compared)) {
            return Some(Ask::Info);
        }
        let missing = self.known > self.head.sequence;
        if !missing && self.tail_due > now {
            return None;
        }
        if self.careful > 0 || (missing && self.turn != Turn::Replica) {
            return Some(Ask::Leader { from });
        }
        Some(Ask::Batch { from, hole: !self.waiting.is_empty() })
    }

    /// The leader's state of the stream.
    fn told(&mut self, info: Info, head_then: u64, now: Instant, steps: &mut Vec<Step>) {
        self.info_due = now + self.info_pause();
        if info.epoch != self.epoch {
            return self.start_over(info, now, steps);
        }
        if info.last < head_then {
            // A leader just elected could be about to apply what a replica already had: ask again before believing it.
            self.backwards += 1;
            if self.backwards > 1 {
                return self.start_over(info, now, steps);
            }
            self.info_due = now + PAUSES[1];
            self.hold_until = Some(self.info_due);
            return;
        }
        self.backwards = 0;
        if self.doubt == Doubt::Stream {
            // Where nothing is known of the message at the head, nothing can be compared.
            self.doubt = if self.head.stamp.is_some() { Doubt::Head(info) } else { Doubt::None };
        }
        if let Turn::Doubt { target } = self.turn {
            if info.last >= target {
                self.turn = Turn::Last { target };
            } else {
                // Never given out, or given out by a leader that this one does not know of: a later tail check will tell.
                self.turn = Turn::Replica;
                self.known = info.last;
                let forged = self.waiting.split_off(&(info.last + 1));
                self.waiting_bytes -= forged.values().map(|p| p.data.len()).sum::<usize>();
            }
        }
        self.known = self.known.max(info.last);
        self.compare(info.first, steps);
        self.jump(info, steps);
        self.drain(steps);
    }

    /// Goes on at the end if that is too far away: not before it is certain that this is still the stream we know.
    fn jump(&mut self, info: Info, steps: &mut Vec<Step>) {
        if self.doubt == Doubt::None && info.last.saturating_sub(self.head.sequence) > self.jump_beyond {
            self.head = Mark { sequence: info.last, stamp: None };
            self.head_time = info.last_time;
            self.turn = Turn::Replica;
            self.forget_passed();
            steps.push(Step::Jump(self.head));
        }
    }

    /// The leader's message at our head, or the next one.
    fn verified(&mut self, at_head: Option<Publication>, now: Instant, steps: &mut Vec<Step>) {
        let Doubt::Head(info) = self.doubt else { return };
        self.doubt = Doubt::None;
        let same = at_head.is_none_or(|found| {
            if found.sequence == self.head.sequence {
                Some(found.stamp()) == self.head.stamp
            } else {
                // It is gone; what comes after it cannot be older.
                found.time >= self.head_time
            }
        });
        if !same {
            return self.start_over(info, now, steps);
        }
        self.jump(info, steps);
        self.drain(steps);
    }

    fn start_over(&mut self, info: Info, now: Instant, steps: &mut Vec<Step>) {
        let head = Mark { sequence: info.last, stamp: None };
        *self = Self {
            jitter: self.jitter,
            ..Self::new(info.epoch, head, info.last_time, self.keeps_all, self.jump_beyond, now)
        };
        steps.push(Step::Reset { epoch: info.epoch, head, first: info.first });
    }

    fn batch(&mut self, messages: Vec<Publication>, more: bool, now: Instant, steps: &mut Vec<Step>) {
        let before = self.head.sequence;
        for publication in messages {
            self.take(publication, steps);
        }
        if self.head.sequence > before {
            self.turn = Turn::Replica;
            self.rest(if more { 0 } else { AFTER_EVENT }, now);
        } else if self.known > self.head.sequence {
            self.turn = Turn::Leader;
        } else {
            self.rest(self.pause + 1, now);
        }
    }

    /// The leader knows of no message above the head.
    fn nothing(&mut self, now: Instant, steps: &mut Vec<Step>) {
        self.careful = 0;
        if self.known <= self.head.sequence {
            self.turn = Turn::Replica;
            return self.rest(self.pause + 1, now);
        }
        let Turn::Last { target } = self.turn else {
            self.turn = Turn::Doubt { target: self.known };
            return;
        };
        self.proven = self.proven.max(target);
        self.turn = Turn::Replica;
        self.drain(steps);
    }

    /// A message from an answer that began right behind the head: what else there is up to it waits already.
    fn take(&mut self, publication: Publication, steps: &mut Vec<Step>) {
        let sequence = publication.sequence;
        self.known = self.known.max(sequence);
        self.proven = self.proven.max(sequence);
        if sequence > self.head.sequence {
            self.keep(publication);
            self.drain(steps);
        }
    }

    fn keep(&mut self, publication: Publication) {
        self.waiting_bytes += publication.data.len();
        if let Some(twice) = self.waiting.insert(publication.sequence, publication) {
            self.waiting_bytes -= twice.data.len();
        }
    }

    /// Where the absence right behind the head ends, if something is proven absent there.
    fn absent(&self) -> Option<u64> {
        let next = self.waiting.first_key_value().map(|(sequence, _)| *sequence);
        let end = next.map_or(self.proven, |next| self.proven.min(next - 1));
        (end > self.head.sequence).then_some(end)
    }

    /// The stream begins at `first`, after the absence behind the head was proven.
    fn compare(&mut self, first: u64, steps: &mut Vec<Step>) {
        let Some(end) = self.absent().filter(|_| self.doubt == Doubt::None) else { return };
        self.compared = end;
        if self.keeps_all && first > self.head.sequence + 1 {
            self.head = Mark { sequence: end.min(first - 1), stamp: None };
            steps.push(Step::Expired(self.head));
        }
    }

    /// Appends what waits right behind the head, over what does not exist.
    fn drain(&mut self, steps: &mut Vec<Step>) {
        self.forget_passed();
        while self.doubt == Doubt::None {
            match self.absent() {
                Some(end) if self.keeps_all && end > self.compared => return,
                Some(end) if self.waiting.contains_key(&(end + 1)) => {}
                Some(end) => {
                    self.head = Mark { sequence: end, stamp: None };
                    steps.push(Step::Skip(self.head));
                }
                None => {}
            }
            let next = self.waiting.first_entry().filter(|entry| {
                let reached = self.head.sequence.max(self.proven);
                *entry.key() <= reached + 1
            });
            let Some(publication) = next.map(|entry| entry.remove()) else { break };
            self.waiting_bytes -= publication.data.len();
            self.pass(publication, steps);
        }
    }

    fn forget_passed(&mut self) {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| *entry.key() <= self.head.sequence) {
            self.waiting_bytes -= entry.remove().data.len();
        }
    }

    fn pass(&mut self, publication: Publication, steps: &mut Vec<Step>) {
        if publication.sequence <= self.head.sequence {
            return;
        }
        self.head = Mark { sequence: publication.sequence, stamp: Some(Stamp::from_millis(publication.time)) };
        self.head_time = publication.time;
        self.turn = Turn::Replica;
        steps.push(if publication.marker { Step::Skip(self.head) } else { Step::Append(publication) });
    }

    fn rest(&mut self, pause: usize, now: Instant) {
        self.pause = pause.min(PAUSES.len() - 1);
        self.tail_due = now + PAUSES.get(self.pause).copied().unwrap_or(INFO_EVERY);
    }

    fn back_off(&mut self, now: Instant) {
        self.failures = (self.failures + 1).min(6);
        let pause = Duration::from_millis(50 << self.failures);
        self.hold_until = Some(now + pause.mul_f64(0.5 + self.random()));
    }

    fn info_pause(&mut self) -> Duration {
        INFO_EVERY.mul_f64(0.75 + self.random() / 2.0)
    }

    /// From 0 to 1: spreads the questions of many channels. Xorshift is random enough for that.
    fn random(&mut self) -> f64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        (self.jitter >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const EPOCH: Epoch = Epoch::from_nanos(10);

    fn publication(sequence: u64) -> Publication {
        Publication {
            sequence,
            time: sequence * 10,
            topic: "t".into(),
            event: None,
            data: Bytes::from_static(b"x"),
            marker: false,
        }
    }

    fn info(last: u64) -> Answer {
        Answer::Info(Info { epoch: EPOCH, first: 1, last, last_time: last * 10 })
    }

    /// The machine behind 10, past its opening questions, and a clock.
    struct Bench {
        ingest: Ingest,
        now: Instant,
        steps: Vec<Step>,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let head = Mark { sequence: 10, stamp: Some(Stamp::from_millis(100)) };
            Self { ingest: Ingest::new(EPOCH, head, 100, true, 1000, now), now, steps: Vec::new() }
        }

        fn quiet() -> Self {
            let mut bench = Self::new();
            for _ in 0..4 {
                bench.now = bench.ingest.wake_at(bench.now).unwrap();
                assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: false }));
                bench.answer(Answer::Batch { messages: vec![], more: false });
            }
            bench
        }

        fn live(&mut self, sequence: u64) {
            self.ingest.live(publication(sequence), self.now, &mut self.steps);
        }

        fn ask(&mut self) -> Option<Ask> {
            self.ingest.ask(self.now)
        }

        fn answer(&mut self, answer: Answer) {
            self.ingest.answer(answer, self.now, &mut self.steps);
        }

        fn batch(&mut self, sequences: &[u64]) {
            self.answer(Answer::Batch { messages: sequences.iter().copied().map(publication).collect(), more: false });
        }

        fn appended(&mut self) -> Vec<u64> {
            self.steps
                .drain(..)
                .map(|step| match step {
                    Step::Append(publication) => publication.sequence,
                    other => panic!("{other:?}"),
                })
                .collect()
        }
    }

    #[test]
    fn after_opening_the_tail_is_checked_three_times_and_then_with_growing_pauses() {
        let mut bench = Bench::new();
        let start = bench.now;
        let mut checks = Vec::new();
        for _ in 0..6 {
            bench.now = bench.ingest.wake_at(bench.now).unwrap();
            assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: false }));
            checks.push((bench.now - start).as_millis());
            bench.answer(Answer::Batch { messages: vec![], more: false });
        }
        assert_eq!(checks, [0, 250, 1000, 2000, 4000, 9000]);
    }

    #[test]
    fn the_next_sequence_is_appended_at_once() {
        let mut bench = Bench::quiet();
        bench.live(11);
        bench.live(12);
        assert_eq!(bench.appended(), [11, 12]);
        assert_eq!(bench.ask(), None);
    }

    #[test]
    fn a_hole_waits_for_a_reply_that_reaches_beyond_it() {
        let mut bench = Bench::quiet();
        bench.live(13);
        assert!(bench.appended().is_empty());
        assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: true }));
        bench.batch(&[12, 13, 14]);
        // 11 does not exist. It was deleted, or the stream begins behind it: that makes a difference.
        assert!(bench.appended().is_empty());
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(info(14));
        assert_eq!(bench.appended(), [12, 13, 14]);
    }

    #[test]
    fn a_replica_that_lags_proves_nothing_and_the_leader_is_asked() {
        let mut bench = Bench::quiet();
        bench.live(13);
        bench.ask();
        bench.batch(&[]);
        assert!(bench.appended().is_empty());
        assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
        bench.answer(Answer::Leader(Some(publication(11))));
        assert_eq!(bench.appended(), [11]);
        assert_eq!(bench.ask(), Some(Ask::Batch { from: 12, hole: true }));
        bench.batch(&[12]);
        assert_eq!(bench.appended(), [12, 13]);
    }

    #[test]
    fn deleted_messages_are_absent_when_the_leader_says_so_twice_and_knows_better() {
        let mut bench = Bench::quiet();
        bench.live(13);
        bench.ask();
        bench.batch(&[]);
        assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
        bench.answer(Answer::Leader(None));
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(info(13));
        assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
        assert!(bench.appended().is_empty());
        bench.answer(Answer::Leader(None));
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(info(13));
        assert_eq!(bench.appended(), [13]);
    }

    #[test]
    fn what_was_removed_from_the_front_before_it_was_seen_is_told() {
        let mut bench = Bench::quiet();
        bench.live(14);
        bench.ask();
        bench.batch(&[14]);
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(Answer::Info(Info { epoch: EPOCH, first: 13, last: 14, last_time: 140 }));
        let expired = Step::Expired(Mark { sequence: 12, stamp: None });
        let rest = [Step::Skip(Mark { sequence: 13, stamp: None }), Step::Append(publication(14))];
        assert_eq!(bench.steps[0], expired);
        assert!(bench.steps[1..] == rest || bench.steps[1..] == rest[1..], "{:?}", bench.steps);
    }

    #[test]
    fn where_values_replace_each_other_nothing_is_lost_in_between() {
        let mut bench = Bench::quiet();
        bench.ingest.keeps_all = false;
        bench.live(14);
        bench.ask();
        bench.batch(&[14]);
        assert_eq!(bench.appended(), [14]);
    }

    #[test]
    fn a_sequence_that_was_never_given_out_is_forgotten() {
        let mut bench = Bench::quiet();
        bench.live(1_000_000);
        bench.ask();
        bench.batch(&[]);
        bench.ask();
        bench.answer(Answer::Leader(None));
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(info(10));
        assert!(!bench.ingest.is_waiting());
        bench.live(11);
        assert_eq!(bench.appended(), [11]);
    }

    #[test]
    fn an_old_sequence_with_a_newer_time_stops_everything_until_the_leader_has_spoken() {
        let mut bench = Bench::quiet();
        bench.ingest.live(Publication { time: 5000, ..publication(1) }, bench.now, &mut bench.steps);
        bench.live(11);
        assert!(bench.appended().is_empty());
        assert_eq!(bench.ask(), Some(Ask::Info));
        let epoch = Epoch::from_nanos(11);
        bench.answer(Answer::Info(Info { epoch, first: 1, last: 2, last_time: 5010 }));
        let head = Mark { sequence: 2, stamp: None };
        assert_eq!(bench.steps, [Step::Reset { epoch, head, first: 1 }]);
    }

    #[test]
    fn after_a_reconnect_the_message_at_the_head_must_be_the_one_we_know() {
        for (found, same) in [
            (Some(publication(10)), true),
            (Some(Publication { time: 99, ..publication(10) }), false),
            (Some(publication(12)), true),
            (Some(Publication { time: 99, ..publication(12) }), false),
            (None, true),
        ] {
            let mut bench = Bench::quiet();
            bench.ingest.reconnected(bench.now);
            assert_eq!(bench.ask(), Some(Ask::Info));
            bench.answer(info(30));
            bench.live(11);
            assert_eq!(bench.ask(), Some(Ask::Leader { from: 10 }));
            assert!(bench.steps.is_empty());
            bench.answer(Answer::Leader(found));
            if same {
                assert_eq!(bench.appended(), [11]);
            } else {
                let head = Mark { sequence: 30, stamp: None };
                assert_eq!(bench.steps, [Step::Reset { epoch: EPOCH, head, first: 1 }]);
            }
        }
    }

    #[test]
    fn a_duplicate_is_no_sign_of_anything() {
        let mut bench = Bench::quiet();
        bench.live(11);
        bench.live(11);
        bench.live(10);
        assert_eq!(bench.appended(), [11]);
        assert_eq!(bench.ask(), None);
    }

    #[test]
    fn a_head_that_goes_backwards_is_believed_the_second_time() {
        let mut bench = Bench::quiet();
        bench.ingest.interrupted(bench.now);
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(info(7));
        assert_eq!((bench.ask(), bench.steps.len()), (None, 0));
        bench.now = bench.ingest.wake_at(bench.now).unwrap();
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(info(7));
        let head = Mark { sequence: 7, stamp: None };
        assert_eq!(bench.steps, [Step::Reset { epoch: EPOCH, head, first: 1 }]);
    }

    #[test]
    fn what_arrived_while_the_leader_was_asked_is_not_a_step_backwards() {
        let mut bench = Bench::quiet();
        bench.ingest.look(bench.now);
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.live(11);
        bench.answer(info(10));
        bench.now += Duration::from_millis(1);
        assert_eq!(bench.appended(), [11]);
        assert_eq!(bench.ingest.backwards, 0);
    }

    #[test]
    fn too_far_behind_is_a_jump() {
        let mut bench = Bench::quiet();
        bench.ingest.interrupted(bench.now);
        bench.ask();
        bench.answer(info(5000));
        assert_eq!(bench.steps, [Step::Jump(Mark { sequence: 5000, stamp: None })]);
    }

    #[test]
    fn too_far_behind_after_a_reconnect_is_a_jump_and_not_another_stream() {
        let mut bench = Bench::quiet();
        bench.ingest.reconnected(bench.now);
        bench.ask();
        bench.answer(info(5000));
        assert_eq!((bench.ask(), bench.steps.len()), (Some(Ask::Leader { from: 10 }), 0));
        bench.answer(Answer::Leader(Some(publication(10))));
        assert_eq!(bench.steps, [Step::Jump(Mark { sequence: 5000, stamp: None })]);
    }

    #[test]
    fn what_was_asked_before_a_reconnect_says_nothing_about_the_stream_behind_it() {
        let mut bench = Bench::quiet();
        bench.ingest.look(bench.now);
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.ingest.reconnected(bench.now);
        bench.live(11);
        bench.answer(info(11));
        assert_eq!(
            (bench.ask(), bench.steps.len()),
            (Some(Ask::Info), 0),
            "asked anew, and nothing is believed before"
        );
        let epoch = Epoch::from_nanos(11);
        bench.answer(Answer::Info(Info { epoch, first: 1, last: 11, last_time: 5010 }));
        let head = Mark { sequence: 11, stamp: None };
        assert_eq!(bench.steps, [Step::Reset { epoch, head, first: 1 }]);
    }

    #[test]
    fn a_reply_that_broke_the_connection_is_read_from_the_leader_instead() {
        let mut bench = Bench::quiet();
        bench.live(12);
        assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: true }));
        bench.answer(Answer::Broken);
        assert_eq!(bench.ask(), None);
        bench.now = bench.ingest.wake_at(bench.now).unwrap();
        assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
        bench.answer(Answer::Leader(Some(publication(11))));
        assert_eq!(bench.appended(), [11, 12]);
    }

    #[test]
    fn a_delete_marker_takes_its_sequence_and_is_not_shown() {
        let mut bench = Bench::quiet();
        bench.ingest.live(Publication { marker: true, ..publication(11) }, bench.now, &mut bench.steps);
        assert_eq!(bench.steps, [Step::Skip(Mark { sequence: 11, stamp: Some(Stamp::from_millis(110)) })]);
    }

    #[test]
    fn an_unavailable_broker_is_asked_with_growing_pauses() {
        let mut bench = Bench::quiet();
        bench.live(12);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            let before = bench.now;
            bench.now = bench.ingest.wake_at(bench.now).unwrap();
            pauses.push(bench.now - before);
            assert!(bench.ask().is_some());
            bench.answer(Answer::Unavailable);
        }
        assert!(pauses[4] > pauses[1] * 2, "{pauses:?}");
    }
}
