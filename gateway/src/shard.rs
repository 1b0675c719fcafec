//! A shard: sockets handed over by hyper, and the subscribers behind them. Synchronous; `now` is passed in and io goes
//! through [`Outside`], so that a test can be the kernel.
//!
//! A `Roll` is all of a shard's subscribers in one feed. The channel wakes a roll once, however many it lists, and the
//! shard **sweeps** it: some hundred sockets a slice, then everybody else has a turn, then on from where it stopped. What
//! was published meanwhile only makes the circle longer: whoever is still to come gets all of it in one write. What each is
//! sent is decided in [`crate::stream`].

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::channel::{Behind, LiveChannel};
use crate::chunk::Chunk;
use crate::fanout::Cursor;
use crate::index::FeedId;
use crate::stream::{Events, Stream, Turn, age};

/// What a shard needs of the world.
pub trait Outside {
    /// A connection.
    type Socket;
    /// Something that is read; dropping it gives up.
    type Reading;
    /// What is held as long as the socket is.
    type Hold;

    /// Writes what the socket takes now.
    fn write(&mut self, socket: &mut Self::Socket, bytes: &[u8]) -> io::Result<usize>;
    /// From now on tells of hang-ups.
    fn enter(&mut self, socket: &Self::Socket, ticket: Ticket) -> io::Result<()>;
    /// Goes on telling of hang-ups, and if `writable` of room to write in.
    fn watch(&mut self, socket: &Self::Socket, ticket: Ticket, writable: bool) -> io::Result<()>;
    /// Writes no more, and from now on tells of everything that comes.
    fn shut(&mut self, socket: &mut Self::Socket, ticket: Ticket) -> io::Result<()>;
    /// Reads what has come and throws it away; says whether the peer has closed.
    fn drain(&mut self, socket: &mut Self::Socket, ticket: Ticket) -> bool;
    /// Reads the stream behind the Log; what comes of it goes to [`Shard::take`].
    fn read(&mut self, channel: &Arc<LiveChannel>, ticket: Ticket, behind: Behind) -> Self::Reading;
    /// What wakes this roll of the shard, by [`Shard::ring`].
    fn bell(&mut self, roll: RollId) -> Waker;
}

/// A subscriber that comes.
#[derive(Debug)]
pub struct Arrival<S, H> {
    /// Its connection.
    pub socket: S,
    /// Its stream.
    pub stream: Stream,
    /// The head of the response and the first blocks.
    pub first: Bytes,
    /// What it holds.
    pub hold: H,
}

/// Who came, told apart from whoever had the place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    place: u32,
    generation: u32,
}

/// A roll's place in its shard.
pub type RollId = u32;

/// The time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what waits.
    pub at: Instant,
    /// Milliseconds since 1970, for the age of events.
    pub wall: u64,
}

/// The subscribers of one core.
pub struct Shard<O: Outside> {
    outside: O,
    places: Vec<Option<Guest<O>>>,
    free: Vec<u32>,
    guests: usize,
    /// Grows with every guest, so that nothing meant for one reaches the next in its place.
    generation: u32,
    rolls: Vec<Option<Roll>>,
    free_rolls: Vec<RollId>,
    by_feed: HashMap<(u64, FeedId), RollId>,
    /// Rolls with somebody left to visit.
    sweeps: VecDeque<RollId>,
    /// Who is to be visited alone.
    due: VecDeque<u32>,
    /// Who was sent everything and is waited for to close.
    closing: VecDeque<(Instant, Ticket)>,
    /// Where the walk through all places goes on.
    walk: usize,
    /// Bytes written in this slice.
    written: usize,
    turns: Vec<(u32, Turn)>,
    group: Vec<u32>,
}

struct Guest<O: Outside> {
    generation: u32,
    socket: O::Socket,
    /// Gone once everything was written.
    open: Option<Open<O>>,
    /// What the socket has not taken yet.
    unsent: Bytes,
    _hold: O::Hold,
}

struct Open<O: Outside> {
    stream: Stream,
    reading: Option<O::Reading>,
    roll: RollId,
    /// Its place in the roll.
    line: u32,
}

/// All subscribers of one feed in this shard.
struct Roll {
    channel: Arc<LiveChannel>,
    /// A seat in the feed, which keeps it open and is woken for all.
    seat: Cursor,
    bell: Waker,
    /// Whether the feed will ring.
    armed: bool,
    members: Vec<u32>,
    /// Whom the sweep visits next.
    at: usize,
    /// How many it still has to visit.
    left: usize,
}

/// Sockets that are visited before others have a turn: at some 2.5 µs each well below a millisecond.
const SLICE: usize = 256;

/// Bytes that are written before others have a turn: less than a millisecond for those who catch up.
const SLICE_BYTES: usize = 1 << 20;

/// Sockets whose next step is decided under one lock of their channel.
const GROUP: usize = 64;

/// Within which time everybody is looked at for what is due: heartbeats come up to this much early, never late.
pub const LOOK: Duration = Duration::from_millis(250);

/// The parts in which they are looked at.
pub const LOOKS: u32 = 5;

/// How long a client may take to close after its last event. Bytes of its own that nobody has read would otherwise turn
/// our close into a reset, and a reset destroys what it has not read yet.
const LINGER: Duration = Duration::from_secs(2);

// === impl Shard ===

impl<O: Outside> Shard<O> {
    /// A shard without subscribers.
    pub fn new(outside: O) -> Self {
        Self {
            outside,
            places: Vec::new(),
            free: Vec::new(),
            guests: 0,
            generation: 0,
            rolls: Vec::new(),
            free_rolls: Vec::new(),
            by_feed: HashMap::new(),
            sweeps: VecDeque::new(),
            due: VecDeque::new(),
            closing: VecDeque::new(),
            walk: 0,
            written: 0,
            turns: Vec::new(),
            group: Vec::new(),
        }
    }

    /// The world.
    pub fn outside(&mut self) -> &mut O {
        &mut self.outside
    }

    /// Sockets, those that are about to close included.
    pub fn guests(&self) -> usize {
        self.guests
    }

    /// Takes a subscriber in and writes what comes first.
    pub fn arrive(&mut self, arrival: Arrival<O::Socket, O::Hold>) {
        let Arrival { socket, stream, first, hold } = arrival;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        let roll = self.enrol(&stream, place);
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let ticket = Ticket { place, generation };
        let line =
            self.rolls.get(roll as usize).and_then(Option::as_ref).map_or(0, |roll| roll.members.len() as u32 - 1);
        let watched = self.outside.enter(&socket, ticket);
        let open = Some(Open { stream, reading: None, roll, line });
        let guest = Guest { generation, socket, open, unsent: Bytes::new(), _hold: hold };
        if let Some(slot) = self.places.get_mut(place as usize) {
            *slot = Some(guest);
        }
        self.guests += 1;
        match watched {
            Ok(()) => {
                self.write(place, first);
                self.due.push_back(place);
            }
            Err(_) => self.remove(place),
        }
    }

    /// A roll has news.
    pub fn ring(&mut self, id: RollId) {
        let Some(roll) = self.rolls.get_mut(id as usize).and_then(Option::as_mut) else { return };
        roll.armed = false;
        if roll.left == 0 {
            self.sweeps.push_back(id);
        }
        // An empty one would never be done; there is none, but nothing here has to rely on that.
        roll.left = roll.members.len().max(1);
    }

    /// What was read of the stream behind the Log.
    pub fn take(&mut self, ticket: Ticket, chunk: Arc<Chunk>, now: Now) {
        let Some(open) = at(&mut self.places, ticket).and_then(|guest| guest.open.as_mut()) else { return };
        open.reading = None;
        if let Some(gap) = open.stream.take(chunk, now.at) {
            self.write(ticket.place, gap);
        }
        self.due.push_back(ticket.place);
    }

    /// The peer has closed its end, or the connection broke.
    pub fn hung_up(&mut self, ticket: Ticket) {
        if at(&mut self.places, ticket).is_some() {
            self.remove(ticket.place);
        }
    }

    /// Something has come from a peer that is waited for to close; anybody else's bytes are left alone.
    pub fn readable(&mut self, ticket: Ticket) {
        let Some(guest) = at(&mut self.places, ticket) else { return };
        if guest.open.is_none() && self.outside.drain(&mut guest.socket, ticket) {
            self.remove(ticket.place);
        }
    }

    /// A socket takes bytes again.
    pub fn writable(&mut self, ticket: Ticket) {
        let Some(guest) = at(&mut self.places, ticket).filter(|guest| !guest.unsent.is_empty()) else { return };
        let unsent = std::mem::take(&mut guest.unsent);
        self.write(ticket.place, unsent);
        let Some(guest) = at(&mut self.places, ticket).filter(|guest| guest.unsent.is_empty()) else { return };
        if self.outside.watch(&guest.socket, ticket, false).is_err() {
            return self.remove(ticket.place);
        }
        self.due.push_back(ticket.place);
    }

    /// Looks at the next part of all subscribers for what is due by time.
    pub fn look(&mut self, now: Now) {
        let part = self.places.len().div_ceil(LOOKS as usize);
        let soon = now.at + LOOK;
        for _ in 0..part {
            if self.walk >= self.places.len() {
                self.walk = 0;
            }
            let guest = self.places.get(self.walk).and_then(Option::as_ref);
            if guest.and_then(|guest| guest.open.as_ref()).is_some_and(|open| open.stream.due() <= soon) {
                self.due.push_back(self.walk as u32);
            }
            self.walk += 1;
        }
        while self.closing.front().is_some_and(|(until, _)| *until <= now.at) {
            if let Some((_, ticket)) = self.closing.pop_front() {
                self.hung_up(ticket);
            }
        }
    }

    /// Visits a slice of those who are due. Says whether there are more.
    pub fn turn(&mut self, now: Now) -> bool {
        let mut visited = 0;
        self.written = 0;
        // Those who catch up must not keep the others waiting for what is new.
        let alone = if self.sweeps.is_empty() { SLICE } else { SLICE / 2 };
        while visited < alone
            && self.written < SLICE_BYTES
            && let Some(place) = self.due.pop_front()
        {
            visited += 1;
            let open = self.places.get(place as usize).and_then(|guest| guest.as_ref()?.open.as_ref());
            if let Some(roll) = open.map(|open| open.roll) {
                self.group.push(place);
                self.visit(roll, now);
            }
        }
        while visited < SLICE
            && self.written < SLICE_BYTES
            && let Some(id) = self.sweeps.pop_front()
        {
            let Some(roll) = self.rolls.get_mut(id as usize).and_then(Option::as_mut) else { continue };
            let count = roll.left.min(GROUP).min(SLICE - visited);
            for _ in 0..count {
                if roll.at >= roll.members.len() {
                    roll.at = 0;
                }
                self.group.extend(roll.members.get(roll.at));
                roll.at += 1;
            }
            roll.left -= count;
            // Nobody but this sweep goes on with it, and each roll has its turn.
            if roll.left > 0 {
                self.sweeps.push_back(id);
            }
            visited += count;
            self.visit(id, now);
        }
        !self.due.is_empty() || !self.sweeps.is_empty()
    }

    /// Visits the members in `group`: decides what each is sent under one lock, and sends it without.
    fn visit(&mut self, id: RollId, now: Now) {
        let mut turns = std::mem::take(&mut self.turns);
        let mut group = std::mem::take(&mut self.group);
        let Some(roll) = self.rolls.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let channel = roll.channel.clone();
        {
            let mut fanout = channel.fanout();
            if !roll.armed {
                // Before anybody is asked: what comes from here on rings again.
                fanout.wait(&roll.seat, &roll.bell);
                roll.armed = true;
            }
            for place in group.drain(..) {
                let Some(Some(guest)) = self.places.get_mut(place as usize) else { continue };
                if let (true, Some(open)) = (guest.unsent.is_empty(), &mut guest.open) {
                    match open.stream.turn(&fanout, now.at, now.at + LOOK) {
                        Turn::Wait => {}
                        turn => turns.push((place, turn)),
                    }
                }
            }
        }
        let mut tally = Tally::default();
        for (place, turn) in turns.drain(..) {
            match turn {
                Turn::Events(events) => {
                    tally.count(&channel, &events, now.wall);
                    let Events { batch, more, .. } = events;
                    self.write(place, batch.bytes);
                    if more {
                        self.due.push_back(place);
                    }
                }
                Turn::Control(bytes) => {
                    self.write(place, bytes);
                    self.due.push_back(place);
                }
                Turn::Read(behind) => {
                    let Some(Some(guest)) = self.places.get_mut(place as usize) else { continue };
                    let ticket = Ticket { place, generation: guest.generation };
                    if let Some(open) = &mut guest.open {
                        open.reading = Some(self.outside.read(&channel, ticket, behind));
                    }
                }
                Turn::Over => self.finish(place, now.at),
                Turn::Wait => {}
            }
        }
        tally.tell(&channel);
        self.turns = turns;
        self.group = group;
    }

    /// Writes; what the socket does not take waits until it does.
    fn write(&mut self, place: u32, bytes: Bytes) {
        let Some(Some(guest)) = self.places.get_mut(place as usize) else { return };
        let ticket = Ticket { place, generation: guest.generation };
        if !guest.unsent.is_empty() {
            // A gap behind what was not taken yet: rare enough to be put together.
            guest.unsent = [guest.unsent.as_ref(), bytes.as_ref()].concat().into();
            return;
        }
        let written = match self.outside.write(&mut guest.socket, &bytes) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(_) => return self.remove(place),
        };
        self.written += written;
        if written < bytes.len() {
            guest.unsent = bytes.slice(written..);
            if self.outside.watch(&guest.socket, ticket, true).is_err() {
                self.remove(place);
            }
        }
    }

    /// Everything was written: ends the stream, and waits for the client to close.
    fn finish(&mut self, place: u32, now: Instant) {
        let Some(Some(guest)) = self.places.get_mut(place as usize) else { return };
        let ticket = Ticket { place, generation: guest.generation };
        let shut = self.outside.shut(&mut guest.socket, ticket);
        if let Some(open) = guest.open.take() {
            self.strike(&open);
        }
        match shut {
            Ok(()) => self.closing.push_back((now + LINGER, ticket)),
            Err(_) => self.remove(place),
        }
    }

    fn remove(&mut self, place: u32) {
        let Some(guest) = self.places.get_mut(place as usize).and_then(Option::take) else { return };
        self.free.push(place);
        self.guests -= 1;
        if let Some(open) = &guest.open {
            self.strike(open);
        }
        drop(guest);
        if self.guests == 0 {
            // A crowd that has left leaves no room behind.
            (self.places, self.free) = (Vec::new(), Vec::new());
            (self.due, self.closing) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// Puts a subscriber on the roll of its feed.
    fn enrol(&mut self, stream: &Stream, place: u32) -> RollId {
        let channel = stream.channel();
        let key = (channel.id, stream.subscriber().cursor().feed());
        let id = match self.by_feed.get(&key) {
            Some(id) => *id,
            None => {
                let id = self.free_rolls.pop().unwrap_or_else(|| {
                    self.rolls.push(None);
                    self.rolls.len() as u32 - 1
                });
                let roll = Roll {
                    channel: channel.clone(),
                    seat: channel.fanout().beside(stream.subscriber().cursor()),
                    bell: self.outside.bell(id),
                    armed: false,
                    members: Vec::new(),
                    at: 0,
                    left: 0,
                };
                if let Some(slot) = self.rolls.get_mut(id as usize) {
                    *slot = Some(roll);
                }
                self.by_feed.insert(key, id);
                id
            }
        };
        if let Some(roll) = self.rolls.get_mut(id as usize).and_then(Option::as_mut) {
            roll.members.push(place);
            // It is visited alone; the circle goes past it and must still reach the last one.
            roll.left += usize::from(roll.left > 0);
        }
        id
    }

    /// Takes a subscriber off its roll.
    fn strike(&mut self, open: &Open<O>) {
        let Some(slot) = self.rolls.get_mut(open.roll as usize) else { return };
        let Some(roll) = slot else { return };
        let line = open.line as usize;
        if line < roll.members.len() {
            roll.members.swap_remove(line);
        }
        if let Some(moved) = roll.members.get(line).copied() {
            let guest = self.places.get_mut(moved as usize).and_then(Option::as_mut);
            if let Some(open) = guest.and_then(|guest| guest.open.as_mut()) {
                open.line = line as u32;
            }
            // It may have been moved to where the sweep was already.
            if roll.left > 0 {
                self.due.push_back(moved);
            }
        }
        roll.left = roll.left.min(roll.members.len().max(1));
        if roll.members.is_empty() {
            self.by_feed.remove(&(roll.channel.id, roll.seat.feed()));
            roll.channel.fanout().leave(&roll.seat);
            *slot = None;
            self.free_rolls.push(open.roll);
        } else if roll.members.capacity() > 4 * roll.members.len().max(16) {
            roll.members.shrink_to(2 * roll.members.len());
        }
    }
}

/// Whoever has this ticket, if it is still here.
fn at<O: Outside>(places: &mut [Option<Guest<O>>], ticket: Ticket) -> Option<&mut Guest<O>> {
    places.get_mut(ticket.place as usize)?.as_mut().filter(|guest| guest.generation == ticket.generation)
}

// === impl Ticket ===

impl Ticket {
    /// As the key of an event.
    pub fn key(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    /// From the key of an event.
    pub fn from_key(key: u64) -> Self {
        Self { place: key as u32, generation: (key >> 32) as u32 }
    }
}

/// What a visit has delivered: counted once for all of them.
#[derive(Default)]
struct Tally {
    events: u64,
    bytes: u64,
    /// How many sockets were sent live events of the same age, one after the other.
    age: Option<(Duration, u64)>,
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, channel: &LiveChannel, events: &Events, wall: u64) {
        self.events += events.batch.events;
        self.bytes += events.batch.bytes.len() as u64;
        if !events.live {
            return;
        }
        let age = age(&events.batch, wall);
        match &mut self.age {
            Some((same, sockets)) if *same == age => *sockets += 1,
            other => {
                if let Some((age, sockets)) = other.replace((age, 1)) {
                    channel.metrics.delivery_latency(age, sockets);
                }
            }
        }
    }

    fn tell(self, channel: &LiveChannel) {
        if self.events > 0 {
            channel.metrics.delivered(self.events, self.bytes);
        }
        if let Some((age, sockets)) = self.age {
            channel.metrics.delivery_latency(age, sockets);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::Wake;

    use super::*;
    use crate::channel::{Parts, Share};
    use crate::end::EndReason;
    use crate::farewell::Farewell;
    use crate::log::{Entry, Kind, LogLimits, Mark};
    use crate::metrics::Metrics;
    use crate::subscriber::{Beginning, Subscriber};
    use crate::wire::Wire;
    use proptest::prelude::*;
    use tidings_crds::position::Epoch;
    use tidings_crds::route::Route;
    use tidings_crds::topic::TopicSet;

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
        wants_room: bool,
        shut: bool,
        unread: bool,
    }

    struct Bell(mpsc::Sender<RollId>, RollId);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.send(self.1).unwrap();
        }
    }

    impl Outside for Fake {
        type Socket = usize;
        type Reading = ();
        type Hold = ();

        fn write(&mut self, socket: &mut usize, bytes: &[u8]) -> io::Result<usize> {
            self.writes += 1;
            let client = &mut self.clients[*socket];
            if client.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if client.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = client.room.min(bytes.len());
            client.room -= taken;
            client.received.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn enter(&mut self, socket: &usize, ticket: Ticket) -> io::Result<()> {
            self.clients[*socket].ticket = Some(ticket);
            Ok(())
        }

        fn watch(&mut self, socket: &usize, ticket: Ticket, writable: bool) -> io::Result<()> {
            assert_eq!(self.clients[*socket].ticket, Some(ticket));
            self.clients[*socket].wants_room = writable;
            Ok(())
        }

        fn shut(&mut self, socket: &mut usize, _: Ticket) -> io::Result<()> {
            self.clients[*socket].shut = true;
            Ok(())
        }

        fn drain(&mut self, socket: &mut usize, _: Ticket) -> bool {
            std::mem::take(&mut self.clients[*socket].unread);
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
                *fanout = crate::fanout::Fanout::new(EPOCH, start, 1, LogLimits { entries: 100, bytes: 1 << 20 });
            });
            let fake = Fake { clients: Vec::new(), reads: Vec::new(), bells, writes: 0 };
            let now = Now { at: Instant::now(), wall: 0 };
            Self { shard: Shard::new(fake), channel, farewell, rung, published: 0, now, metrics }
        }

        /// Somebody who has seen everything up to `after`.
        fn arrive_at(&mut self, topics: &TopicSet, after: u64) -> usize {
            let cursor = self.channel.fanout().join(topics, Mark { sequence: after, stamp: None });
            let beginning = Beginning { positions: true, resumes: true, keeps_all: true, told: Some(after) };
            let subscriber = Subscriber::new(cursor, topics.clone(), beginning, None);
            let stream = Stream::new(Share::new(self.channel.clone()), subscriber, None, self.now.at, 0.5);
            let socket = self.shard.outside().clients.len();
            self.shard.outside().clients.push(Client {
                ticket: None,
                received: Vec::new(),
                room: usize::MAX,
                broken: false,
                wants_room: false,
                shut: false,
                unread: false,
            });
            self.shard.arrive(Arrival { socket, stream, first: Bytes::from_static(b"head|"), hold: () });
            socket
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
                frame: Bytes::from(format!("<{}>", self.published)),
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

        fn received(&mut self, socket: usize) -> String {
            String::from_utf8(self.client(socket).received.clone()).unwrap()
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
            let frame = Bytes::from(format!("<{sequence}>"));
            Arc::new(Entry { sequence, time: 0, topic: "t".into(), frame, kind: Kind::Event })
        };
        let chunk = Chunk { from: 1, through: 200, first: 1, entries: (2..=200).map(entry).collect() };
        let now = world.now;
        world.shard.take(ticket, Arc::new(chunk), now);
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
        let chunk = Chunk { from: 0, through: 100, first: 50, entries: Vec::new() };
        let now = world.now;
        world.shard.take(ticket, Arc::new(chunk), now);
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
        assert_eq!(world.received(client), "head|:\n\n");
        world.pass(Duration::from_secs(10));
        world.publish();
        world.settle();
        world.pass(Duration::from_secs(14));
        assert_eq!(world.received(client), "head|:\n\n<1>");
        world.pass(Duration::from_secs(1));
        assert_eq!(world.received(client), "head|:\n\n<1>:\n\n");
    }

    #[test]
    fn an_end_is_told_then_the_client_closes() {
        let mut world = World::new();
        let (client, slow) = (world.arrive(), world.arrive());
        world.settle();
        world.client(slow).room = 10;
        world.channel.end(EndReason::ChannelDeleted);
        world.settle();
        let end = "event: tidings.end\ndata: {\"reason\":\"channel-deleted\"}\n\n";
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
        assert_eq!((world.shard.places.capacity(), world.shard.due.capacity(), world.shard.guests()), (0, 0, 0));
        assert!(world.shard.by_feed.is_empty() && world.shard.rolls.iter().all(Option::is_none));
        let next = world.arrive();
        world.publish();
        world.settle();
        assert_eq!(world.received(next), "head|<1>");
    }

    #[derive(Clone, Debug)]
    enum Event {
        Arrive(u8),
        Publish(u8),
        Slice,
        HangUp(prop::sample::Index),
        Block(prop::sample::Index, u8),
        Release(prop::sample::Index),
        Break(prop::sample::Index),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0..3u8).prop_map(Event::Arrive),
            3 => (0..3u8).prop_map(Event::Publish),
            4 => Just(Event::Slice),
            2 => any::<prop::sample::Index>().prop_map(Event::HangUp),
            1 => (any::<prop::sample::Index>(), 0..6u8).prop_map(|(who, room)| Event::Block(who, room)),
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
                    Event::Arrive(topic) => {
                        let after = world.published;
                        known.push((world.arrive_at(&set(topic.into()), after), topic.into(), after, true));
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
}
