//! A client, what the gateway does for it, and what was proven to it.

use std::sync::Arc;
use std::time::Instant;

use tidings_crds::position::Position;
use tidings_crds::topic::TopicSet;
use tidings_gateway::channel::subscriber::{Beginning, Step, Subscriber, gap};
use tidings_gateway::log::chunk::Chunk;
use tidings_gateway::log::chunked::Frame;
use tidings_gateway::log::event_log::{Located, Mark};
use tidings_gateway::log::extent::{Extent, Reached};
use tidings_gateway::log::ingest::{Answer, Ask};
use tidings_gateway::log::publication::Publication;
use tidings_gateway::metrics::registry::GapReason;

use crate::act::By;
use crate::gateway::{GATEWAYS, Gateway, entry};
use crate::stream::{Keeps, Removal, Stream};

/// Where chunks begin that several clients share.
const ALIGN: u64 = 4;
const LEADER: By = By::Cluster { lag: 0, early: 0 };

pub struct Client {
    topics: TopicSet,
    all: bool,
    pub gateway: usize,
    connection: Connection,
    last_id: Option<Position>,
    /// Where it stands, if it was told.
    at: Option<At>,
    /// It was told something of a stream that was being made anew, under the name of the one before: a gap has to follow.
    owed: bool,
}

/// A sequence, and the incarnations of the stream that it may belong to: a position without a stamp is a place of several.
/// What comes next tells them apart; it has to fit one of them.
#[derive(Clone, Debug)]
struct At {
    eras: Vec<usize>,
    sequence: u64,
}

enum Connection {
    None,
    /// It waits for a place since then.
    Asked(Instant),
    Open(Box<Subscriber>),
    Behind(Box<Subscriber>, Reading),
}

/// A piece of the stream that is being read, one question at a time.
struct Reading {
    generation: u32,
    from: u64,
    floor: u64,
    connects: u64,
    extent: Extent,
    /// What the leader is to be asked about: what a replica could not prove.
    open: Option<Vec<Publication>>,
    by_leader: bool,
}

// === impl Client ===

impl Client {
    pub fn new(topics: TopicSet, all: bool, gateway: usize) -> Self {
        Self { topics, all, gateway, connection: Connection::None, last_id: None, at: None, owed: false }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.connection, Connection::Open(_))
    }

    /// One step: it asks, is seated, is sent something, or one more question is asked for it. False: nothing to do.
    pub fn go(&mut self, gateways: &mut [Gateway], stream: &Stream, lag: u64, early: u64) -> bool {
        let gateway = &mut gateways[self.gateway];
        match std::mem::replace(&mut self.connection, Connection::None) {
            Connection::None => {
                self.connection = Connection::Asked(stream.now);
                true
            }
            Connection::Asked(since) => match self.seat(gateway, stream, since) {
                Some(subscriber) => {
                    self.connection = Connection::Open(subscriber);
                    true
                }
                None => {
                    self.connection = Connection::Asked(since);
                    false
                }
            },
            Connection::Open(subscriber) => self.next(subscriber, gateway, stream),
            Connection::Behind(subscriber, reading) => self.read(subscriber, reading, gateway, stream, (lag, early)),
        }
    }

    fn next(&mut self, mut subscriber: Box<Subscriber>, gateway: &mut Gateway, stream: &Stream) -> bool {
        match subscriber.next(&gateway.fanout, 20) {
            Step::Events(batch) => self.hear(&batch.bytes, stream),
            Step::Gap(_, bytes) => self.hear(&bytes, stream),
            Step::Wait => {
                self.connection = Connection::Open(subscriber);
                return false;
            }
            Step::Read { after, floor } => {
                let generation = subscriber.cursor().generation();
                let known = |from: u64| gateway.chunks.get(&(generation, from)).filter(|chunk| chunk.through > after);
                let aligned = after - after % ALIGN;
                if let Some(chunk) = known(aligned).or_else(|| known(after)).cloned() {
                    subscriber.take(chunk);
                } else {
                    let from = if gateway.chunks.contains_key(&(generation, aligned)) { after } else { aligned };
                    self.connection = Connection::Behind(subscriber, Reading::new(generation, from, floor, gateway));
                    return true;
                }
            }
            Step::End(reason) => panic!("{reason:?}"),
        }
        self.connection = Connection::Open(subscriber);
        true
    }

    /// Asks one more question of the stream behind the Log, as the backfill does.
    fn read(
        &mut self,
        mut subscriber: Box<Subscriber>,
        mut reading: Reading,
        gateway: &mut Gateway,
        stream: &Stream,
        (lag, early): (u64, u64),
    ) -> bool {
        if reading.generation != gateway.fanout.generation() {
            self.connection = Connection::Open(subscriber);
            return true;
        }
        if !gateway.questions_up || gateway.certain_at(stream.now) != Some(reading.connects) {
            let started_again = Reading::new(reading.generation, reading.from, reading.floor, gateway);
            self.connection = Connection::Behind(subscriber, started_again);
            return false;
        }
        if reading.step(stream, lag, early) {
            let chunk = reading.finish(gateway, stream);
            if let Some(chunk) = chunk {
                gateway.chunks.insert((chunk.generation, chunk.from), chunk.clone());
                subscriber.take(chunk);
            }
            self.connection = Connection::Open(subscriber);
        } else {
            self.connection = Connection::Behind(subscriber, reading);
        }
        true
    }

    /// Finds its place, as resume does. `None`: not yet.
    fn seat(&mut self, gateway: &mut Gateway, stream: &Stream, since: Instant) -> Option<Box<Subscriber>> {
        let epoch = gateway.fanout.epoch();
        let confirmed = gateway.ingest.confirmed().filter(|known| known.at >= since);
        if confirmed.is_none() {
            gateway.ingest.confirm(stream.now);
        }
        let (after, told, resumes) = match self.last_id {
            None if self.all => {
                let known = confirmed.filter(|known| known.epoch == epoch)?;
                if gateway.fanout.head().sequence < known.last {
                    return None;
                }
                self.at = None;
                (Mark { sequence: known.first.max(1) - 1, stamp: None }, None, false)
            }
            None => {
                let head = gateway.fanout.head();
                self.at = None;
                self.moved(head.position(epoch), stream);
                (head, Some(head.sequence), true)
            }
            Some(position) => {
                let here = match gateway.fanout.locate(position) {
                    Located::Here => true,
                    Located::Behind => Self::is_same(gateway, stream, position)?,
                    Located::OtherEpoch if position.epoch < epoch => false,
                    Located::Ahead if confirmed?.last >= position.sequence => return None,
                    Located::OtherEpoch | Located::OtherStamp | Located::Ahead => confirmed.map(|_| false)?,
                };
                crate::trace(|| format!("    resumes {position:?}: {here}, {:?}", gateway.fanout));
                if here {
                    self.begin_where_nothing_can_be_compared(position, stream);
                    (Mark { sequence: position.sequence, stamp: position.stamp }, Some(position.sequence), true)
                } else {
                    let known = confirmed.filter(|known| known.epoch == epoch)?;
                    let after = Mark { sequence: known.first.saturating_sub(1), stamp: None };
                    if gateway.fanout.head().sequence < after.sequence {
                        return None;
                    }
                    let resumed = after.position(epoch);
                    self.hear(&gap(GapReason::Reset, Some(position), Some(resumed)), stream);
                    (after, Some(after.sequence), true)
                }
            }
        };
        let keeps_all = stream.keeps != Keeps::NewestOfEachTopic;
        let beginning = Beginning { positions: true, resumes, keeps_all, told };
        assert!(after.sequence <= gateway.fanout.head().sequence, "a place beyond the head: {after:?}");
        let cursor = gateway.fanout.join(&self.topics, after);
        Some(Box::new(Subscriber::new(cursor, self.topics.clone(), beginning, None)))
    }

    /// The one thing that cannot be proven: a client comes back with a position that nothing can be compared with (it has no stamp, or
    /// the message at it is gone), and the stream went back and grew again meanwhile. It stands in the new stream without being told.
    fn begin_where_nothing_can_be_compared(&mut self, position: Position, stream: &Stream) {
        let now = stream.eras.len() - 1;
        let is_gone = (1..=stream.last()).contains(&position.sequence)
            && stream.eras[now].epoch == position.epoch
            && stream.fact(now, position.sequence).gone.is_some();
        let is_gone = is_gone || position.stamp.is_none();
        if is_gone && stream.eras.len() > 1 {
            self.at = None;
        }
    }

    /// Whether the stream holds at this position what the client saw there.
    fn is_same(gateway: &mut Gateway, stream: &Stream, position: Position) -> Option<bool> {
        let certain = gateway.certain_at(stream.now) == Some(gateway.connects.questions);
        if !certain || !gateway.questions_up || stream.era().epoch != gateway.fanout.epoch() {
            return None;
        }
        let (Some(seen), true) = (position.stamp, position.sequence > 0) else { return Some(true) };
        let found = stream.from(position.sequence);
        Some(found.is_none_or(|found| found.sequence != position.sequence || found.stamp() == seen))
    }

    pub fn heartbeat(&mut self, stream: &Stream) {
        if let Connection::Open(subscriber) | Connection::Behind(subscriber, _) = &mut self.connection {
            let bytes = subscriber.heartbeat();
            self.hear(&bytes, stream);
        }
    }

    pub fn leave(&mut self, gateways: &mut [Gateway]) {
        if let Connection::Open(subscriber) | Connection::Behind(subscriber, _) = &self.connection {
            gateways[self.gateway].fanout.leave(subscriber.cursor());
        }
        self.connection = Connection::None;
        self.gateway = (self.gateway + 1) % GATEWAYS;
    }

    /// Reads whole blocks and holds them against the stream.
    pub fn hear(&mut self, frame: &Frame, stream: &Stream) {
        let bytes = frame.text();
        let text = std::str::from_utf8(&bytes).unwrap();
        crate::trace(|| format!("    filter {:?} at {:?} hears {text:?}", self.topics, self.at));
        for block in text.split_terminator("\n\n") {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let Some(id) = field("id: ") else { continue };
            let position: Position = id.parse().unwrap();
            match (field("event: "), field("data: ").filter(|data| !data.is_empty())) {
                (Some("tidings.gap"), Some(data)) => self.gap(position, data, stream),
                (None, Some(data)) => self.event(position, data.parse().unwrap(), stream),
                _ => self.moved(position, stream),
            }
        }
    }

    fn event(&mut self, position: Position, id: usize, stream: &Stream) {
        let sequence = position.sequence;
        if self.owed || stream.eras_of(position).is_empty() {
            return self.owe(position);
        }
        let is_there = |era: &usize| stream.eras[*era].ids.get(sequence as usize - 1) == Some(&id);
        let eras: Vec<usize> = (0..stream.eras.len()).filter(is_there).collect();
        assert!(!eras.is_empty(), "{sequence} was never this message");
        assert!(self.topics.matches(stream.facts[id].topic), "{sequence} was not asked for");
        if let Some(at) = &self.at {
            assert!(sequence > at.sequence, "{sequence} after {at:?}");
        }
        self.arrive(position, eras, sequence, stream);
    }

    fn moved(&mut self, position: Position, stream: &Stream) {
        crate::trace(|| format!("    filter {:?} at {:?} moves to {position:?}", self.topics, self.at));
        if self.last_id == Some(position) {
            return;
        }
        let eras = stream.eras_of(position);
        if self.owed || eras.is_empty() {
            return self.owe(position);
        }
        if let Some(at) = &self.at {
            assert!(position.sequence >= at.sequence, "back to {position:?} after {at:?}");
        }
        self.arrive(position, eras, position.sequence + 1, stream);
    }

    /// It goes on to a position that may be one of these incarnations; all before `next` was passed over.
    fn arrive(&mut self, position: Position, mut eras: Vec<usize>, next: u64, stream: &Stream) {
        if let Some(At { eras: before, sequence }) = &self.at {
            let mut why = format!("another stream, without a word: {position:?} after {:?}", self.at);
            eras.retain(|era| {
                before.iter().any(|known| stream.agree(*known, *era, *sequence))
                    && self
                        .pass(*era, *sequence, next, self.last_id.is_some(), stream)
                        .map_err(|passed_over| why = passed_over)
                        .is_ok()
            });
            if eras.is_empty() && position.epoch != stream.era().epoch {
                // The stream was made anew, and what was passed over is gone with it: that has to be told.
                return self.owe(position);
            }
            assert!(!eras.is_empty(), "{why}");
        }
        (self.at, self.last_id) = (Some(At { eras, sequence: position.sequence }), Some(position));
    }

    fn owe(&mut self, position: Position) {
        (self.owed, self.last_id) = (true, Some(position));
    }

    fn gap(&mut self, resumed: Position, data: &str, stream: &Stream) {
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(&data["resumed"], &resumed.to_string());
        let after: Position = data["after"].as_str().unwrap().parse().unwrap();
        match data["reason"].as_str().unwrap() {
            "reset" => {
                let unprovable = stream.broke && stream.removed;
                assert!(stream.eras.len() > 1 || unprovable, "a reset of a stream that was never another: {data}");
                self.at = Some(At { eras: stream.eras_of(resumed), sequence: resumed.sequence });
                self.owed = false;
            }
            "expired" if self.owed => {}
            "expired" => {
                assert_ne!(stream.keeps, Keeps::NewestOfEachTopic, "older values are dropped by contract");
                assert!(after.sequence < resumed.sequence && after.epoch == resumed.epoch, "{data}");
                let at = self.at.as_ref().map_or(after.sequence, |at| at.sequence);
                assert!(at <= after.sequence, "{at}, {data}");
                // A stream that went back and lost what it got since: continuity ends all the same, and that is told.
                // Of which incarnation this was true is not told: one that went back may be noticed later.
                let eras = stream.eras_of(resumed);
                if let [era] = *eras {
                    self.pass(era, at, after.sequence + 1, true, stream).unwrap();
                    self.pass(era, after.sequence, resumed.sequence + 1, false, stream).unwrap();
                }
                self.at = Some(At { eras, sequence: resumed.sequence });
            }
            other => panic!("{other}"),
        }
        self.last_id = Some(resumed);
    }

    /// Nothing is left for it.
    pub fn at_end(&self, stream: &Stream) {
        let now = stream.eras.len() - 1;
        assert!(!self.owed, "it was told of a stream under the name of another, and never of the change");
        let Some(At { eras, sequence }) = &self.at else { return };
        let stays = eras.iter().any(|era| stream.agree(*era, now, *sequence));
        assert!(stays, "it stands in a stream that is gone, and was never told");
        self.pass(now, *sequence, stream.last() + 1, false, stream).unwrap();
    }

    /// What lies between must be gone; alone, where the client had to be told of all else.
    fn pass(&self, era: usize, after: u64, next: u64, tell: bool, stream: &Stream) -> Result<(), String> {
        // A stream that went back, and of which everything is gone that came in the place of what was seen: see `agree`.
        let epoch = stream.eras[era].epoch;
        let tell = tell && stream.eras.iter().filter(|known| known.epoch == epoch).count() == 1;
        for sequence in after + 1..next {
            let Some(id) = stream.eras[era].ids.get(sequence as usize - 1) else { continue };
            let fact = &stream.facts[*id];
            // Where a stream went back, what it had there before is no more.
            let went_back = stream.era().epoch == epoch && stream.era().ids.get(sequence as usize - 1) != Some(id);
            if went_back || !self.topics.matches(fact.topic) {
                continue;
            }
            let Some(gone) = fact.gone else {
                return Err(format!("{sequence} exists, and was passed over between {after} and {next}"));
            };
            if tell && gone == Removal::Front && stream.keeps != Keeps::NewestOfEachTopic {
                return Err(format!(
                    "{sequence} was purged, and passed over without a word between {after} and {next}"
                ));
            }
        }
        Ok(())
    }
}

// === impl Reading ===

impl Reading {
    fn new(generation: u32, from: u64, floor: u64, gateway: &Gateway) -> Self {
        let (extent, connects) = (Extent::behind(from), gateway.connects.questions);
        Self { generation, from, floor, connects, extent, open: None, by_leader: false }
    }

    /// One question and its answer; says whether no more are needed.
    fn step(&mut self, stream: &Stream, lag: u64, early: u64) -> bool {
        let next = self.extent.through() + 1;
        if let Some(rest) = self.open.take() {
            self.by_leader = true;
            let Answer::Leader(found) = stream.answer(Ask::Leader { from: next }, LEADER) else { panic!() };
            self.extent.leader(found, self.floor, rest);
        } else {
            let Answer::Batch { messages, more } = stream.batch(next, lag, early) else { panic!() };
            match self.extent.replica(messages, stream.keeps != Keeps::NewestOfEachTopic) {
                Reached::Further if more => return true,
                Reached::Further | Reached::Nothing => {}
                Reached::Open(rest) => {
                    self.open = Some(rest);
                    return false;
                }
            }
            if self.extent.through() < self.floor {
                self.open = Some(Vec::new());
            }
        }
        self.extent.through() >= self.floor
    }

    /// The chunk, if it is certain.
    fn finish(mut self, gateway: &mut Gateway, stream: &Stream) -> Option<Arc<Chunk>> {
        self.extent.cut(self.floor);
        let info = stream.info();
        let through = self.extent.through();
        let lags = self.by_leader && info.last < self.floor;
        let certain = gateway.certain_at(stream.now) == Some(self.connects);
        if through <= self.from || info.epoch != gateway.fanout.epoch() || lags || !certain {
            gateway.ingest.confirm(stream.now);
            return None;
        }
        let messages = self.extent.into_messages();
        let entries =
            messages.iter().filter(|message| message.sequence <= through).map(|message| entry(message, info.epoch));
        let (generation, from, first) = (self.generation, self.from, info.first);
        Some(Arc::new(Chunk { generation, from, through, first, entries: entries.collect() }))
    }
}
