//! What makes the live relay trustworthy: order, holes, tail checks, and the signs that a stream was replaced.
//!
//! Live messages are a hint: they can be missing, late, twice or wrong. This machine decides what may be appended to the
//! Log and what has to be asked first. It does no io and reads no clock: messages and answers come in, [`Step`]s and
//! [`Ask`]s go out, and whoever drives it ([`crate::channel::live`]) carries them out.
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

use crate::log::event_log::Mark;
use crate::log::publication::{Millis, Publication};

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
#[path = "ingest_tests.rs"]
mod tests;
