//! What makes the live relay trustworthy: order, holes, tail checks, and the signs that a stream was replaced.
//!
//! Live messages are a hint: they can be missing, late, twice or wrong. This machine decides what may be appended to the
//! Log and what has to be asked first. It does no io and reads no clock: messages and answers come in, [`Step`]s and
//! [`Ask`]s go out, and its driver ([`crate::channel::live`]) carries them out.
//!
//! Rules, with NATS 2.15 in mind:
//! - An unfiltered reply, by whichever replica, proves absence only *below the highest sequence it contains*.
//! - Beyond that, only the stream's leader proves absence: it says twice that there is nothing, and in between that it
//!   knows the sequence in question.
//! - Replicas expire messages by age with timers of their own. Where the channel keeps all messages, what is missing right at
//!   the beginning of a replica's reply is therefore proven by the leader alone.
//! - What is proven absent may have been removed before we ever saw it. If the stream now begins behind it, on a channel
//!   that keeps all messages, that is a loss, and everybody is told ([`Step::Expired`]). Asked after the proof.
//! - A sequence at or below the head with a newer time is a sign of another stream under the old name, or of one that went
//!   back in time; a reconnect, of whichever connection, can hide either. Nothing more is appended before [`crate::log::identity`]
//!   has decided that it is the same stream.
//! - A message on a subject that the Route does not have is skipped once the leader has told, after it came, that the stream
//!   takes no such subject any more. Until then the Route may be the older of the two, and the message holds the head.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidings_crds::position::{Epoch, Stamp};

use crate::log::event_log::Mark;
use crate::log::identity::{Confirmed, Identity, Verdict, Wanted};
use crate::log::publication::{Millis, Publication};

pub use crate::log::identity::Info;

/// How many live messages wait above a hole at most; more are dropped and fetched later.
/// 4,096 are two seconds at 2,000 messages/s, much longer than a hole takes to fill.
const WAITING: usize = 4096;

/// And how many bytes of them.
const WAITING_BYTES: usize = 8 << 20;

/// The first tail check behind a new head begins this much earlier: of these messages some may still exist when the one at the
/// head is gone, and tell whether this is still the same stream.
const LOOK_BACK: u64 = 8;

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

/// How long a message on a subject that the stream takes and the Route does not have holds the head. A Route that is written
/// late arrives within; after that the message is skipped, and everybody is told.
const HOLD: Duration = Duration::from_secs(120);

/// How long the leader is asked again and again for an answer given after a certain moment ([`Ingest::confirm`]): longer than
/// a subscriber waits for it.
const CONFIRM_FOR: Duration = Duration::from_secs(10);

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
    /// The leader: the first message stored later than this time.
    Later {
        /// In milliseconds since 1970.
        than: Millis,
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
    /// To [`Ask::Leader`] and [`Ask::Later`].
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
    /// Whether the stream is still the known one; if that is in doubt, nothing is appended.
    identity: Identity,
    head: Mark,
    head_time: Millis,
    /// The highest sequence we have reason to believe was given out.
    known: u64,
    /// Messages above a hole.
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// What the leader told last, and when it was asked.
    state: Option<(Info, Instant)>,
    in_flight: Option<Flight>,
    /// The open question was asked before the connection broke: its answer may be about another stream.
    stale: bool,
    /// Whether retention by age, count or size is the only way for a message to go unseen.
    keeps_all: bool,
    /// What is not among `waiting` and lies at or below this was proven absent.
    proven: u64,
    /// Where the stream begins has been compared with what is absent up to here.
    compared: u64,
    /// First and last sequence of a replica's reply that waits for the leader's word on what is missing before it.
    extent: Option<(u64, u64)>,
    /// Since when a message on a subject that the Route does not have has held the head.
    held: Option<Instant>,
    /// When the leader was last asked and had no subjects that the Route does not have.
    routed: Option<Instant>,
    /// The leader is asked until it is certain to have been the leader at this moment.
    confirm: Option<Instant>,
    turn: Turn,
    careful: u32,
    /// Whether messages before the head are wanted, for later comparison.
    look_back: bool,
    jump_beyond: u64,
    info_due: Instant,
    tail_due: Instant,
    pause: usize,
    failures: u32,
    hold_until: Option<Instant>,
    jitter: u64,
}

/// A message above a hole.
#[derive(Debug)]
struct Waiting {
    publication: Publication,
    /// Whether it was read from the stream. What came live may have been on its way since before the stream was made again.
    read: bool,
}

/// An open question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flight {
    ask: Ask,
    /// Whether the answer is to be compared with a known message.
    compares: bool,
    /// The head when it was asked.
    head: u64,
    at: Instant,
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
            identity: Identity::new(epoch, head, head_time, now),
            head,
            head_time,
            known: head.sequence,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            state: None,
            in_flight: None,
            stale: false,
            keeps_all,
            proven: head.sequence,
            compared: head.sequence,
            extent: None,
            held: None,
            routed: None,
            confirm: None,
            turn: Turn::Replica,
            careful: 0,
            look_back: head.sequence > 0,
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
        !self.identity.is_certain() || !self.waiting.is_empty()
    }

    /// Whether the stream is certain to be the known one.
    pub fn is_certain(&self) -> bool {
        self.identity.is_certain()
    }

    /// The newest state of the stream that is certain.
    pub fn confirmed(&self) -> Option<Confirmed> {
        self.identity.confirmed()
    }

    /// Since when a message on a subject that the Route does not have has held the head.
    pub fn held(&self) -> Option<Instant> {
        self.held
    }

    /// A live message arrived.
    pub fn live(&mut self, publication: Publication, now: Instant, steps: &mut Vec<Step>) {
        let sequence = publication.sequence;
        if sequence <= self.head.sequence {
            if publication.time > self.head_time {
                self.doubt();
            }
            return;
        }
        if self.head.sequence == 0 && self.identity.is_certain() {
            // The first message of all. Of a stream that was made again it is the first as well, and no older one would tell.
            self.doubt();
        }
        self.known = self.known.max(sequence);
        if sequence == self.head.sequence + 1 && self.is_late(&publication) {
            self.hint(now);
        } else if sequence == self.head.sequence + 1 && self.identity.is_certain() && !publication.unrouted {
            self.pass(publication, now, steps);
            self.drain(now, steps);
            self.rest(AFTER_EVENT, now);
        } else if self.waiting.len() < WAITING && self.waiting_bytes + publication.data.len() <= WAITING_BYTES {
            self.keep(publication, false);
            self.drain(now, steps);
        }
    }

    /// The subscription was made again after the connection had broken, perhaps over a malformed message: what was missed
    /// is read from the leader one by one.
    pub fn reconnected(&mut self, now: Instant) {
        self.careful = CAREFUL;
        self.doubted(now);
    }

    /// A connection broke over which questions are asked: what it is answered now may be of another stream, and what was asked
    /// before is void.
    pub fn doubted(&mut self, now: Instant) {
        self.doubt();
        self.stale = self.in_flight.is_some();
        self.interrupted(now);
    }

    /// The stream may be another one: what was learnt about what lies above the head may be of the one before.
    fn doubt(&mut self) {
        self.identity.doubt();
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.known = self.head.sequence;
        self.proven = self.head.sequence;
        self.compared = self.head.sequence;
        self.extent = None;
        self.held = None;
        self.turn = Turn::Replica;
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

    /// Has the state of the stream confirmed by a leader that was the leader at `now` or later, as the stream may have gone on, or
    /// be another one. [`Ingest::confirmed`] tells.
    pub fn confirm(&mut self, now: Instant) {
        self.confirm = Some(now);
        self.info_due = now;
        self.tail_due = now;
    }

    /// What to ask now. At most one question is open at a time; it must be answered with [`Ingest::answer`].
    pub fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.in_flight.is_some() || self.hold_until.is_some_and(|until| until > now) {
            return None;
        }
        let ask = self.wanted(now)?;
        let compares = self.identity.wanted().is_some();
        self.in_flight = Some(Flight { ask, compares, head: self.head.sequence, at: now });
        Some(ask)
    }

    /// When [`Ingest::ask`] is worth calling again, if nothing comes in before.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let due = match self.held {
            _ if self.wanted(now).is_some() => now,
            Some(_) => self.info_due,
            None => self.info_due.min(self.tail_due),
        };
        Some(self.hold_until.map_or(due, |until| due.max(until)))
    }

    /// The answer to the open question.
    pub fn answer(&mut self, answer: Answer, now: Instant, steps: &mut Vec<Step>) {
        let Some(flight) = self.in_flight.take() else { return };
        if std::mem::take(&mut self.stale) {
            return;
        }
        if !matches!(answer, Answer::Missing | Answer::Unavailable | Answer::Broken) {
            self.failures = 0;
            self.hold_until = None;
        }
        match answer {
            Answer::Info(info) => self.told(info, flight, now, steps),
            Answer::Leader(found) if flight.compares => self.compared(found, now, steps),
            // Of which stream these messages are is just being asked.
            Answer::Batch { .. } | Answer::Leader(_) if !self.identity.is_certain() => {}
            Answer::Batch { mut messages, more } => {
                let newer = messages.split_off(messages.partition_point(|m| m.sequence <= self.head.sequence));
                let joined = !messages.is_empty();
                self.looked_back(&messages);
                self.batch(newer, joined, more, now, steps);
            }
            Answer::Leader(Some(publication)) => self.single(publication, now, steps),
            Answer::Leader(None) => self.nothing(now, steps),
            Answer::Broken => {
                if matches!(flight.ask, Ask::Batch { .. }) {
                    self.careful = CAREFUL;
                }
                self.back_off(now);
            }
            Answer::Missing | Answer::Unavailable => {
                if !matches!(flight.ask, Ask::Info) {
                    self.info_due = now;
                }
                self.back_off(now);
            }
        }
    }

    fn wanted(&self, now: Instant) -> Option<Ask> {
        match self.identity.wanted() {
            Some(Wanted::From(from)) => return Some(Ask::Leader { from }),
            Some(Wanted::After(than)) => return Some(Ask::Later { than }),
            None => {}
        }
        let in_doubt = self.identity.needs_state() || matches!(self.turn, Turn::Doubt { .. });
        if in_doubt || self.info_due <= now || (self.keeps_all && self.absent() > Some(self.compared)) {
            return Some(Ask::Info);
        }
        if self.held.is_some() {
            // Nothing can be appended before the Route or the stream has changed.
            return None;
        }
        let from = self.head.sequence + 1;
        let missing = self.known > self.head.sequence;
        if !missing && self.tail_due > now {
            return None;
        }
        if self.careful > 0 || (missing && self.turn != Turn::Replica) {
            return Some(Ask::Leader { from });
        }
        let hole = !self.waiting.is_empty();
        let earlier = if self.look_back && !hole { LOOK_BACK } else { 0 };
        Some(Ask::Batch { from: from.saturating_sub(earlier).max(1), hole })
    }

    /// The leader's state of the stream.
    fn told(&mut self, info: Info, flight: Flight, now: Instant, steps: &mut Vec<Step>) {
        self.info_due = now + self.info_pause();
        self.state = Some((info, flight.at));
        if !info.unrouted {
            self.routed = Some(flight.at);
        }
        match self.identity.state(info, self.head, flight.head, flight.at, now) {
            Verdict::Another => self.start_over(info, now, steps),
            // A message has to be compared: at once.
            Verdict::Unproven if self.identity.wanted().is_some() => {}
            Verdict::Unproven => {
                self.info_due = now + PAUSES[1];
                self.hold_until = Some(self.info_due);
            }
            Verdict::Same => self.go_on(info, flight.at, now, steps),
        }
    }

    /// The stream is certain to be the known one, and was in this state after `asked`.
    fn go_on(&mut self, info: Info, asked: Instant, now: Instant, steps: &mut Vec<Step>) {
        if let Turn::Doubt { target } = self.turn {
            if info.last >= target {
                self.turn = Turn::Last { target };
            } else {
                // Never given out, or given out by a leader that this one does not know of: a later tail check will tell.
                self.turn = Turn::Replica;
                self.known = info.last;
                let forged = self.waiting.split_off(&(info.last + 1));
                self.waiting_bytes -= forged.values().map(|forged| forged.publication.data.len()).sum::<usize>();
            }
        }
        self.known = self.known.max(info.last);
        self.compare(info.first, steps);
        self.jump(info, now, steps);
        self.drain(now, steps);
        self.ask_again(asked, now);
    }

    /// Has the state asked for soon, if the answer is still awaited.
    fn ask_again(&mut self, asked: Instant, now: Instant) {
        let confirm = self.confirm.filter(|since| {
            now.duration_since(*since) < CONFIRM_FOR && self.confirmed().is_none_or(|known| known.at < *since)
        });
        self.confirm = confirm;
        if confirm.is_some_and(|since| asked < since) {
            self.info_due = now;
        } else if confirm.is_some() || self.held.is_some() {
            self.info_due = now + PAUSES[1];
        }
    }

    /// Goes on at the end if that is too far away: not before it is certain that this is still the stream we know.
    fn jump(&mut self, info: Info, now: Instant, steps: &mut Vec<Step>) {
        if info.last.saturating_sub(self.head.sequence) > self.jump_beyond && !info.unrouted {
            self.head = info.end();
            self.head_time = info.last_time;
            self.identity.jumped(self.head, info.last_time, now);
            self.look_back = true;
            self.turn = Turn::Replica;
            self.forget_passed();
            steps.push(Step::Jump(self.head));
        }
    }

    /// The leader's message at a known one's sequence, or the next one.
    fn compared(&mut self, found: Option<Publication>, now: Instant, steps: &mut Vec<Step>) {
        let found = found.map(|found| (found.sequence, found.stamp()));
        let verdict = self.identity.message(found, self.head.sequence);
        let Some((info, asked)) = self.state else { return };
        match verdict {
            Verdict::Another => self.start_over(info, now, steps),
            Verdict::Same => self.go_on(info, asked, now, steps),
            Verdict::Unproven => {}
        }
    }

    fn start_over(&mut self, info: Info, now: Instant, steps: &mut Vec<Step>) {
        let head = info.end();
        *self = Self {
            jitter: self.jitter,
            confirm: self.confirm,
            ..Self::new(info.epoch, head, info.last_time, self.keeps_all, self.jump_beyond, now)
        };
        steps.push(Step::Reset { epoch: info.epoch, head, first: info.first });
    }

    /// Messages at and before the head, in a replica's reply. They are known from now on, if nothing can be missing between
    /// them and the head.
    fn looked_back(&mut self, messages: &[Publication]) {
        let Some(last) = messages.last() else { return };
        if last.sequence == self.head.sequence && self.look_back {
            self.identity.knew(messages.iter().map(|message| (message.sequence, message.stamp())));
        }
        self.look_back = false;
    }

    /// What a replica has behind the head. `joined`: its reply began at or before the head, so that nothing can be missing at
    /// its beginning.
    fn batch(&mut self, messages: Vec<Publication>, joined: bool, more: bool, now: Instant, steps: &mut Vec<Step>) {
        let before = self.head.sequence;
        if let (Some(first), Some(last)) = (messages.first(), messages.last())
            && self.keeps_all
            && first.sequence > before.max(self.proven) + 1
            && !joined
        {
            self.extent = Some((first.sequence, last.sequence));
            self.turn = Turn::Leader;
            for publication in messages {
                self.known = self.known.max(publication.sequence);
                self.keep(publication, true);
            }
            return;
        }
        for publication in messages {
            self.take(publication, now, steps);
        }
        if self.head.sequence > before {
            self.turn = Turn::Replica;
            self.rest(if more { 0 } else { AFTER_EVENT }, now);
        } else if joined && more {
            self.rest(0, now);
        } else if self.known > self.head.sequence {
            self.turn = Turn::Leader;
        } else {
            self.rest(self.pause + 1, now);
        }
    }

    /// The first message above the head, by the leader.
    fn single(&mut self, publication: Publication, now: Instant, steps: &mut Vec<Step>) {
        self.careful = self.careful.saturating_sub(1);
        if let Some((_, last)) = self.extent.take_if(|(first, _)| *first <= publication.sequence) {
            // What the replica left out before its first message does not exist.
            self.proven = self.proven.max(last);
        }
        self.turn = Turn::Replica;
        self.take(publication, now, steps);
        if self.extent.is_some() {
            self.turn = Turn::Leader;
        }
        self.rest(0, now);
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
        self.extent = None;
        self.turn = Turn::Replica;
        self.drain(now, steps);
    }

    /// A message from an answer that began right behind the head: what else there is up to it waits already.
    fn take(&mut self, publication: Publication, now: Instant, steps: &mut Vec<Step>) {
        let sequence = publication.sequence;
        self.known = self.known.max(sequence);
        self.proven = self.proven.max(sequence);
        if sequence > self.head.sequence {
            self.keep(publication, true);
            self.drain(now, steps);
        }
    }

    /// Later in the stream and earlier in time than what is behind it, or than the stream itself: it was on its way since the
    /// stream before this one, or was stored by a leader whose clock is behind. If it is in the stream, it is read from there.
    fn is_late(&self, publication: &Publication) -> bool {
        publication.time < self.head_time || publication.time <= self.identity.epoch().as_millis()
    }

    fn keep(&mut self, publication: Publication, read: bool) {
        let known = self.waiting.get(&publication.sequence);
        if !read && known.is_some_and(|known| known.read) {
            return;
        }
        self.waiting_bytes += publication.data.len();
        if let Some(twice) = self.waiting.insert(publication.sequence, Waiting { publication, read }) {
            self.waiting_bytes -= twice.publication.data.len();
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
        let Some(end) = self.absent().filter(|_| self.identity.is_certain()) else { return };
        self.compared = end;
        if self.keeps_all && first > self.head.sequence + 1 {
            self.head = Mark { sequence: end.min(first - 1), stamp: None };
            steps.push(Step::Expired(self.head));
        }
    }

    /// Appends what waits right behind the head, over what does not exist.
    fn drain(&mut self, now: Instant, steps: &mut Vec<Step>) {
        self.forget_passed();
        while self.identity.is_certain() {
            if let Some((_, last)) = self.extent.take_if(|(first, _)| *first <= self.head.sequence + 1) {
                // Nothing is left before the replica's first message, and its reply has no holes that it does not prove.
                self.proven = self.proven.max(last);
            }
            match self.absent() {
                Some(end) if self.keeps_all && end > self.compared => return,
                Some(end) if self.waiting.contains_key(&(end + 1)) => {}
                Some(end) => {
                    self.head = Mark { sequence: end, stamp: None };
                    steps.push(Step::Skip(self.head));
                }
                None => {}
            }
            let reached = self.head.sequence.max(self.proven);
            let next = self.waiting.first_key_value().filter(|(sequence, _)| **sequence <= reached + 1);
            let Some((sequence, Waiting { publication, read })) = next else { break };
            if !read && self.is_late(publication) {
                let sequence = *sequence;
                self.waiting_bytes -= self.waiting.remove(&sequence).map_or(0, |late| late.publication.data.len());
                continue;
            }
            if publication.unrouted && self.holds(now) {
                break;
            }
            let Some((_, Waiting { publication, .. })) = self.waiting.pop_first() else { break };
            self.waiting_bytes -= publication.data.len();
            self.pass(publication, now, steps);
        }
    }

    /// Whether the next message, on a subject that the Route does not have, holds the head.
    fn holds(&mut self, now: Instant) -> bool {
        if self.held.is_none() {
            self.info_due = now;
        }
        let since = *self.held.get_or_insert(now);
        self.routed.is_none_or(|asked| asked < since) && now.duration_since(since) < HOLD
    }

    fn forget_passed(&mut self) {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| *entry.key() <= self.head.sequence) {
            self.waiting_bytes -= entry.remove().publication.data.len();
        }
    }

    fn pass(&mut self, publication: Publication, now: Instant, steps: &mut Vec<Step>) {
        if publication.sequence <= self.head.sequence {
            return;
        }
        self.head = Mark { sequence: publication.sequence, stamp: Some(publication.stamp()) };
        self.head_time = publication.time;
        self.identity.saw(publication.sequence, publication.time, now);
        self.turn = Turn::Replica;
        self.extent = self.extent.filter(|(_, last)| *last > publication.sequence);
        let given_up = self.held.take().is_some_and(|since| self.routed.is_none_or(|asked| asked < since));
        steps.push(match publication {
            // The stream may still take the subject: it was waited for long enough, and is told.
            _ if given_up => Step::Expired(self.head),
            Publication { marker: false, unrouted: false, .. } => Step::Append(publication),
            _ => Step::Skip(self.head),
        });
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

// === impl Info ===

impl Info {
    /// When its last message was stored, if that is known.
    pub fn stamp(&self) -> Option<Stamp> {
        (self.last > 0 && self.last_time > 0).then(|| Stamp::from_millis(self.last_time))
    }

    /// Where it ends. The server knows when the last message was stored also if that is deleted.
    pub fn end(&self) -> Mark {
        Mark { sequence: self.last, stamp: self.stamp() }
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
