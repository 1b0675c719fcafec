//! Tests of [`crate::delivery::shard`], with a fake kernel.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, mpsc};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use rustls::ClientConnection;
use tidings_crds::position::Epoch;
use tidings_crds::route::Route;
use tidings_crds::topic::TopicSet;

use crate::channel::drain_schedule::Farewell;
use crate::channel::event_stream::Stream;
use crate::channel::live::{Behind, LiveChannel, Parts, Share};
use crate::channel::subscriber::{Beginning, Subscriber};
use crate::delivery::io::{Arrival, Heard, Now, Outside, RollId, Ticket, Wrote};
use crate::delivery::shard::{LINGER, LOOK, LOOKS, SLICE, Shard, WRITE_TIMEOUT};
use crate::log::chunk::Chunk;
use crate::log::end_reason::EndReason;
use crate::log::event_log::{Entry, Kind, LogLimits, Mark};
use crate::metrics::registry::Metrics;
use crate::nats::decode::Wire;
use crate::server::tls_session::Session;
use crate::server::tls_session::tests::{pair, plaintext};

/// The kernel, and every client.
struct Fake {
    clients: Vec<Client>,
    reads: Vec<(Ticket, Behind)>,
    bells: mpsc::Sender<RollId>,
    writes: usize,
}

#[derive(Debug)]
struct Client {
    ticket: Option<Ticket>,
    received: Vec<u8>,
    /// What its socket still takes.
    room: usize,
    broken: bool,
    /// What it has not acknowledged.
    backlog: u32,
    wants_room: bool,
    shut: bool,
    unread: bool,
    /// What it has sent.
    sent: VecDeque<u8>,
    /// Its side of a session.
    tls: Option<ClientConnection>,
}

/// The gateway's end of a client's connection.
struct End {
    client: usize,
    session: Option<Session>,
}

/// What carries the bytes, session or not.
struct Cable<'c>(&'c mut Client);

struct Bell(mpsc::Sender<RollId>, RollId);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.send(self.1).unwrap();
    }
}

impl Read for Cable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.sent.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Cable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.0.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.0.room.min(bytes.len());
        self.0.room -= taken;
        self.0.received.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outside for Fake {
    type Socket = End;
    type Reading = ();
    type Hold = ();

    fn write(&mut self, end: &mut End, bytes: &[u8]) -> io::Result<Wrote> {
        self.writes += 1;
        let mut cable = Cable(&mut self.clients[end.client]);
        if let Some(session) = &mut end.session {
            return session.write(&mut cable, bytes);
        }
        let taken = match cable.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            taken => taken?,
        };
        Ok(Wrote { taken, full: taken < bytes.len() })
    }

    fn backlog(&self, end: &End) -> u32 {
        self.clients[end.client].backlog
    }

    fn enter(&mut self, end: &End, ticket: Ticket) -> io::Result<()> {
        self.clients[end.client].ticket = Some(ticket);
        Ok(())
    }

    fn watch(&mut self, end: &End, ticket: Ticket, writable: bool) -> io::Result<()> {
        assert_eq!(self.clients[end.client].ticket, Some(ticket));
        self.clients[end.client].wants_room = writable;
        Ok(())
    }

    fn hear(&mut self, end: &mut End) -> Heard {
        let cable = &mut Cable(&mut self.clients[end.client]);
        end.session.as_mut().map_or(Heard::Nothing, |session| session.hear(cable))
    }

    fn shut(&mut self, end: &mut End, _: Ticket) -> io::Result<bool> {
        let client = &mut self.clients[end.client];
        client.shut = match &mut end.session {
            None => true,
            Some(session) => session.close(&mut Cable(client))?,
        };
        Ok(client.shut)
    }

    fn drain(&mut self, end: &mut End, _: Ticket) -> bool {
        std::mem::take(&mut self.clients[end.client].unread);
        false
    }

    fn read(&mut self, _: &Arc<LiveChannel>, ticket: Ticket, behind: Behind) {
        self.reads.push((ticket, behind));
    }

    fn bell(&mut self, roll: RollId) -> Waker {
        Arc::new(Bell(self.bells.clone(), roll)).into()
    }
}

/// One shard and one channel.
struct World {
    shard: Shard<Fake>,
    channel: Arc<LiveChannel>,
    farewell: Arc<Farewell>,
    rung: mpsc::Receiver<RollId>,
    published: u64,
    /// Whether whoever arrives is sent chunks.
    chunked: bool,
    now: Now,
    metrics: Arc<Metrics>,
}

const EPOCH: Epoch = Epoch::from_nanos(10);

fn route() -> Route {
    Route::from_yaml(
        "version: 1\nnamespace: a\nname: b\ngeneration: 1\nstate: Active\nsource: {durability: Durable, stream: S}\n\
         topics: {kind: Below, base: tidings.a.b}\n\
         events: {from: New, encoding: Text, heartbeatSeconds: 15, retryMilliseconds: 1000, maxEventBytes: 65536}\n\
         access: {tokenSources: [Header], subscribe: {mode: Public, topics: ['>']}, \
                  publish: {mode: Disabled, topics: []}}\n\
         cors: {origins: [], allowCredentials: false}\nlimits: {}\n",
    )
    .unwrap()
}

impl World {
    fn new() -> Self {
        let metrics = Metrics::new(1);
        let farewell = Arc::<Farewell>::default();
        let (bells, rung) = mpsc::channel();
        let route = Arc::new(route());
        let channel = Arc::new(LiveChannel::new(Parts {
            id: 1,
            wire: Arc::new(Wire::new("S", route.topics.clone())),
            route,
            reader: None,
            metrics: metrics.channel("a/b"),
            limits: LogLimits { entries: 100, bytes: 1 << 20 },
            backfill: Arc::default(),
            farewell: farewell.clone(),
            stop: tokio_util::sync::CancellationToken::new(),
        }));
        channel.change(|fanout, _| {
            let start = Mark { sequence: 0, stamp: None };
            *fanout = crate::log::fanout::Fanout::new(EPOCH, start, 1, LogLimits { entries: 100, bytes: 1 << 20 });
        });
        let fake = Fake { clients: Vec::new(), reads: Vec::new(), bells, writes: 0 };
        let now = Now { at: Instant::now(), wall: 0 };
        Self { shard: Shard::new(fake), channel, farewell, rung, published: 0, chunked: false, now, metrics }
    }

    /// Somebody who has seen everything up to `after`.
    fn arrive_at(&mut self, topics: &TopicSet, after: u64) -> usize {
        self.arrive_over(false, topics, after)
    }

    /// The same, over TLS if it is `sealed`.
    fn arrive_over(&mut self, sealed: bool, topics: &TopicSet, after: u64) -> usize {
        let cursor = self.channel.fanout().join(topics, Mark { sequence: after, stamp: None });
        let beginning = Beginning { positions: true, resumes: true, keeps_all: true, told: Some(after) };
        let subscriber = Subscriber::new(cursor, topics.clone(), beginning, None);
        let stream = Stream::new(Share::new(self.channel.clone()), subscriber, None, self.now.at, 0.5);
        let client = self.shard.outside().clients.len();
        let (session, tls) = if sealed {
            let (server, client) = pair(&rustls::version::TLS13);
            (Session::new(server), Some(client))
        } else {
            (None, None)
        };
        self.shard.outside().clients.push(Client {
            ticket: None,
            received: Vec::new(),
            room: usize::MAX,
            broken: false,
            backlog: 0,
            wants_room: false,
            shut: false,
            unread: false,
            sent: VecDeque::new(),
            tls,
        });
        let socket = End { client, session };
        self.shard.arrive(Arrival {
            socket,
            stream,
            first: Bytes::from_static(b"head|"),
            chunked: self.chunked,
            hold: (),
        });
        client
    }

    fn arrive_in_chunks(&mut self) -> usize {
        self.chunked = true;
        self.arrive()
    }

    fn arrive(&mut self) -> usize {
        let head = self.published;
        self.arrive_at(&TopicSet::all(), head)
    }

    fn publish(&mut self) {
        self.publish_to("t");
    }

    fn publish_to(&mut self, topic: &str) {
        self.published += 1;
        let entry = Entry {
            sequence: self.published,
            time: 0,
            topic: topic.into(),
            frame: format!("<{}>", self.published).into(),
            kind: Kind::Event,
        };
        self.channel.change(|fanout, woken| fanout.append(Arc::new(entry), woken));
    }

    fn hear(&mut self) {
        let rung: Vec<_> = self.rung.try_iter().collect();
        rung.into_iter().for_each(|roll| self.shard.ring(roll));
    }

    /// One slice. Says whether there is more to do.
    fn slice(&mut self) -> bool {
        self.hear();
        self.shard.turn(self.now)
    }

    fn settle(&mut self) {
        let mut slices = 0;
        while self.slice() {
            slices += 1;
            assert!(slices < 100_000, "it goes on for ever");
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.at + time;
        while self.now.at < end {
            self.now.at += LOOK / LOOKS;
            self.shard.look(self.now);
            self.settle();
        }
    }

    fn client(&mut self, socket: usize) -> &mut Client {
        &mut self.shard.outside().clients[socket]
    }

    /// What it has received; over TLS, whatever has come whole.
    fn received(&mut self, socket: usize) -> String {
        let client = self.client(socket);
        let received = match &client.tls {
            None => client.received.clone(),
            Some(_) => return self.unsealed(socket).0,
        };
        String::from_utf8(received).unwrap()
    }

    /// What a client on TLS has received, once, and whether the gateway has taken leave.
    fn unsealed(&mut self, socket: usize) -> (String, bool) {
        let client = self.client(socket);
        let wire = std::mem::take(&mut client.received);
        let (plain, ended) = plaintext(client.tls.as_mut().unwrap(), &wire);
        (String::from_utf8(plain).unwrap(), ended)
    }

    /// Somebody who sees all from now on, over TLS.
    fn arrive_sealed(&mut self) -> usize {
        let head = self.published;
        self.arrive_over(true, &TopicSet::all(), head)
    }

    /// Sends what the client's session wants to.
    fn send(&mut self, socket: usize) {
        let client = self.client(socket);
        let tls = client.tls.as_mut().unwrap();
        while tls.wants_write() {
            tls.write_tls(&mut client.sent).unwrap();
        }
        let ticket = client.ticket.unwrap();
        self.shard.readable(ticket);
    }

    fn give_room(&mut self, socket: usize, room: usize) {
        let client = self.client(socket);
        client.room = room;
        let (wants, ticket) = (client.wants_room, client.ticket.unwrap());
        if wants {
            self.shard.writable(ticket);
        }
    }

    fn hang_up(&mut self, socket: usize) {
        let ticket = self.client(socket).ticket.unwrap();
        self.shard.hung_up(ticket);
    }

    fn subscribers(&self) -> String {
        let text = self.metrics.text().unwrap();
        text.lines().find(|line| line.starts_with("tidings_subscribers{")).unwrap().to_owned()
    }
}

fn events(numbers: std::ops::RangeInclusive<u64>) -> String {
    numbers.map(|n| format!("<{n}>")).collect()
}

#[test]
fn everybody_is_sent_everything_in_one_write_each() {
    let mut world = World::new();
    let clients: Vec<_> = (0..1_000).map(|_| world.arrive()).collect();
    world.settle();
    world.shard.outside().writes = 0;
    world.publish();
    world.publish();
    world.settle();
    assert_eq!(world.shard.outside().writes, 1_000);
    assert!(clients.into_iter().all(|client| world.received(client) == "head|<1><2>"));
}

#[test]
fn a_sweep_that_is_overtaken_by_news_goes_on_where_it_was() {
    let mut world = World::new();
    let clients: Vec<_> = (0..1_000).map(|_| world.arrive()).collect();
    world.settle();
    world.shard.outside().writes = 0;
    world.publish();
    assert!(world.slice());
    world.publish();
    world.settle();
    // Those of the first slice are written to twice, everybody else once.
    assert_eq!(world.shard.outside().writes, 1_000 + SLICE);
    assert!(clients.into_iter().all(|client| world.received(client) == "head|<1><2>"));
}

#[test]
fn a_filter_hides_what_it_hides_and_nobody_else_is_visited() {
    let mut world = World::new();
    let one = TopicSet::new(["one".parse().unwrap()]).unwrap();
    let (one, all) = (world.arrive_at(&one, 0), world.arrive());
    world.settle();
    world.shard.outside().writes = 0;
    world.publish_to("two");
    world.publish_to("one");
    world.settle();
    assert_eq!((world.received(one), world.received(all)), ("head|<2>".into(), "head|<1><2>".into()));
    assert_eq!(world.shard.outside().writes, 2);
}

#[test]
fn a_socket_that_takes_a_part_gets_the_rest_before_anything_else() {
    let mut world = World::new();
    let client = world.arrive();
    world.settle();
    world.client(client).room = 2;
    world.publish();
    world.settle();
    world.publish();
    world.settle();
    assert_eq!(world.received(client), "head|<1");
    for room in [1, 0, 3, usize::MAX] {
        world.give_room(client, room);
        world.settle();
    }
    assert_eq!((world.received(client), world.client(client).wants_room), ("head|<1><2>".into(), false));
}

#[test]
fn a_reader_that_takes_nothing_for_too_long_ends_as_slow_and_one_that_takes_a_little_does_not() {
    let mut world = World::new();
    let slow = |world: &World| {
        let text = world.metrics.text().unwrap();
        let line =
            text.lines().find(|line| line.starts_with("tidings_streams_closed_total{") && line.contains("\"slow\""));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (stopped, trickling, quick) = (world.arrive(), world.arrive(), world.arrive());
    world.settle();
    for client in [stopped, trickling] {
        let client = world.client(client);
        (client.room, client.backlog) = (0, 100_000);
    }
    world.publish();
    world.settle();
    world.pass(WRITE_TIMEOUT - LOOK * 2);
    assert_eq!((world.shard.guests(), slow(&world)), (3, 0));
    world.client(trickling).backlog -= 1;
    world.pass(LOOK * 4);
    assert_eq!((world.shard.guests(), slow(&world)), (2, 1));
    for _ in 0..4 {
        world.pass(WRITE_TIMEOUT / 2);
        world.client(trickling).backlog -= 1;
    }
    assert_eq!(world.shard.guests(), 2, "it reads, if slowly");
    // Once it has room, all counts again.
    world.give_room(trickling, usize::MAX);
    world.settle();
    assert!(world.received(trickling).starts_with("head|<1>"), "{}", world.received(trickling));
    world.pass(WRITE_TIMEOUT * 2);
    assert_eq!((world.shard.guests(), slow(&world)), (2, 1), "nothing waits for them");
    world.client(trickling).room = 0;
    world.publish();
    world.settle();
    world.pass(WRITE_TIMEOUT + LOOK * 4);
    assert_eq!((world.shard.guests(), slow(&world)), (1, 2));
    assert!(
        world.received(quick).contains("<1>") && world.received(quick).contains("<2>"),
        "{}",
        world.received(quick)
    );
}

#[test]
fn a_socket_that_takes_nothing_of_the_head_gets_it_first() {
    let mut world = World::new();
    let client = world.arrive();
    world.settle();
    let late = world.arrive();
    world.client(late).room = 0;
    world.client(late).received.clear();
    world.publish();
    world.settle();
    world.give_room(late, usize::MAX);
    world.settle();
    assert_eq!((world.received(client), world.received(late)), ("head|<1>".into(), "<1>".into()));
}

#[test]
fn a_stopped_reader_costs_one_batch_and_catches_up_from_the_stream() {
    let mut world = World::new();
    let (stopped, quick) = (world.arrive(), world.arrive());
    world.settle();
    world.client(stopped).room = 0;
    (0..300).for_each(|_| {
        world.publish();
        world.settle();
    });
    assert_eq!(world.received(quick), format!("head|{}", events(1..=300)));
    assert_eq!(world.received(stopped), "head|");
    world.give_room(stopped, usize::MAX);
    world.settle();
    // The first was on its way when the socket stopped; the Log holds the last hundred.
    assert_eq!(world.received(stopped), "head|<1>");
    let (ticket, behind) = world.shard.outside().reads.pop().unwrap();
    assert_eq!((behind.after, behind.floor), (1, 200));
    let entry = |sequence| {
        let frame = format!("<{sequence}>").into();
        Arc::new(Entry { sequence, time: 0, topic: "t".into(), frame, kind: Kind::Event })
    };
    let chunk = Chunk { generation: 0, from: 1, through: 200, first: 1, entries: (2..=200).map(entry).collect() };
    world.shard.take(ticket, Some(Arc::new(chunk)));
    world.settle();
    assert_eq!(world.received(stopped), format!("head|{}", events(1..=300)));
}

#[test]
fn what_was_read_for_somebody_who_has_left_reaches_nobody() {
    let mut world = World::new();
    (0..200).for_each(|_| world.publish());
    let behind = world.arrive_at(&TopicSet::all(), 0);
    world.settle();
    let (ticket, _) = world.shard.outside().reads.pop().unwrap();
    world.hang_up(behind);
    let next = world.arrive();
    let chunk = Chunk { generation: 0, from: 0, through: 100, first: 50, entries: Vec::new() };
    world.shard.take(ticket, Some(Arc::new(chunk)));
    world.shard.writable(ticket);
    world.shard.hung_up(ticket);
    world.settle();
    assert_eq!((world.received(next), world.shard.guests()), ("head|".into(), 1));
}

#[test]
fn hang_ups_and_failed_writes_in_mid_sweep_take_nobody_s_turn() {
    let mut world = World::new();
    let clients: Vec<_> = (0..1_000).map(|_| world.arrive()).collect();
    world.settle();
    for client in [300, 301, 999] {
        world.client(client).broken = true;
    }
    world.publish();
    assert!(world.slice());
    // The last ones are moved to the places of those who leave, which the sweep has passed.
    for client in [0, 10, 20, 255, 500, 998] {
        world.hang_up(client);
    }
    world.settle();
    let gone = [0, 10, 20, 255, 500, 998, 300, 301, 999];
    for client in clients.into_iter().filter(|client| !gone.contains(client)) {
        assert_eq!(world.received(client), "head|<1>", "client {client}");
    }
    assert_eq!(world.subscribers(), "tidings_subscribers{channel=\"a/b\"} 991");
}

#[test]
fn a_heartbeat_comes_before_the_silence_is_too_long() {
    let mut world = World::new();
    let client = world.arrive();
    world.settle();
    world.pass(Duration::from_secs(14));
    assert_eq!(world.received(client), "head|");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.received(client), "head|:\n");
    world.pass(Duration::from_secs(10));
    world.publish();
    world.settle();
    world.pass(Duration::from_secs(14));
    assert_eq!(world.received(client), "head|:\n<1>");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.received(client), "head|:\n<1>:\n");
}

#[test]
fn in_chunks_every_write_is_whole_chunks_and_only_a_final_end_has_the_last() {
    for (reason, last) in [(EndReason::ChannelDeleted, true), (EndReason::BrokerUnavailable, false)] {
        let mut world = World::new();
        let (client, slow) = (world.arrive_in_chunks(), world.arrive_in_chunks());
        world.settle();
        world.publish();
        world.settle();
        world.publish();
        world.publish();
        world.settle();
        let begun = "head|3\r\n<1>\r\n6\r\n<2><3>\r\n";
        assert_eq!(world.received(client), begun);
        world.pass(world.channel.heartbeat());
        let begun = format!("{begun}2\r\n:\n\r\n");
        assert_eq!(world.received(client), begun);
        world.client(slow).room = 0;
        world.channel.end(reason);
        world.settle();
        assert!(!world.client(slow).shut);
        while !world.client(slow).shut {
            world.give_room(slow, 1);
            world.settle();
        }
        for client in [client, slow] {
            let received = world.received(client);
            let end = received.strip_prefix(&begun).unwrap();
            assert_eq!(end.ends_with("\n\n\r\n0\r\n\r\n"), last, "{end}");
            assert!(last || end.ends_with("id: a-3-0\n\n\r\n"), "{end}");
            assert!(world.client(client).shut);
        }
    }
}

#[test]
fn an_end_is_told_then_the_client_closes() {
    let mut world = World::new();
    let (client, slow) = (world.arrive(), world.arrive());
    world.settle();
    world.client(slow).room = 10;
    world.channel.end(EndReason::ChannelDeleted);
    world.settle();
    let end = "event: tidings.end\ndata: {\"reason\":\"channel-deleted\"}\nid: a-0\n\n";
    assert!(world.received(client).ends_with(end) && world.client(client).shut);
    assert!(!world.client(slow).shut, "its last event has not left");
    assert_eq!(world.subscribers(), "tidings_subscribers{channel=\"a/b\"} 1");
    world.give_room(slow, usize::MAX);
    world.settle();
    assert!(world.received(slow).ends_with(end) && world.client(slow).shut);
    assert_eq!((world.channel.subscribers(), world.shard.guests()), (0, 2));
    world.client(client).unread = true;
    let ticket = world.client(client).ticket.unwrap();
    world.shard.readable(ticket);
    assert!(!world.client(client).unread, "what it sent is read, or our close would be a reset");
    world.hang_up(client);
    assert_eq!(world.shard.guests(), 1);
    world.pass(LINGER + LOOK);
    assert_eq!(world.shard.guests(), 0, "it is not waited for for ever");
}

#[test]
fn a_gateway_that_leaves_ends_its_streams_in_their_turn() {
    let mut world = World::new();
    let client = world.arrive();
    world.settle();
    world.farewell.begin(world.now.at, Duration::from_secs(10));
    world.channel.wake_all();
    world.pass(Duration::from_millis(4_900));
    assert!(!world.client(client).shut);
    world.pass(Duration::from_millis(600));
    assert!(world.client(client).shut && world.received(client).contains("\"reason\":\"shutdown\""));
}

#[test]
fn who_catches_up_does_not_keep_the_others_waiting() {
    let mut world = World::new();
    let live: Vec<_> = (0..100).map(|_| world.arrive()).collect();
    world.settle();
    (0..50).for_each(|_| world.publish());
    world.settle();
    let topic = TopicSet::new(["t".parse().unwrap()]).unwrap();
    let behind: Vec<_> = (0..2_000).map(|_| world.arrive_at(&topic, 0)).collect();
    world.publish();
    world.slice();
    assert!(live.iter().all(|client| world.received(*client) == format!("head|{}", events(1..=51))));
    world.settle();
    assert!(behind.iter().all(|client| world.received(*client) == format!("head|{}", events(1..=51))));
}

#[test]
fn a_crowd_that_has_left_leaves_nothing_behind() {
    let mut world = World::new();
    let clients: Vec<_> = (0..5_000).map(|_| world.arrive()).collect();
    world.settle();
    clients.into_iter().for_each(|client| world.hang_up(client));
    assert!(world.shard.is_bare());
    let next = world.arrive();
    world.publish();
    world.settle();
    assert_eq!(world.received(next), "head|<1>");
}

#[test]
fn over_tls_a_blocked_socket_gets_every_byte_in_order() {
    let mut world = World::new();
    let client = world.arrive_sealed();
    world.settle();
    assert_eq!(world.received(client), "head|");
    world.client(client).room = 3;
    world.publish();
    world.settle();
    assert_eq!((world.received(client), world.client(client).wants_room), (String::new(), true), "a record in part");
    world.publish();
    world.settle();
    let mut received = String::new();
    for room in [1, 0, 7, 20, usize::MAX] {
        world.give_room(client, room);
        world.settle();
        received += &world.received(client);
    }
    assert_eq!((received.as_str(), world.client(client).wants_room), ("<1><2>", false));
}

#[test]
fn over_tls_new_keys_are_answered_between_events() {
    let mut world = World::new();
    let client = world.arrive_sealed();
    world.settle();
    for n in 1..=3 {
        world.client(client).tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
        world.send(client);
        world.publish();
        world.settle();
        let head = if n == 1 { "head|" } else { "" };
        assert_eq!(world.received(client), format!("{head}<{n}>"));
    }
}

#[test]
fn over_tls_whoever_takes_leave_has_left_and_is_answered() {
    let mut world = World::new();
    let (client, stays) = (world.arrive_sealed(), world.arrive_sealed());
    world.settle();
    world.client(client).tls.as_mut().unwrap().send_close_notify();
    world.send(client);
    assert_eq!((world.unsealed(client), world.shard.guests()), (("head|".to_owned(), true), 1));
    world.publish();
    world.settle();
    assert_eq!(world.received(stays), "head|<1>");
}

#[test]
fn over_tls_what_is_no_record_ends_the_connection_with_an_alert() {
    let mut world = World::new();
    let client = world.arrive_sealed();
    world.settle();
    world.received(client);
    world.client(client).sent.extend(b"GET / HTTP/1.1\r\n\r\n");
    world.send(client);
    assert_eq!(world.shard.guests(), 0);
    assert!(!world.client(client).received.is_empty(), "it is told");
}

#[test]
fn over_tls_a_client_that_talks_without_end_is_left_alone() {
    let mut world = World::new();
    let client = world.arrive_sealed();
    world.settle();
    assert_eq!(world.received(client), "head|");
    let mut sent = 0;
    for _ in 0..100 {
        let tls = world.client(client).tls.as_mut().unwrap();
        sent += tls.writer().write(&[b'x'; 4096]).unwrap();
        world.send(client);
    }
    let left = world.client(client).sent.len();
    assert!(sent > 400_000 && left > sent - 150_000, "{left} of {sent} are left in the kernel");
    world.publish();
    world.settle();
    assert_eq!(world.received(client), "<1>");
}

#[test]
fn over_tls_the_end_is_told_then_leave_is_taken() {
    let mut world = World::new();
    let (client, slow) = (world.arrive_sealed(), world.arrive_sealed());
    world.settle();
    for client in [client, slow] {
        assert_eq!(world.received(client), "head|");
    }
    world.client(slow).room = 80;
    world.channel.end(EndReason::ChannelDeleted);
    world.settle();
    let (last, left) = world.unsealed(client);
    assert!(last.ends_with("event: tidings.end\ndata: {\"reason\":\"channel-deleted\"}\nid: a-0\n\n") && left);
    assert!(world.client(client).shut && !world.client(slow).shut);
    // Byte by byte, through the last words and the leave.
    let (mut told, mut leave) = (String::new(), 0);
    while !world.client(slow).shut {
        world.give_room(slow, 1);
        world.settle();
        leave += usize::from(told.ends_with("channel-deleted\"}\nid: a-0\n\n"));
        let (more, left) = world.unsealed(slow);
        told += &more;
        assert_eq!(left, world.client(slow).shut);
    }
    assert_eq!(leave, 24, "an alert in a record of TLS 1.3");
    assert_eq!(world.shard.guests(), 2);
    world.pass(LINGER + LOOK);
    assert_eq!(world.shard.guests(), 0, "it is not waited for for ever");
}

#[derive(Clone, Debug)]
enum Event {
    Arrive(u8, bool),
    Publish(u8),
    Slice,
    HangUp(prop::sample::Index),
    Block(prop::sample::Index, u8),
    Release(prop::sample::Index),
    Break(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..3u8, prop::bool::weighted(0.3)).prop_map(|(topic, sealed)| Event::Arrive(topic, sealed)),
        3 => (0..3u8).prop_map(Event::Publish),
        4 => Just(Event::Slice),
        2 => any::<prop::sample::Index>().prop_map(Event::HangUp),
        1 => (any::<prop::sample::Index>(), 0..60u8).prop_map(|(who, room)| Event::Block(who, room)),
        2 => any::<prop::sample::Index>().prop_map(Event::Release),
        1 => any::<prop::sample::Index>().prop_map(Event::Break),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_whoever_stays_receives_exactly_what_is_theirs(
        crowd in 0..700usize,
        happens in prop::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new();
        let topics = ["a", "b", "c"];
        // Who, of which topic (the third sees all), from where on, and whether it is still here.
        let mut known: Vec<(usize, usize, u64, bool)> = Vec::new();
        let set = |topic: usize| match topic {
            2 => TopicSet::all(),
            topic => TopicSet::new([topics[topic].parse().unwrap()]).unwrap(),
        };
        for _ in 0..crowd {
            known.push((world.arrive_at(&set(2), 0), 2, 0, true));
        }
        let mut history: Vec<usize> = Vec::new();
        for happened in happens {
            match happened {
                Event::Arrive(topic, sealed) => {
                    let after = world.published;
                    known.push((world.arrive_over(sealed, &set(topic.into()), after), topic.into(), after, true));
                }
                // The Log holds a hundred: nobody falls behind it here.
                Event::Publish(topic) if history.len() < 90 => {
                    history.push(topic.into());
                    world.publish_to(topics[usize::from(topic)]);
                }
                Event::Slice => drop(world.slice()),
                Event::HangUp(who) if !known.is_empty() => {
                    let who = who.get(&known).0;
                    world.hang_up(who);
                    known[who].3 = false;
                }
                Event::Block(who, room) if !known.is_empty() => {
                    let who = who.get(&known).0;
                    world.client(who).room = room.into();
                }
                Event::Release(who) if !known.is_empty() => {
                    let who = who.get(&known).0;
                    if known[who].3 {
                        world.give_room(who, usize::MAX);
                    }
                }
                Event::Break(who) if !known.is_empty() => {
                    let who = who.get(&known).0;
                    world.client(who).broken = true;
                }
                _ => {}
            }
        }
        for (who, _, _, here) in known.clone() {
            if here && !world.client(who).broken {
                world.give_room(who, usize::MAX);
            }
        }
        world.settle();
        for (who, topic, after, here) in known {
            if here && !world.client(who).broken {
                let expected: String = (1u64..)
                    .zip(&history)
                    .filter(|(n, of)| *n > after && (topic == 2 || **of == topic))
                    .map(|(n, _)| format!("<{n}>"))
                    .collect();
                prop_assert_eq!(world.received(who), format!("head|{expected}"), "client {}", who);
            }
        }
    }
}
