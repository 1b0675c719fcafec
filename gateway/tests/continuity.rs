//! The core as a whole against a model of a stream: two gateways' ingest, Log, feeds and subscribers, and what these read
//! of the stream behind the Log, with publications, purges, deletions and broken connections at every point in between.
//!
//! Real time is left out: each act is one thing that happens, and a question to the stream, its answer and the arrival of
//! the answer are three. Whether a position behind the Log is still the same message is not asked here: it always is.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use tidings_crds::position::{Epoch, Position};
use tidings_crds::topic::TopicSet;
use tidings_gateway::channel::subscriber::{Beginning, Step, Subscriber};
use tidings_gateway::log::chunk::Chunk;
use tidings_gateway::log::chunked::Frame;
use tidings_gateway::log::event_log::{Entry, Kind, Located, LogLimits, Mark};
use tidings_gateway::log::fanout::Fanout;
use tidings_gateway::log::ingest::{self, Answer, Ask, Info, Ingest};
use tidings_gateway::log::publication::Publication;

const EPOCH: Epoch = Epoch::from_nanos(10);
const TOPICS: [&str; 3] = ["a", "b", "c"];
const FILTERS: [&[&str]; 4] = [&[], &["a"], &["b", "c"], &["d"]];
/// What a Log holds, in events.
const LOG: usize = 5;
/// Where chunks begin that several clients share.
const ALIGN: u64 = 4;
const GATEWAYS: usize = 2;
const CLIENTS: usize = 4;

/// What a channel keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Everything,
    Newest(usize),
    NewestOfEachTopic,
}

/// What becomes of the live copy of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Lose,
    Delay,
}

#[derive(Clone, Debug)]
enum Act {
    Publish(usize, [Fate; GATEWAYS]),
    Delete(Index),
    PurgeTopic(usize),
    PurgeBelow(Index),
    Purge,
    /// A gateway asks, a replica that lags by so many messages answers, the answer arrives.
    Ask(usize),
    Serve(usize, u64),
    Arrive(usize),
    Fail(usize),
    /// The oldest delayed live copy arrives.
    Late(usize),
    Interrupt(usize),
    Reconnect(usize),
    Restart(usize),
    /// What a gateway has read of the stream behind the Log is no longer kept.
    Forget(usize),
    /// A client, or the gateway for it, takes one more step.
    Go(usize),
    Heartbeat(usize),
    Leave(usize),
}

#[derive(Clone, Debug)]
struct Wish {
    topics: TopicSet,
    all: bool,
}

/// What left the stream, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    Alone,
    Front,
}

#[derive(Debug)]
struct Fact {
    topic: &'static str,
    gone: Option<Removal>,
}

#[derive(Debug)]
struct Stream {
    keeps: Keeps,
    facts: BTreeMap<u64, Fact>,
}

struct Gateway {
    ingest: Ingest,
    fanout: Fanout,
    asked: Option<(Ask, Option<Answer>)>,
    late: VecDeque<u64>,
    chunks: HashMap<u64, Arc<Chunk>>,
}

/// A piece of the stream that is being read, message by message.
struct Reading {
    from: u64,
    floor: u64,
    next: u64,
    entries: Vec<Arc<Entry>>,
}

enum Connection {
    None,
    /// The leader has told where the stream begins.
    Asked {
        first: u64,
    },
    Open(Box<Subscriber>),
    Behind(Box<Subscriber>, Reading),
}

/// A client, and what was proven to it.
struct Client {
    wish: Wish,
    gateway: usize,
    connection: Connection,
    last_id: Option<Position>,
    at: Option<u64>,
    fresh: bool,
}

// === impl Stream ===

impl Stream {
    fn last(&self) -> u64 {
        self.facts.last_key_value().map_or(0, |(last, _)| *last)
    }

    fn stored(&self) -> impl Iterator<Item = u64> {
        self.facts.iter().filter(|(_, fact)| fact.gone.is_none()).map(|(sequence, _)| *sequence)
    }

    fn first(&self) -> u64 {
        self.stored().next().unwrap_or(self.last() + 1)
    }

    fn from(&self, sequence: u64) -> Option<Publication> {
        self.stored().find(|stored| *stored >= sequence).map(|stored| self.publication(stored))
    }

    fn publication(&self, sequence: u64) -> Publication {
        Publication {
            sequence,
            time: sequence * 10,
            topic: self.facts[&sequence].topic.into(),
            event: None,
            data: sequence.to_string().into(),
            marker: false,
        }
    }

    fn info(&self) -> Info {
        Info { epoch: EPOCH, first: self.first(), last: self.last(), last_time: self.last() * 10 }
    }

    fn head(&self) -> Mark {
        let last = self.from(self.last().max(1)).map(|publication| publication.stamp());
        Mark { sequence: self.last(), stamp: last }
    }

    fn publish(&mut self, topic: &'static str) -> u64 {
        if self.keeps == Keeps::NewestOfEachTopic {
            self.remove(Removal::Alone, |_, fact| fact.topic == topic);
        }
        let sequence = self.last() + 1;
        self.facts.insert(sequence, Fact { topic, gone: None });
        if let Keeps::Newest(count) = self.keeps {
            let surplus = self.stored().count().saturating_sub(count);
            let gone: Vec<u64> = self.stored().take(surplus).collect();
            self.remove(Removal::Front, |sequence, _| gone.contains(&sequence));
        }
        sequence
    }

    fn remove(&mut self, removal: Removal, gone: impl Fn(u64, &Fact) -> bool) {
        for (sequence, fact) in &mut self.facts {
            if fact.gone.is_none() && gone(*sequence, fact) {
                fact.gone = Some(removal);
            }
        }
    }

    fn answer(&self, ask: Ask, lag: u64) -> Answer {
        match ask {
            Ask::Info => Answer::Info(self.info()),
            Ask::Leader { from } => Answer::Leader(self.from(from)),
            Ask::Batch { from, .. } => {
                let visible = self.stored().filter(|stored| *stored >= from && stored + lag <= self.last());
                let all: Vec<_> = visible.map(|stored| self.publication(stored)).collect();
                Answer::Batch { more: all.len() > 3, messages: all.into_iter().take(3).collect() }
            }
        }
    }
}

// === impl Gateway ===

impl Gateway {
    fn open(stream: &Stream, now: Instant) -> Self {
        let (info, head) = (stream.info(), stream.head());
        let keeps_all = stream.keeps != Keeps::NewestOfEachTopic;
        Self {
            ingest: Ingest::new(EPOCH, head, info.last_time, keeps_all, LOG as u64, now),
            fanout: Fanout::new(EPOCH, head, info.first, LogLimits { entries: LOG, bytes: 1 << 20 }),
            asked: None,
            late: VecDeque::new(),
            chunks: HashMap::new(),
        }
    }

    fn live(&mut self, publication: Publication, now: Instant) {
        let mut steps = Vec::new();
        self.ingest.live(publication, now, &mut steps);
        self.carry_out(steps);
    }

    fn ask(&mut self, now: Instant) {
        if self.asked.is_none() {
            self.asked = self.ingest.ask(now).map(|ask| (ask, None));
        }
    }

    fn serve(&mut self, stream: &Stream, lag: u64) {
        if let Some((ask, answer @ None)) = &mut self.asked {
            *answer = Some(stream.answer(*ask, lag));
        }
    }

    fn arrive(&mut self, answer: Option<Answer>, now: Instant) {
        let Some((_, served)) = self.asked.take_if(|(_, served)| answer.is_some() || served.is_some()) else { return };
        let mut steps = Vec::new();
        self.ingest.answer(answer.or(served).unwrap(), now, &mut steps);
        self.carry_out(steps);
    }

    fn carry_out(&mut self, steps: Vec<ingest::Step>) {
        for step in steps {
            match step {
                ingest::Step::Append(publication) => self.fanout.append(entry(&publication), &mut Vec::new()),
                ingest::Step::Skip(to) => self.fanout.skip(to),
                ingest::Step::Expired(to) => {
                    let (time, topic, frame) = (0, "".into(), Frame::default());
                    let lost = Entry { sequence: to.sequence, time, topic, frame, kind: Kind::Lost };
                    self.fanout.append(Arc::new(lost), &mut Vec::new());
                }
                ingest::Step::Jump(head) => self.fanout.jump(head, &mut Vec::new()),
                ingest::Step::Reset { .. } => panic!("the stream was never replaced: {step:?}"),
            }
        }
    }
}

fn entry(publication: &Publication) -> Arc<Entry> {
    let id = Position { epoch: EPOCH, sequence: publication.sequence, stamp: Some(publication.stamp()) };
    Arc::new(Entry {
        sequence: publication.sequence,
        time: publication.time,
        topic: publication.topic.clone(),
        frame: format!("data: {}\nid: {id}\n\n", publication.sequence).into(),
        kind: Kind::Event,
    })
}

// === impl Client ===

impl Client {
    fn new(wish: Wish, gateway: usize) -> Self {
        Self { wish, gateway, connection: Connection::None, last_id: None, at: None, fresh: false }
    }

    /// One step: it asks, is seated, is sent something, or one more message is read for it. False: nothing to do.
    fn go(&mut self, gateways: &mut [Gateway], stream: &Stream) -> bool {
        let gateway = &mut gateways[self.gateway];
        match std::mem::replace(&mut self.connection, Connection::None) {
            Connection::None => {
                self.fresh = self.last_id.is_none() && self.wish.all;
                if self.last_id.is_none() {
                    self.at = self.wish.all.then_some(0);
                }
                self.connection = Connection::Asked { first: stream.first() };
            }
            Connection::Asked { first } => {
                let after = match self.last_id {
                    Some(position) => match gateway.fanout.locate(position) {
                        Located::Here | Located::Behind => Mark { sequence: position.sequence, stamp: position.stamp },
                        Located::Ahead => {
                            self.connection = Connection::Asked { first };
                            return true;
                        }
                        other => panic!("{other:?}: the stream was never replaced"),
                    },
                    None if self.wish.all => Mark { sequence: first - 1, stamp: None },
                    None => gateway.fanout.head(),
                };
                let keeps_all = stream.keeps != Keeps::NewestOfEachTopic;
                let resumes = self.last_id.is_some() || !self.wish.all;
                let beginning = Beginning { positions: true, resumes, keeps_all, told: Some(after.sequence) };
                let cursor = gateway.fanout.join(&self.wish.topics, after);
                let subscriber = Subscriber::new(cursor, self.wish.topics.clone(), beginning, None);
                self.moved(after.position(EPOCH), stream);
                self.connection = Connection::Open(Box::new(subscriber));
            }
            Connection::Open(mut subscriber) => match subscriber.next(&gateway.fanout, 20) {
                Step::Events(batch) => {
                    self.hear(&batch.bytes, stream);
                    self.connection = Connection::Open(subscriber);
                }
                Step::Gap(_, bytes) => {
                    self.hear(&bytes, stream);
                    self.connection = Connection::Open(subscriber);
                }
                Step::Wait => {
                    self.connection = Connection::Open(subscriber);
                    return false;
                }
                Step::Read { after, floor } => {
                    let known = |from: u64| gateway.chunks.get(&from).filter(|chunk| chunk.through > after);
                    let aligned = after - after % ALIGN;
                    if let Some(chunk) = known(aligned).or_else(|| known(after)).cloned() {
                        self.take(subscriber, chunk, stream);
                    } else {
                        let from = if gateway.chunks.contains_key(&aligned) { after } else { aligned };
                        let reading = Reading { from, floor, next: from + 1, entries: Vec::new() };
                        self.connection = Connection::Behind(subscriber, reading);
                    }
                }
                Step::End(reason) => panic!("{reason:?}"),
            },
            Connection::Behind(subscriber, mut reading) => match stream.from(reading.next) {
                Some(publication) if publication.sequence <= reading.floor => {
                    reading.next = publication.sequence + 1;
                    reading.entries.push(entry(&publication));
                    self.connection = Connection::Behind(subscriber, reading);
                }
                _ => {
                    let Reading { from, floor: through, entries, .. } = reading;
                    let chunk = Arc::new(Chunk { from, through, first: stream.first(), entries });
                    gateway.chunks.insert(from, chunk.clone());
                    self.take(subscriber, chunk, stream);
                }
            },
        }
        true
    }

    fn take(&mut self, mut subscriber: Box<Subscriber>, chunk: Arc<Chunk>, stream: &Stream) {
        if let Some(gap) = subscriber.take(chunk) {
            self.hear(&gap, stream);
        }
        self.connection = Connection::Open(subscriber);
    }

    fn heartbeat(&mut self, stream: &Stream) {
        if let Connection::Open(subscriber) | Connection::Behind(subscriber, _) = &mut self.connection {
            let bytes = subscriber.heartbeat();
            self.hear(&bytes, stream);
        }
    }

    fn leave(&mut self, gateways: &mut [Gateway]) {
        if let Connection::Open(subscriber) | Connection::Behind(subscriber, _) = &self.connection {
            gateways[self.gateway].fanout.leave(subscriber.cursor());
        }
        self.connection = Connection::None;
        self.gateway = (self.gateway + 1) % GATEWAYS;
    }

    /// Reads whole blocks and holds them against the stream.
    fn hear(&mut self, frame: &Frame, stream: &Stream) {
        let text = String::from_utf8(frame.text().to_vec()).unwrap();
        for block in text.split_terminator("\n\n") {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let Some(id) = field("id: ") else {
                assert_eq!(block, ":\n", "what else has no id?");
                continue;
            };
            let position: Position = id.parse().unwrap();
            match (field("event: "), field("data:")) {
                (Some("tidings.gap"), Some(data)) => self.gap(position, data, stream),
                (Some("tidings.position"), Some("")) => self.moved(position, stream),
                (None, Some(data)) => self.event(position, data.trim_start(), stream),
                other => panic!("{other:?}"),
            }
        }
    }

    fn event(&mut self, position: Position, data: &str, stream: &Stream) {
        let sequence = position.sequence;
        assert_eq!(data, sequence.to_string());
        assert!(self.wish.topics.matches(stream.facts[&sequence].topic), "{sequence} was not asked for");
        if let Some(at) = self.at {
            assert!(sequence > at, "{sequence} after {at}");
            self.pass(at, sequence, self.last_id.is_some() && !self.fresh, stream);
        }
        self.fresh = false;
        (self.at, self.last_id) = (Some(sequence), Some(position));
    }

    fn moved(&mut self, position: Position, stream: &Stream) {
        if self.last_id == Some(position) {
            return;
        }
        if let Some(at) = self.at {
            assert!(position.sequence >= at, "back to {position:?} after {at}");
            self.pass(at, position.sequence + 1, self.last_id.is_some() && !self.fresh, stream);
        }
        (self.at, self.last_id) = (Some(position.sequence), Some(position));
    }

    fn gap(&mut self, resumed: Position, data: &str, stream: &Stream) {
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!((&data["reason"], &data["resumed"]), (&"expired".into(), &resumed.to_string().into()));
        assert_ne!(stream.keeps, Keeps::NewestOfEachTopic, "older values are dropped by contract");
        let after: Position = data["after"].as_str().unwrap().parse().unwrap();
        let at = self.at.unwrap();
        assert!(at <= after.sequence && after.sequence < resumed.sequence, "{at}, {data}");
        assert!(stream.first() > after.sequence + 1, "{data}, but its successor exists");
        self.pass(at, after.sequence + 1, true, stream);
        self.pass(after.sequence, resumed.sequence + 1, false, stream);
        (self.at, self.last_id) = (Some(resumed.sequence), Some(resumed));
    }

    /// What lies between must be gone; alone, where the client had to be told of all else.
    fn pass(&self, after: u64, next: u64, tell: bool, stream: &Stream) {
        if after + 1 >= next {
            return;
        }
        for (sequence, fact) in stream.facts.range(after + 1..next) {
            if self.wish.topics.matches(fact.topic) {
                assert!(fact.gone.is_some(), "{sequence} exists, and was passed over between {after} and {next}");
                let silent = tell && fact.gone == Some(Removal::Front) && stream.keeps != Keeps::NewestOfEachTopic;
                assert!(!silent, "{sequence} was purged, and passed over without a word between {after} and {next}");
            }
        }
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Pass), 1 => Just(Fate::Lose), 1 => Just(Fate::Delay)]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..TOPICS.len(), [fate(), fate()]).prop_map(|(topic, fates)| Act::Publish(topic, fates)),
        2 => any::<Index>().prop_map(Act::Delete),
        1 => (0..TOPICS.len()).prop_map(Act::PurgeTopic),
        2 => any::<Index>().prop_map(Act::PurgeBelow),
        1 => Just(Act::Purge),
        6 => (0..GATEWAYS).prop_map(Act::Ask),
        6 => (0..GATEWAYS, 0u64..4).prop_map(|(gateway, lag)| Act::Serve(gateway, lag)),
        6 => (0..GATEWAYS).prop_map(Act::Arrive),
        1 => (0..GATEWAYS).prop_map(Act::Fail),
        2 => (0..GATEWAYS).prop_map(Act::Late),
        1 => (0..GATEWAYS).prop_map(Act::Interrupt),
        1 => (0..GATEWAYS).prop_map(Act::Reconnect),
        1 => (0..GATEWAYS).prop_map(Act::Restart),
        1 => (0..GATEWAYS).prop_map(Act::Forget),
        24 => (0..CLIENTS).prop_map(Act::Go),
        2 => (0..CLIENTS).prop_map(Act::Heartbeat),
        2 => (0..CLIENTS).prop_map(Act::Leave),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    (0..FILTERS.len(), any::<bool>()).prop_map(|(filters, all)| {
        let filters = FILTERS[filters].iter().map(|filter| filter.parse().unwrap());
        Wish { topics: TopicSet::new(filters).unwrap_or_else(TopicSet::all), all }
    })
}

fn keeps() -> impl Strategy<Value = Keeps> {
    prop_oneof![2 => Just(Keeps::Everything), 2 => (2usize..9).prop_map(Keeps::Newest), 1 => Just(Keeps::NewestOfEachTopic)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 200_000, ..ProptestConfig::default() })]
    #[test]
    fn every_client_gets_its_events_in_order_once_and_is_told_of_every_gap(
        keeps in keeps(),
        wishes in prop::collection::vec(wish(), CLIENTS),
        acts in prop::collection::vec(act(), 1..250),
    ) {
        let mut now = Instant::now();
        let mut stream = Stream { keeps, facts: BTreeMap::new() };
        let mut gateways: Vec<Gateway> = (0..GATEWAYS).map(|_| Gateway::open(&stream, now)).collect();
        let mut clients: Vec<Client> =
            wishes.into_iter().enumerate().map(|(number, wish)| Client::new(wish, number % GATEWAYS)).collect();
        for act in acts {
            now += Duration::from_millis(200);
            match act {
                Act::Publish(topic, fates) => {
                    let sequence = stream.publish(TOPICS[topic]);
                    for (gateway, fate) in gateways.iter_mut().zip(fates) {
                        match fate {
                            Fate::Pass => gateway.live(stream.publication(sequence), now),
                            Fate::Delay => gateway.late.push_back(sequence),
                            Fate::Lose => {}
                        }
                    }
                }
                Act::Delete(which) => {
                    let stored: Vec<u64> = stream.stored().collect();
                    if !stored.is_empty() {
                        stream.remove(Removal::Alone, |sequence, _| sequence == *which.get(&stored));
                    }
                }
                Act::PurgeTopic(topic) => stream.remove(Removal::Alone, |_, fact| fact.topic == TOPICS[topic]),
                Act::PurgeBelow(which) => {
                    let stored: Vec<u64> = stream.stored().collect();
                    if !stored.is_empty() {
                        stream.remove(Removal::Front, |sequence, _| sequence < *which.get(&stored));
                    }
                }
                Act::Purge => stream.remove(Removal::Front, |_, _| true),
                Act::Ask(gateway) => gateways[gateway].ask(now),
                Act::Serve(gateway, lag) => gateways[gateway].serve(&stream, lag),
                Act::Arrive(gateway) => gateways[gateway].arrive(None, now),
                Act::Fail(gateway) => gateways[gateway].arrive(Some(Answer::Broken), now),
                Act::Late(gateway) => {
                    let gateway = &mut gateways[gateway];
                    if let Some(sequence) = gateway.late.pop_front() {
                        gateway.live(stream.publication(sequence), now);
                    }
                }
                Act::Interrupt(gateway) => gateways[gateway].ingest.interrupted(now),
                Act::Reconnect(gateway) => {
                    gateways[gateway].late.clear();
                    gateways[gateway].ingest.reconnected(now);
                }
                Act::Restart(gateway) => {
                    clients.iter_mut().filter(|client| client.gateway == gateway).for_each(|client| client.leave(&mut gateways));
                    gateways[gateway] = Gateway::open(&stream, now);
                }
                Act::Forget(gateway) => gateways[gateway].chunks.clear(),
                Act::Go(client) => {
                    clients[client].go(&mut gateways, &stream);
                }
                Act::Heartbeat(client) => clients[client].heartbeat(&stream),
                Act::Leave(client) => clients[client].leave(&mut gateways),
            }
        }
        for gateway in &mut gateways {
            for _ in 0..400 {
                let Some(at) = gateway.ingest.wake_at(now).or(gateway.asked.as_ref().map(|_| now)) else { break };
                now = now.max(at);
                gateway.ask(now);
                gateway.serve(&stream, 0);
                gateway.arrive(None, now);
            }
            prop_assert_eq!(gateway.fanout.head().sequence, stream.last());
        }
        for client in &mut clients {
            prop_assert!((0..1000).any(|_| !client.go(&mut gateways, &stream)), "it comes to the end");
            client.pass(client.at.unwrap(), stream.last() + 1, false, &stream);
        }
    }
}
