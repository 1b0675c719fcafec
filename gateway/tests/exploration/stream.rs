//! The stream as it really was, in all its incarnations.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidings_crds::position::{Epoch, Position, Stamp};
use tidings_gateway::log::ingest::{Answer, Ask, Info};
use tidings_gateway::log::publication::Publication;

use crate::act::By;

pub const TOPICS: [&str; 3] = ["a", "b", "c"];

/// How long a leader that was cut off goes on answering.
const DEPOSED_FOR: Duration = Duration::from_secs(15);

/// How long one that was just elected takes to apply what its log holds.
const APPLYING_FOR: Duration = Duration::from_secs(5);

/// Messages in a reply.
const BATCH: usize = 12;

/// What a channel keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Everything,
    Newest(usize),
    NewestOfEachTopic,
}

/// How a message left the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Alone,
    Front,
}

/// A message that was stored.
#[derive(Debug)]
pub struct Fact {
    pub topic: &'static str,
    pub time: u64,
    pub gone: Option<Removal>,
}

/// One incarnation: until the stream is made anew or goes back. The message at sequence n is `ids[n - 1]`.
#[derive(Clone, Debug)]
pub struct Era {
    pub epoch: Epoch,
    pub ids: Vec<usize>,
}

/// What a leader that was cut off knows, or one that was just elected and has yet to apply what its log holds.
#[derive(Clone, Copy, Debug)]
struct Deposed {
    era: usize,
    last: u64,
    since: Instant,
    applying: bool,
}

#[derive(Debug)]
pub struct Stream {
    pub keeps: Keeps,
    pub facts: Vec<Fact>,
    pub eras: Vec<Era>,
    deposed: Option<Deposed>,
    start: Instant,
    pub now: Instant,
    /// Whether a connection broke, and whether a message was removed: then continuity may be impossible to prove.
    pub broke: bool,
    pub removed: bool,
}

impl Stream {
    pub fn new(keeps: Keeps, now: Instant) -> Self {
        let eras = vec![Era { epoch: Epoch::from_nanos(1_000_000 * 1_000_000), ids: Vec::new() }];
        let (facts, deposed) = (Vec::new(), None);
        Self { keeps, facts, eras, deposed, start: now, now, broke: false, removed: false }
    }

    pub fn era(&self) -> &Era {
        &self.eras[self.eras.len() - 1]
    }

    pub fn last(&self) -> u64 {
        self.era().ids.len() as u64
    }

    pub fn fact(&self, era: usize, sequence: u64) -> &Fact {
        &self.facts[self.eras[era].ids[sequence as usize - 1]]
    }

    pub fn stored(&self) -> impl DoubleEndedIterator<Item = u64> {
        let era = self.eras.len() - 1;
        (1..=self.last()).filter(move |sequence| self.fact(era, *sequence).gone.is_none())
    }

    pub fn first(&self) -> u64 {
        self.stored().next().unwrap_or(self.last() + 1)
    }

    pub fn from(&self, sequence: u64) -> Option<Publication> {
        self.stored().find(|stored| *stored >= sequence).map(|stored| self.publication(stored))
    }

    fn later(&self, than: u64) -> Option<Publication> {
        let era = self.eras.len() - 1;
        let later = self.stored().find(|sequence| self.fact(era, *sequence).time > than);
        later.map(|sequence| self.publication(sequence))
    }

    pub fn publication(&self, sequence: u64) -> Publication {
        let id = self.era().ids[sequence as usize - 1];
        let Fact { topic, time, .. } = self.facts[id];
        let data = Bytes::from(id.to_string());
        Publication { sequence, time, topic: topic.into(), event: None, data, marker: false, unrouted: false }
    }

    pub fn publish(&mut self, topic: &'static str) -> u64 {
        if self.keeps == Keeps::NewestOfEachTopic {
            let era = self.eras.len() - 1;
            let older: Vec<u64> = self.stored().filter(|stored| self.fact(era, *stored).topic == topic).collect();
            self.remove(Removal::Alone, older);
        }
        let time = self.clock() + 1 + self.facts.len() as u64 % 9;
        let id = self.facts.len();
        self.facts.push(Fact { topic, time, gone: None });
        let era = self.eras.len() - 1;
        self.eras[era].ids.push(id);
        if let Keeps::Newest(count) = self.keeps {
            let surplus = self.stored().count().saturating_sub(count);
            let gone: Vec<u64> = self.stored().take(surplus).collect();
            self.remove(Removal::Front, gone);
        }
        self.last()
    }

    pub fn remove(&mut self, removal: Removal, sequences: Vec<u64>) {
        self.removed |= !sequences.is_empty();
        let era = self.eras.len() - 1;
        for sequence in sequences {
            let id = self.eras[era].ids[sequence as usize - 1];
            self.facts[id].gone = Some(removal);
        }
    }

    /// The server's clock, in milliseconds; a message is stored up to ten later.
    fn clock(&self) -> u64 {
        1_000_000 + self.now.duration_since(self.start).as_millis() as u64 * 10
    }

    pub fn replace(&mut self, messages: u64) {
        let epoch = Epoch::from_nanos(self.clock() * 1_000_000 + self.eras.len() as u64);
        self.eras.push(Era { epoch, ids: Vec::new() });
        for n in 0..messages as usize {
            self.publish(TOPICS[n % TOPICS.len()]);
        }
    }

    pub fn go_back(&mut self, lost: u64, messages: u64) {
        let mut era = self.era().clone();
        era.ids.truncate((self.last().saturating_sub(lost)) as usize);
        self.eras.push(era);
        // A restarted server is no leader that was cut off.
        self.deposed = None;
        for n in 0..messages as usize {
            self.publish(TOPICS[n % TOPICS.len()]);
        }
    }

    pub fn depose(&mut self) {
        let (era, last) = (self.eras.len() - 1, self.last());
        self.deposed = Some(Deposed { era, last, since: self.now, applying: false });
    }

    pub fn elect(&mut self, back: u64) {
        let (era, last) = (self.eras.len() - 1, self.last().saturating_sub(back));
        self.deposed = Some(Deposed { era, last, since: self.now, applying: true });
    }

    pub fn heal(&mut self) {
        self.deposed = None;
    }

    pub fn info(&self) -> Info {
        let last_time = self.era().ids.last().map_or(0, |id| self.facts[*id].time);
        let (epoch, heard) = (self.era().epoch, Some(Duration::from_millis(20)));
        Info { epoch, first: self.first(), last: self.last(), last_time, heard, unrouted: false }
    }

    /// What is answered to a question, and by whom.
    pub fn answer(&self, ask: Ask, by: By) -> Answer {
        let deposed = self.deposed.filter(|deposed| {
            let lasts = if deposed.applying { APPLYING_FOR } else { DEPOSED_FOR };
            self.now.duration_since(deposed.since) < lasts
        });
        match (ask, by, deposed) {
            (Ask::Info, By::Deposed, Some(deposed)) => {
                let Deposed { era, last, since, applying } = deposed;
                let stored = (1..=last).find(|sequence| self.fact(era, *sequence).gone.is_none());
                let last_time = if last == 0 { 0 } else { self.fact(era, last).time };
                let contact = if applying { Duration::from_millis(20) } else { self.now.duration_since(since) };
                let (epoch, heard) = (self.eras[era].epoch, Some(contact));
                Answer::Info(Info { epoch, first: stored.unwrap_or(last + 1), last, last_time, heard, unrouted: false })
            }
            (Ask::Leader { from }, By::Deposed, Some(deposed)) if deposed.era == self.eras.len() - 1 => {
                Answer::Leader(self.from(from).filter(|found| found.sequence <= deposed.last))
            }
            (Ask::Later { than }, By::Deposed, Some(deposed)) if deposed.era == self.eras.len() - 1 => {
                Answer::Leader(self.later(than).filter(|found| found.sequence <= deposed.last))
            }
            (Ask::Later { than }, ..) => Answer::Leader(self.later(than)),
            (Ask::Info, ..) => Answer::Info(self.info()),
            (Ask::Leader { from }, ..) => Answer::Leader(self.from(from)),
            (Ask::Batch { from, .. }, By::Cluster { lag, early }, _) => self.batch(from, lag, early),
            (Ask::Batch { from, .. }, By::Deposed, _) => self.batch(from, 0, 0),
        }
    }

    /// A replica's reply: it lags by so many messages, and where messages expire it has expired so many more.
    pub fn batch(&self, from: u64, lag: u64, early: u64) -> Answer {
        let early = if self.keeps == Keeps::NewestOfEachTopic { 0 } else { early as usize };
        let visible = self.stored().skip(early).filter(|stored| *stored >= from && stored + lag <= self.last());
        let messages: Vec<_> = visible.map(|stored| self.publication(stored)).take(BATCH + 1).collect();
        Answer::Batch { more: messages.len() > BATCH, messages: messages.into_iter().take(BATCH).collect() }
    }

    /// The incarnations that a position may have been told of.
    pub fn eras_of(&self, position: Position) -> Vec<usize> {
        let fits = |era: &Era| {
            let at = (position.sequence as usize).checked_sub(1).and_then(|at| era.ids.get(at));
            let stamp = |id: &usize| Stamp::from_millis(self.facts[*id].time);
            era.epoch == position.epoch
                && match (at, position.stamp) {
                    (Some(id), Some(seen)) => stamp(id) == seen,
                    (None, _) => position.sequence == 0,
                    (Some(_), None) => true,
                }
        };
        (0..self.eras.len()).filter(|era| fits(&self.eras[*era])).collect()
    }

    /// Whether a client that stands at `through` in one incarnation can go on in the other: both have the same messages up to
    /// there, or only such differ as are gone in the other: nobody can compare what is gone.
    pub fn agree(&self, one: usize, other: usize, through: u64) -> bool {
        let (one, other, through) = (&self.eras[one], &self.eras[other], through as usize);
        let both = one.ids.iter().zip(&other.ids).take(through);
        let replaced = |id: &usize| self.facts[*id].gone.is_some();
        one.epoch == other.epoch
            && one.ids.len().min(other.ids.len()) >= through
            && both.into_iter().all(|(one, other)| one == other || replaced(other))
    }
}
