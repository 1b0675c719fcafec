//! The load: many subscribers and a few publishers on one thread and one epoll, cheap enough to share a core with NATS.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use rustix::event::epoll::EventFlags;

use crate::client::{Client, Faults, PUBLISHERS};
use crate::latency::Latency;
use crate::link::Link;
use crate::payload::Payload;
use crate::place::{Ask, Place, Spread};
use crate::poll::Poll;
use crate::probe::Probes;
use crate::process::own_cpu;
use crate::publisher::Publisher;
use crate::server::Server;

/// Subscribers and publishers of one server.
pub(crate) struct Load<'s> {
    server: &'s Server,
    poll: Poll,
    links: Vec<Option<Link>>,
    publishers: Vec<Publisher>,
    /// What was published, by publisher and place.
    numbers: HashMap<(u8, Place), u64>,
    began: Instant,
    /// What the clock said then, in nanoseconds since 1970: times in payloads mean the same to other processes.
    clock: u64,
    buffer: Vec<u8>,
    seen: Seen,
    /// New links hold little, for they will stop reading.
    pub(crate) small: bool,
    /// New streams look at the order of ids.
    pub(crate) checks_order: bool,
}

/// What has come since the last [`Seen::forget`].
struct Seen {
    deliveries: u64,
    opened: usize,
    latency: Latency,
    /// Of links that are gone.
    faults: Faults,
}

/// What is published, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) pace: Pace,
    pub(crate) lasts: Duration,
    /// Ends after so many publications, if that is sooner.
    pub(crate) most: u64,
    pub(crate) publishers: u8,
    pub(crate) spread: Spread,
    /// How many streams receive a publication.
    pub(crate) share: usize,
    /// New connections while events flow, to see how long their heads take.
    pub(crate) probes: bool,
    /// Subscribers leave and others come while events flow.
    pub(crate) turnover: bool,
}

/// When the next publication is due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many a second, come what may.
    PerSecond(f64),
    /// As soon as fewer than this are under way.
    InFlight(u64),
}

/// What a plan cost.
pub(crate) struct Outcome {
    pub(crate) published: u64,
    pub(crate) deliveries: u64,
    pub(crate) took: Duration,
    pub(crate) server_cpu: Duration,
    pub(crate) own_cpu: Duration,
    pub(crate) latency: Latency,
    pub(crate) heads: Option<Latency>,
    pub(crate) faults: Faults,
}

/// Keys from here on are publishers.
const PUBLISHER_KEYS: u64 = 1 << 32;

/// Connections whose head has not come: fewer than any server's queue.
const CONNECTING: usize = 256;

const PAYLOAD: usize = 100;

/// Without anything coming for so long, what is missing is lost.
const SILENCE: Duration = Duration::from_secs(5);

const TURNOVER_EVERY: Duration = Duration::from_millis(10);

// === impl Load ===

impl<'s> Load<'s> {
    pub(crate) fn new(server: &'s Server) -> Result<Self> {
        let mut load = Self {
            server,
            poll: Poll::new()?,
            links: Vec::new(),
            publishers: Vec::new(),
            numbers: HashMap::new(),
            began: Instant::now(),
            clock: SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64,
            buffer: vec![0; 256 << 10],
            seen: Seen::new(),
            small: false,
            checks_order: false,
        };
        for key in 0..PUBLISHERS as u64 {
            let mut publisher = server.publisher()?;
            publisher.flush()?;
            load.poll.add(&publisher.socket, PUBLISHER_KEYS + key, EventFlags::IN)?;
            load.publishers.push(publisher);
        }
        Ok(load)
    }

    /// Opens streams, each with what it asks for, and waits for their heads. Returns how long it took.
    pub(crate) fn open<'a>(&mut self, streams: usize, ask: impl Fn(usize) -> Ask<'a>) -> Result<Duration> {
        let (began, before) = (Instant::now(), self.seen.opened);
        let each = self.server.protocol().streams();
        let mut asked = 0;
        while asked < streams {
            let asks: Vec<Ask<'_>> = (asked..streams.min(asked + each)).map(&ask).collect();
            asked += asks.len();
            self.connect(&asks)?;
            while asked >= self.seen.opened - before + CONNECTING {
                self.wait_for_heads(asked, before)?;
            }
        }
        while self.seen.opened - before < streams {
            self.wait_for_heads(streams, before)?;
        }
        Ok(began.elapsed())
    }

    /// Does not sleep meanwhile: a server slower than the load would wake it with each answer, and pay for that. On a
    /// virtual machine it is as much as half of a connect, and on a client's machine elsewhere nothing.
    fn wait_for_heads(&mut self, asked: usize, before: usize) -> Result<()> {
        let began = Instant::now();
        while self.pump(Some(Duration::ZERO))? == 0 {
            if began.elapsed() > SILENCE {
                let missing = asked + before - self.seen.opened;
                bail!("{missing} of {asked} streams were not opened; the server said: {}", self.server.said());
            }
        }
        Ok(())
    }

    /// Closes all streams.
    pub(crate) fn close(&mut self) {
        self.links.clear();
    }

    /// The first so many links stop reading.
    pub(crate) fn stop(&mut self, links: usize) -> Result<()> {
        self.arm(links, EventFlags::empty())
    }

    /// They go on.
    pub(crate) fn go_on(&mut self, links: usize) -> Result<()> {
        self.arm(links, EventFlags::IN | EventFlags::RDHUP)
    }

    fn arm(&mut self, links: usize, flags: EventFlags) -> Result<()> {
        for (key, link) in self.links.iter().enumerate().take(links) {
            if let Some(link) = link {
                self.poll.modify(&link.socket, key as u64, flags)?;
            }
        }
        Ok(())
    }

    /// The first stream.
    pub(crate) fn first(&mut self) -> Option<&mut Client> {
        self.links.first_mut()?.as_mut()?.client()
    }

    /// Waits until so many deliveries have come since the last plan began, or nothing more comes. Returns how many have.
    pub(crate) fn wait_for(&mut self, deliveries: u64) -> Result<u64> {
        self.settle(deliveries, SILENCE)?;
        Ok(self.seen.deliveries)
    }

    /// Counts deliveries anew.
    pub(crate) fn forget(&mut self) {
        self.seen.forget();
    }

    /// Takes in what comes until there are so many deliveries, or for `patience` no further one. Returns when the last came.
    fn settle(&mut self, deliveries: u64, patience: Duration) -> Result<Instant> {
        let mut last = Instant::now();
        while self.seen.deliveries < deliveries && last.elapsed() < patience {
            let before = self.seen.deliveries;
            self.pump(Some(patience.saturating_sub(last.elapsed())))?;
            if self.seen.deliveries > before {
                last = Instant::now();
            }
        }
        Ok(last)
    }

    /// Faults, of the streams that are open and of those that were.
    pub(crate) fn faults(&self) -> Faults {
        let mut faults = self.seen.faults;
        self.links.iter().flatten().for_each(|link| faults.add(link.faults()));
        faults
    }

    /// Events that open streams lack at their end, if everybody receives everything.
    pub(crate) fn missing(&self) -> u64 {
        let mut last = [0; PUBLISHERS];
        for ((publisher, _), number) in &self.numbers {
            if let Some(last) = last.get_mut(usize::from(*publisher)) {
                *last = *number;
            }
        }
        self.missing_of(last)
    }

    /// The same if another process has published, alone and so many.
    pub(crate) fn missing_after(&self, publications: u64) -> u64 {
        let mut last = [0; PUBLISHERS];
        last[0] = publications;
        self.missing_of(last)
    }

    fn missing_of(&self, last: [u64; PUBLISHERS]) -> u64 {
        self.links.iter().flatten().flat_map(Link::clients).map(|client| client.missing(last)).sum()
    }

    /// How long what has come took.
    pub(crate) fn latency(&self) -> &Latency {
        &self.seen.latency
    }

    /// Publishes as planned, and waits for what comes of it.
    pub(crate) fn run(&mut self, plan: Plan) -> Result<Outcome> {
        self.seen.forget();
        let share = plan.share as u64;
        let probes = plan.probes.then(|| {
            let request = self.server.request(&Ask::from(plan.spread.place(0)));
            Probes::start(self.server.address, request)
        });
        let (used, own, began) = (self.server.used()?, own_cpu()?, Instant::now());
        let (mut published, mut next_turn) = (0, began);
        let mut progress = (0, began);
        while began.elapsed() < plan.lasts && published < plan.most {
            let now = Instant::now();
            let due = match plan.pace {
                Pace::PerSecond(rate) => began + Duration::from_secs_f64(published as f64 / rate),
                Pace::InFlight(most) if (published + 1) * share <= self.seen.deliveries + most * share => now,
                Pace::InFlight(_) => now + SILENCE,
            };
            if due <= now {
                self.publish(published, due, &plan);
                published += 1;
                // Whoever lags behind still reads: the kernel's buffers are no place to wait in.
                if published % 64 == 0 {
                    self.flush()?;
                    self.pump(Some(Duration::ZERO))?;
                }
                continue;
            }
            self.flush()?;
            if plan.turnover && next_turn <= now {
                next_turn = now + TURNOVER_EVERY;
                self.turn_over()?;
            }
            let wait = due.saturating_duration_since(now);
            self.pump(Some(if plan.turnover { wait.min(TURNOVER_EVERY) } else { wait }))?;
            if progress.0 < self.seen.deliveries {
                progress = (self.seen.deliveries, Instant::now());
            } else if matches!(plan.pace, Pace::InFlight(_)) && progress.1.elapsed() > SILENCE {
                bail!("nothing comes any more: {} of {} deliveries", self.seen.deliveries, published * share);
            }
        }
        while !self.publishers.iter().all(Publisher::is_flushed) {
            self.flush()?;
            self.pump(Some(Duration::from_millis(1)))?;
        }
        let expected = if plan.turnover { u64::MAX } else { published * share };
        let patience = if plan.turnover { Duration::from_secs(1) } else { SILENCE };
        let took = self.settle(expected, patience)?.duration_since(began);
        let deliveries = self.seen.deliveries;
        let mut outcome = Outcome {
            published,
            deliveries,
            took,
            server_cpu: self.server.used()?.cpu.saturating_sub(used.cpu),
            own_cpu: own_cpu()?.saturating_sub(own),
            latency: std::mem::replace(&mut self.seen.latency, Latency::new()),
            heads: probes.map(Probes::stop).transpose()?,
            faults: self.faults(),
        };
        outcome.faults.lost += if plan.turnover { self.missing() } else { expected.saturating_sub(deliveries) };
        Ok(outcome)
    }

    fn publish(&mut self, count: u64, due: Instant, plan: &Plan) {
        let publisher = (count % u64::from(plan.publishers)) as u8;
        let place = plan.spread.place(count as usize);
        let number = self.numbers.entry((publisher, place)).or_insert(0);
        *number += 1;
        let at = self.clock + due.saturating_duration_since(self.began).as_nanos() as u64;
        let data = Payload { publisher, number: *number, at }.write(PAYLOAD);
        if let Some(publisher) = self.publishers.get_mut(usize::from(publisher)) {
            publisher.push(place, &data);
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.publishers.iter_mut().filter(|publisher| !publisher.is_flushed()).try_for_each(Publisher::flush)
    }

    fn connect(&mut self, asks: &[Ask<'_>]) -> Result<()> {
        let mut link = Link::open(self.server, asks, self.small)?;
        if let Some(client) = link.client() {
            client.checks_order = self.checks_order;
        }
        let recent = self.links.len().saturating_sub(64);
        let free = self.links.iter().skip(recent).position(Option::is_none);
        let key = free.map_or(self.links.len(), |place| recent + place);
        self.poll.add(&link.socket, key as u64, EventFlags::IN | EventFlags::RDHUP)?;
        match self.links.get_mut(key) {
            Some(place) => *place = Some(link),
            None => self.links.push(Some(link)),
        }
        Ok(())
    }

    /// One of the last sixty-four links leaves, and another comes.
    fn turn_over(&mut self) -> Result<()> {
        let back = 1 + self.seen.opened % 64;
        if let Some(place) = self.links.len().checked_sub(back).and_then(|key| self.links.get_mut(key))
            && let Some(link) = place.take()
        {
            self.seen.faults.add(link.faults());
        }
        self.connect(&[Ask::from(Place::All)])
    }

    /// Waits for something to come and takes it in. Returns how many sockets had something.
    fn pump(&mut self, most: Option<Duration>) -> Result<usize> {
        let events = self.poll.wait(most)?;
        for (key, _) in &events {
            if let Some(publisher) = key.checked_sub(PUBLISHER_KEYS) {
                if let Some(publisher) = self.publishers.get_mut(publisher as usize) {
                    publisher.flush()?;
                }
                continue;
            }
            let Some(place) = self.links.get_mut(*key as usize) else { continue };
            let Some(link) = place else { continue };
            let (opened, now) = (link.opened, self.clock + self.began.elapsed().as_nanos() as u64);
            let seen = &mut self.seen;
            let goes_on = link.read(&mut self.buffer, &mut |payload| {
                seen.deliveries += 1;
                seen.latency.observe(now.saturating_sub(payload.at));
            })?;
            seen.opened += link.opened - opened;
            if !goes_on {
                seen.faults.add(link.faults());
                seen.faults.broken += 1;
                *place = None;
            }
        }
        Ok(events.len())
    }
}

// === impl Seen ===

impl Seen {
    fn new() -> Self {
        Self { deliveries: 0, opened: 0, latency: Latency::new(), faults: Faults::default() }
    }

    fn forget(&mut self) {
        *self = Self { opened: self.opened, faults: self.faults, ..Self::new() };
    }
}
