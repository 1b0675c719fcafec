//! The load: many subscribers and a few publishers on one thread and one epoll, cheap enough to share a core with NATS.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::epoll::EventFlags;

use crate::client::{Client, Faults, PUBLISHERS};
use crate::latency::Latency;
use crate::payload::Payload;
use crate::poll::Poll;
use crate::server::{Publisher, Server, own_cpu};

/// Subscribers and publishers of one server.
pub(crate) struct Load<'s> {
    server: &'s Server,
    poll: Poll,
    streams: Vec<Option<Stream>>,
    publishers: Vec<Publisher>,
    /// What was published, by publisher and topic.
    numbers: HashMap<(u8, Option<usize>), u64>,
    began: Instant,
    buffer: Vec<u8>,
    seen: Seen,
}

struct Stream {
    socket: TcpStream,
    client: Client,
    began: Instant,
    probe: bool,
}

/// What has come since the last [`Seen::forget`].
struct Seen {
    deliveries: u64,
    opened: usize,
    latency: Latency,
    heads: Latency,
    faults: Faults,
}

/// What is published, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) pace: Pace,
    pub(crate) lasts: Duration,
    pub(crate) publishers: u8,
    /// Publications go to so many topics in turn; none means to everybody.
    pub(crate) topics: Option<usize>,
    /// New connections while events flow, to see how long their heads take.
    pub(crate) probes: bool,
    /// Subscribers leave and others come while events flow.
    pub(crate) turnover: bool,
    /// How many of the streams read; the rest has stopped.
    pub(crate) readers: usize,
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
    /// Writes of the server through write(2) and writev(2); what it sends by other calls is not among them.
    pub(crate) writes: u64,
    pub(crate) latency: Latency,
    pub(crate) heads: Latency,
    pub(crate) faults: Faults,
}

/// Keys from here on are publishers.
const PUBLISHER_KEYS: u64 = 1 << 32;

/// Connections whose head has not come: fewer than any server's queue.
const CONNECTING: usize = 256;

const PAYLOAD: usize = 100;

/// Without anything coming for so long, what is missing is lost.
const SILENCE: Duration = Duration::from_secs(5);

const PROBES_EVERY: Duration = Duration::from_millis(50);
const TURNOVER_EVERY: Duration = Duration::from_millis(10);

// === impl Load ===

impl<'s> Load<'s> {
    pub(crate) fn new(server: &'s Server) -> Result<Self> {
        let mut load = Self {
            server,
            poll: Poll::new()?,
            streams: Vec::new(),
            publishers: Vec::new(),
            numbers: HashMap::new(),
            began: Instant::now(),
            buffer: vec![0; 256 << 10],
            seen: Seen::new(),
        };
        for key in 0..PUBLISHERS as u64 {
            let mut publisher = server.publisher()?;
            publisher.flush()?;
            load.poll.add(&publisher.socket, PUBLISHER_KEYS + key, EventFlags::IN)?;
            load.publishers.push(publisher);
        }
        Ok(load)
    }

    /// Opens streams, each with the topic and position that are its, and waits for their heads. Returns how long it took.
    pub(crate) fn open(
        &mut self,
        streams: usize,
        topic: impl Fn(usize) -> Option<usize>,
        position: Option<&str>,
    ) -> Result<Duration> {
        let (began, before) = (Instant::now(), self.seen.opened);
        for n in 0..streams {
            self.connect(topic(n), position, false)?;
            while n + 1 >= self.seen.opened - before + CONNECTING {
                self.pump(Some(SILENCE))?;
            }
        }
        while self.seen.opened - before < streams {
            if self.pump(Some(SILENCE))? == 0 {
                bail!("{} of {streams} streams were not opened", streams + before - self.seen.opened);
            }
        }
        Ok(began.elapsed())
    }

    /// Closes all streams.
    pub(crate) fn close(&mut self) {
        self.streams.clear();
    }

    /// The first `streams` streams stop reading.
    pub(crate) fn stop(&mut self, streams: usize) -> Result<()> {
        for (key, stream) in self.streams.iter().enumerate().take(streams) {
            if let Some(stream) = stream {
                self.poll.modify(&stream.socket, key as u64, EventFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Keeps the ids that the first stream is sent.
    pub(crate) fn keep_ids(&mut self) {
        if let Some(Some(first)) = self.streams.first_mut() {
            first.client.keeps_ids = true;
        }
    }

    /// The last id that the first stream was sent.
    pub(crate) fn last_id(&self) -> Option<String> {
        self.streams.first()?.as_ref()?.client.last_id.clone()
    }

    /// Waits until so many deliveries have come, or nothing more comes. Returns how many have.
    pub(crate) fn wait_for(&mut self, deliveries: u64) -> Result<u64> {
        while self.seen.deliveries < deliveries && self.pump(Some(SILENCE))? > 0 {}
        Ok(self.seen.deliveries)
    }

    /// Faults, of the streams that are open and of those that were.
    pub(crate) fn faults(&self) -> Faults {
        let mut faults = self.seen.faults;
        self.streams.iter().flatten().for_each(|stream| faults.add(stream.client.faults));
        faults
    }

    /// Publishes as planned, and waits for what comes of it.
    pub(crate) fn run(&mut self, plan: Plan) -> Result<Outcome> {
        self.seen.forget();
        let share = if plan.topics.is_some() { 1 } else { plan.readers as u64 };
        let (used, writes, own, began) = (self.server.used()?, self.server.writes()?, own_cpu()?, Instant::now());
        let (mut published, mut next_probe, mut next_turn) = (0, began, began);
        while began.elapsed() < plan.lasts {
            let now = Instant::now();
            let due = match plan.pace {
                Pace::PerSecond(rate) => began + Duration::from_secs_f64(published as f64 / rate),
                Pace::InFlight(most) if (published + 1) * share <= self.seen.deliveries + most * share => now,
                Pace::InFlight(_) => now + SILENCE,
            };
            if due <= now {
                self.publish(published, due, &plan);
                published += 1;
                continue;
            }
            self.flush()?;
            if plan.probes && next_probe <= now {
                next_probe = now + PROBES_EVERY;
                self.connect(None, None, true)?;
            }
            if plan.turnover && next_turn <= now {
                next_turn = now + TURNOVER_EVERY;
                self.turn_over()?;
            }
            let wait = due.saturating_duration_since(now);
            let ticks = plan.probes || plan.turnover;
            let came = self.pump(Some(if ticks { wait.min(TURNOVER_EVERY) } else { wait }))?;
            if came == 0 && wait >= SILENCE && !ticks {
                bail!("nothing comes any more: {} of {} deliveries", self.seen.deliveries, published * share);
            }
        }
        while !self.publishers.iter().all(Publisher::is_flushed) {
            self.flush()?;
            self.pump(Some(Duration::from_millis(1)))?;
        }
        let expected = if plan.turnover { u64::MAX } else { published * share };
        let patience = if plan.turnover { Duration::from_secs(1) } else { SILENCE };
        let mut last = Instant::now();
        while self.seen.deliveries < expected && self.pump(Some(patience))? > 0 {
            last = Instant::now();
        }
        let took = last.max(began + plan.lasts).duration_since(began);
        let deliveries = self.seen.deliveries;
        let mut faults = self.faults();
        if !plan.turnover {
            faults.lost += expected.saturating_sub(deliveries);
        }
        Ok(Outcome {
            published,
            deliveries,
            took,
            server_cpu: self.server.used()?.cpu - used.cpu,
            own_cpu: own_cpu()? - own,
            writes: self.server.writes()? - writes,
            latency: std::mem::replace(&mut self.seen.latency, Latency::new()),
            heads: std::mem::replace(&mut self.seen.heads, Latency::new()),
            faults,
        })
    }

    fn publish(&mut self, count: u64, due: Instant, plan: &Plan) {
        let publisher = (count % u64::from(plan.publishers)) as u8;
        let topic = plan.topics.map(|topics| count as usize % topics);
        let number = self.numbers.entry((publisher, topic)).or_insert(0);
        *number += 1;
        let at = due.saturating_duration_since(self.began).as_nanos() as u64;
        let data = Payload { publisher, number: *number, at }.write(PAYLOAD);
        if let Some(publisher) = self.publishers.get_mut(usize::from(publisher)) {
            publisher.push(topic, &data);
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.publishers.iter_mut().filter(|publisher| !publisher.is_flushed()).try_for_each(Publisher::flush)
    }

    fn connect(&mut self, topic: Option<usize>, position: Option<&str>, probe: bool) -> Result<()> {
        let began = Instant::now();
        // On loopback the handshake is the kernel's alone.
        let mut socket = TcpStream::connect(self.server.address)?;
        socket.write_all(self.server.request(topic, position).as_bytes())?;
        socket.set_nonblocking(true)?;
        let key = self.streams.iter().skip(self.streams.len().saturating_sub(64)).position(Option::is_none);
        let key = key.map_or(self.streams.len(), |place| self.streams.len().saturating_sub(64) + place);
        self.poll.add(&socket, key as u64, EventFlags::IN | EventFlags::RDHUP)?;
        let stream = Some(Stream { socket, client: Client::default(), began, probe });
        match self.streams.get_mut(key) {
            Some(place) => *place = stream,
            None => self.streams.push(stream),
        }
        Ok(())
    }

    /// One of the last sixty-four streams leaves, and another comes.
    fn turn_over(&mut self) -> Result<()> {
        let back = 1 + self.seen.opened % 64;
        if let Some(place) = self.streams.len().checked_sub(back).and_then(|key| self.streams.get_mut(key))
            && let Some(stream) = place.take()
        {
            self.seen.faults.add(stream.client.faults);
        }
        self.connect(None, None, false)
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
            let Some(place) = self.streams.get_mut(*key as usize) else { continue };
            let Some(stream) = place else { continue };
            let read = match stream.socket.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(read) if read > 0 => self.buffer.get(..read).unwrap_or_default(),
                _ => {
                    self.seen.faults.add(stream.client.faults);
                    self.seen.faults.broken += 1;
                    *place = None;
                    continue;
                }
            };
            let (opened, now) = (stream.client.open, self.began.elapsed().as_nanos() as u64);
            let seen = &mut self.seen;
            let counts = !stream.probe;
            stream.client.feed(read, &mut |payload| {
                if counts {
                    seen.deliveries += 1;
                    seen.latency.observe(now.saturating_sub(payload.at));
                }
            });
            if stream.client.open && !opened {
                self.seen.opened += 1;
                if stream.probe {
                    self.seen.heads.observe(stream.began.elapsed().as_nanos() as u64);
                    *place = None;
                }
            }
        }
        Ok(events.len())
    }
}

// === impl Seen ===

impl Seen {
    fn new() -> Self {
        Self { deliveries: 0, opened: 0, latency: Latency::new(), heads: Latency::new(), faults: Faults::default() }
    }

    fn forget(&mut self) {
        *self = Self { opened: self.opened, faults: self.faults, ..Self::new() };
    }
}
