//! What a publication allocates on its way to all subscribers: as much for a thousand as for ten. And what is kept for a topic
//! filter beside the Log. Counted, not timed.

#![expect(clippy::unwrap_used, reason = "tests may")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::sync::{Arc, mpsc};
use std::task::{Wake, Waker};
use std::time::Instant;

use bytes::Bytes;
use tidings_crds::position::Epoch;
use tidings_crds::route::Route;
use tidings_crds::topic::TopicSet;
use tidings_gateway::channel::drain_schedule::Farewell;
use tidings_gateway::channel::event_stream::Stream;
use tidings_gateway::channel::hub::HubSettings;
use tidings_gateway::channel::live::{Behind, LiveChannel, Parts, Share};
use tidings_gateway::channel::subscriber::{Beginning, Subscriber};
use tidings_gateway::delivery::io::{Arrival, Heard, Now, Outside, RollId, Ticket, Wrote};
use tidings_gateway::delivery::shard::Shard;
use tidings_gateway::log::event_log::{Entry, Kind, LogLimits, Mark};
use tidings_gateway::log::fanout::Fanout;
use tidings_gateway::metrics::registry::Metrics;
use tidings_gateway::nats::decode::Wire;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static KEPT: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks for and gives back.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: all is passed on to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        KEPT.set(KEPT.get() - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count(taken: usize, given: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    KEPT.set(KEPT.get() + taken as i64 - given as i64);
}

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Sockets that take everything, and only count it.
struct Sink {
    bells: mpsc::Sender<RollId>,
    writes: usize,
    bytes: usize,
}

struct Bell(mpsc::Sender<RollId>, RollId);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.send(self.1).unwrap();
    }
}

impl Outside for Sink {
    type Socket = ();
    type Reading = ();
    type Hold = ();

    fn write(&mut self, (): &mut (), bytes: &[u8]) -> io::Result<Wrote> {
        self.writes += 1;
        self.bytes += bytes.len();
        Ok(Wrote { taken: bytes.len(), full: false })
    }

    fn backlog(&self, _: &Self::Socket) -> u32 {
        0
    }

    fn enter(&mut self, (): &(), _: Ticket) -> io::Result<()> {
        Ok(())
    }

    fn watch(&mut self, (): &(), _: Ticket, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn hear(&mut self, (): &mut ()) -> Heard {
        Heard::Nothing
    }

    fn shut(&mut self, (): &mut (), _: Ticket) -> io::Result<bool> {
        Ok(true)
    }

    fn drain(&mut self, (): &mut (), _: Ticket) -> bool {
        true
    }

    fn read(&mut self, _: &Arc<LiveChannel>, _: Ticket, _: Behind) {
        unreachable!("nobody falls behind here")
    }

    fn bell(&mut self, roll: RollId) -> Waker {
        Arc::new(Bell(self.bells.clone(), roll)).into()
    }
}

/// One shard, one channel, and its subscribers.
struct World {
    shard: Shard<Sink>,
    channel: Arc<LiveChannel>,
    rung: mpsc::Receiver<RollId>,
    now: Now,
    published: u64,
}

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
    fn of(subscribers: usize) -> Self {
        let limits = LogLimits { entries: 100, bytes: 1 << 20 };
        Self::showing(limits, (0..subscribers).map(|_| TopicSet::all()))
    }

    /// With a subscriber for each of these filters.
    fn showing(limits: LogLimits, filters: impl Iterator<Item = TopicSet>) -> Self {
        let metrics = Metrics::new(1);
        let (bells, rung) = mpsc::channel();
        let route = Arc::new(route());
        let channel = Arc::new(LiveChannel::new(Parts {
            id: 1,
            wire: Arc::new(Wire::new("S", route.topics.clone())),
            route,
            reader: None,
            metrics: metrics.channel("a/b"),
            limits,
            backfill: Arc::default(),
            farewell: Arc::<Farewell>::default(),
            stop: tokio_util::sync::CancellationToken::new(),
        }));
        let start = Mark { sequence: 0, stamp: None };
        channel.change(|fanout, _| *fanout = Fanout::new(Epoch::from_nanos(10), start, 1, limits));
        let now = Now { at: Instant::now(), wall: 0 };
        let mut shard = Shard::new(Sink { bells, writes: 0, bytes: 0 });
        for topics in filters {
            let cursor = channel.fanout().join(&topics, start);
            let beginning = Beginning { positions: true, resumes: true, keeps_all: true, told: Some(0) };
            let subscriber = Subscriber::new(cursor, topics, beginning, None);
            let stream = Stream::new(Share::new(channel.clone()), subscriber, None, now.at, 0.5);
            shard.arrive(Arrival { socket: (), stream, first: Bytes::from_static(b"head"), chunked: true, hold: () });
        }
        let mut world = Self { shard, channel, rung, now, published: 0 };
        world.settle();
        world
    }

    fn settle(&mut self) {
        loop {
            while let Ok(roll) = self.rung.try_recv() {
                self.shard.ring(roll);
            }
            if !self.shard.turn(self.now) {
                return;
            }
        }
    }

    /// Delivers that many publications at once. Returns writes, bytes and allocations; those of the entries are not among them.
    fn deliver(&mut self, publications: u64) -> (usize, usize, u64) {
        let entries: Vec<_> = (1..=publications).map(|n| Arc::new(entry(self.published + n))).collect();
        self.published += publications;
        let sink = self.shard.outside();
        (sink.writes, sink.bytes) = (0, 0);
        let before = allocations();
        for entry in entries {
            self.channel.change(|fanout, woken| fanout.append(entry, woken));
        }
        self.settle();
        let allocated = allocations() - before;
        let sink = self.shard.outside();
        (sink.writes, sink.bytes, allocated)
    }
}

fn entry(sequence: u64) -> Entry {
    let frame = format!("<{sequence:098}>").into();
    Entry { sequence, time: 0, topic: "t".into(), frame, kind: Kind::Event }
}

/// What a delivery allocates once every list has the length it needs: the least of many.
fn least(subscribers: usize, publications: u64) -> u64 {
    let mut world = World::of(subscribers);
    let costs = (0..60).map(|_| {
        let (writes, bytes, allocated) = world.deliver(publications);
        let text = publications as usize * 100;
        let chunk = format!("{text:x}\r\n").len() + text + 2;
        assert_eq!((writes, bytes), (subscribers, subscribers * chunk));
        allocated
    });
    costs.min().unwrap()
}

#[test]
fn a_publication_allocates_as_much_for_a_thousand_subscribers_as_for_ten() {
    let (few, many) = (least(10, 1), least(1_000, 1));
    eprintln!("{few} allocations for 10 subscribers, {many} for 1,000");
    assert_eq!(few, many);
    assert!(many <= 10, "{many} allocations for a publication");
}

#[test]
fn publications_that_leave_together_are_put_together_once() {
    let (few, many) = (least(10, 5), least(1_000, 5));
    eprintln!("{few} allocations for 10 subscribers, {many} for 1,000");
    assert_eq!(few, many);
    assert!(many <= 30, "{many} allocations for five publications");
}

/// What is kept once a full Log has passed, for subscribers who are all sent everything, each with a filter of its own or all
/// with the same one.
fn kept(subscribers: usize, own: bool) -> i64 {
    let before = KEPT.get();
    let filters = (0..subscribers).map(|n| {
        let user = format!("user.{}", if own { n } else { 0 });
        TopicSet::new(["t".parse().unwrap(), user.parse().unwrap()]).unwrap()
    });
    let mut world = World::showing(HubSettings::default().log, filters);
    let wanted = HubSettings::default().log.entries as u64 + 500;
    for _ in 0..wanted / 100 {
        world.deliver(100);
    }
    assert_eq!(world.channel.fanout().holds().0, HubSettings::default().log.entries);
    KEPT.get() - before
}

#[test]
fn a_filter_of_its_own_costs_a_kilobyte_beside_the_log() {
    let subscribers = 200;
    let (shared, own) = (kept(subscribers, false), kept(subscribers, true));
    let each = (own - shared) / subscribers as i64;
    eprintln!("{each} bytes for a filter of its own");
    assert!((1..=1024).contains(&each), "{each} bytes for each filter");
}
