//! Keeps one channel up to date: the only place that carries out what [`crate::log::ingest`] decides.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::{Message, Statistics};
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};

use crate::channel::live::{Known, LiveChannel};
use crate::channel::subscriber;
use crate::log::chunked::Frame;
use crate::log::event_log::{Entry, Kind, LogLimits, Mark};
use crate::log::fanout::Fanout;
use crate::log::ingest::{Answer, Ask, Ingest, Step};
use crate::log::publication::{Millis, Publication};
use crate::metrics::registry::{Backfill, GapReason};
use crate::nats::connection::Link;
use crate::nats::connections::Broker;
use crate::nats::stream_reader::{ReadError, Reader};

/// Live messages taken at once: they leave in one write per subscriber.
const TAKEN: usize = 256;

/// How long a channel waits at most for the Route that has all subjects of its stream, before it opens without.
const ROUTE: Duration = Duration::from_secs(10);

/// Between attempts to subscribe or to open.
const RETRY: Duration = Duration::from_millis(200);

/// Runs a channel until it is stopped.
pub async fn run(channel: Arc<LiveChannel>, broker: Broker, limits: LogLimits) {
    let stop = channel.stop.clone();
    match channel.reader.clone() {
        Some(reader) => stop.run_until_cancelled(durable(&channel, &broker, &reader, limits)).await,
        None => stop.run_until_cancelled(ephemeral(&channel, &broker)).await,
    };
}

/// What an open question brought: the answer, and whether a malformed header block was among it.
type Found = (Answer, bool);

async fn durable(channel: &Arc<LiveChannel>, broker: &Broker, reader: &Reader, limits: LogLimits) {
    let mut link = broker.live();
    let mut apart = false;
    let mut ingest: Option<Ingest> = None;
    // Stays open over a new subscription: the machine waits for its answer.
    let mut question: Option<BoxFuture<'static, Found>> = None;
    loop {
        let (mut messages, connection) = subscribe(&link, &channel.wire.live_subject()).await;
        let mut health = link.health();
        let mut seen = Seen::now(&connection, reader, health.borrow_and_update().overflows);
        let mut machine = match ingest.take() {
            Some(mut machine) => {
                machine.reconnected(Instant::now());
                machine
            }
            // Asked over the connection of the subscription, the server knows of that before it answers.
            None => open(channel, &reader.over(link.clone()), limits).await,
        };
        let mut steps = Vec::new();
        let mut held = Held(machine.held().is_some());
        loop {
            let now = Instant::now();
            seen.compare(&mut machine, Seen::now(&connection, reader, seen.overflows));
            channel.learn(Known {
                connects: machine.is_certain().then_some(seen.questions),
                confirmed: machine.confirmed(),
            });
            if question.is_none() {
                question = machine.ask(now).map(|ask| put(reader.clone(), ask).boxed());
            }
            let wake = machine.wake_at(now).map(|at| tokio::time::sleep_until(at.into()));
            let mut malformed = false;
            tokio::select! {
                taken = messages.next() => {
                    let Some(taken) = taken else { break };
                    // Before any of them is believed: what comes over a new connection may be of another stream.
                    seen.compare(&mut machine, Seen::now(&connection, reader, seen.overflows));
                    let now = Instant::now();
                    taken.iter().for_each(|message| live(channel, &mut machine, message, now, &mut steps));
                }
                Some((answer, fault)) = OptionFuture::from(question.as_mut()) => {
                    question = None;
                    malformed = fault;
                    // Likewise: another connection may have led to another stream.
                    seen.compare(&mut machine, Seen::now(&connection, reader, seen.overflows));
                    machine.answer(answer, Instant::now(), &mut steps);
                }
                Some(()) = OptionFuture::from(wake) => {}
                () = channel.asked_to_look() => machine.confirm(Instant::now()),
                _ = health.changed() => {
                    let overflows = health.borrow_and_update().overflows;
                    seen.compare(&mut machine, Seen::now(&connection, reader, overflows));
                }
            }
            carry_out(channel, steps.drain(..));
            held.compare(channel, &machine);
            if malformed && !apart {
                // The next one like it shall cost nobody else a reconnect.
                tracing::warn!(
                    channel = channel.key,
                    "Malformed headers broke the connection; the channel gets a connection of its own."
                );
                link = broker.apart(&channel.key, channel.stop.child_token());
                apart = true;
                break;
            }
        }
        ingest = Some(machine);
    }
}

/// What happened to the connections of a channel, as far as the machine was told. A break of any of them can hide that the
/// stream is another one.
#[derive(Clone, Copy)]
struct Seen {
    /// How often the client of the subscription has connected.
    live: u64,
    /// How often the connection for questions was made.
    questions: u64,
    overflows: u64,
}

impl Seen {
    /// The client counts before it reads anything from a new connection, so a message that came over it is never seen with
    /// the old count; the link's health tells of it a little later.
    fn now(connection: &Statistics, reader: &Reader, overflows: u64) -> Self {
        Self { live: connection.connects.load(Relaxed), questions: reader.connects(), overflows }
    }

    /// Tells the machine what is new.
    fn compare(&mut self, machine: &mut Ingest, now: Self) {
        if now.live != self.live {
            machine.reconnected(Instant::now());
        } else if now.questions != self.questions {
            machine.doubted(Instant::now());
        } else if now.overflows != self.overflows {
            machine.interrupted(Instant::now());
        }
        *self = now;
    }
}

/// Whether a message waits for a Route that has its subject: counted and said once.
struct Held(bool);

impl Held {
    fn compare(&mut self, channel: &LiveChannel, machine: &Ingest) {
        let holds = machine.held().is_some();
        if holds && !std::mem::replace(&mut self.0, holds) {
            channel.metrics.hole();
            tracing::warn!(channel = channel.key, "Holding a message until the Route contains its subject.");
        }
        self.0 = holds;
    }
}

/// Subscribes as soon as there is a client that takes it.
async fn subscribe(link: &Link, subject: &str) -> (BoxStream<'static, Vec<Message>>, Arc<Statistics>) {
    loop {
        if let Some(client) = link.client() {
            let connection = client.statistics();
            if let Ok(messages) = client.subscribe(subject.to_owned()).await {
                return (messages.ready_chunks(TAKEN).boxed(), connection);
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Finds out where the stream ends.
async fn open(channel: &LiveChannel, reader: &Reader, limits: LogLimits) -> Ingest {
    let started = Instant::now();
    loop {
        match reader.info().await {
            Ok(info) if info.unrouted && started.elapsed() < ROUTE => {
                tracing::debug!(channel = channel.key, "The stream takes subjects that the Route does not have yet.");
                tokio::time::sleep(RETRY).await;
            }
            Ok(info) => {
                let head = info.end();
                channel.change(|fanout, _| *fanout = Fanout::new(info.epoch, head, info.first, limits));
                channel.opened();
                tracing::debug!(channel = channel.key, sequence = info.last, "Channel opened.");
                let beyond = limits.entries as u64;
                return Ingest::new(info.epoch, head, info.last_time, channel.keeps_all(), beyond, Instant::now());
            }
            Err(error) => {
                tracing::warn!(channel = channel.key, %error, "The channel cannot be opened yet.");
                tokio::time::sleep(RETRY.mul_f64(0.5 + 4.0 * rand::random::<f64>())).await;
            }
        }
    }
}

/// Asks NATS what the machine wants to know.
async fn put(reader: Reader, ask: Ask) -> Found {
    let answer = match ask {
        Ask::Info => reader.info().await.map(|info| (Answer::Info(info), false)),
        Ask::Batch { from, hole } => {
            let kind = if hole { Backfill::Hole } else { Backfill::TailCheck };
            let batch = reader.batch(from, None, kind).await;
            batch.map(|batch| (Answer::Batch { messages: batch.messages, more: batch.more }, false))
        }
        Ask::Later { than } => {
            let later = UNIX_EPOCH + Duration::from_millis(than + 1);
            reader.since(later).await.map(|found| (Answer::Leader(found), false))
        }
        Ask::Leader { from } => reader.leader(from, None).await.map(|single| {
            let malformed = single.as_ref().is_some_and(|single| single.malformed);
            (Answer::Leader(single.map(|single| single.publication)), malformed)
        }),
    };
    answer.unwrap_or_else(|error| match error {
        ReadError::Missing => (Answer::Missing, false),
        ReadError::Broken => (Answer::Broken, false),
        ReadError::Unavailable | ReadError::Replaced | ReadError::Refused(_) | ReadError::TooMuch(_) => {
            (Answer::Unavailable, false)
        }
    })
}

fn live(channel: &LiveChannel, machine: &mut Ingest, message: &Message, now: Instant, steps: &mut Vec<Step>) {
    match channel.wire.live(message) {
        Ok(read) => {
            if let Some(fault) = read.fault {
                channel.metrics.invalid_message(fault);
            }
            let waited = machine.is_waiting();
            machine.live(read.publication, now, steps);
            if machine.is_waiting() && !waited {
                channel.metrics.hole();
            }
        }
        Err(fault) => {
            channel.metrics.invalid_message(fault);
            machine.hint(now);
        }
    }
}

/// Changes Log and feeds as decided. Frames are made before the lock is taken.
fn carry_out(channel: &LiveChannel, steps: impl ExactSizeIterator<Item = Step>) {
    if steps.len() == 0 {
        return;
    }
    let framing = channel.framing();
    let mut epoch = channel.fanout().epoch();
    let mut changes = Vec::with_capacity(steps.len());
    for step in steps {
        changes.push(match step {
            Step::Append(publication) => {
                count(channel, &publication, framing.max_event_bytes);
                let position = tidings_crds::position::Position {
                    epoch,
                    sequence: publication.sequence,
                    stamp: Some(publication.stamp()),
                };
                Change::Append(encode(framing.publication(&publication, Some(position)), publication))
            }
            Step::Skip(to) => Change::Skip(to),
            Step::Expired(to) => {
                tracing::warn!(
                    channel = channel.key,
                    sequence = to.sequence,
                    "Messages were removed before they were read; reporting a gap to all subscribers."
                );
                Change::Append(lost(to))
            }
            Step::Jump(head) => {
                tracing::warn!(
                    channel = channel.key,
                    sequence = head.sequence,
                    "Too far behind the stream; continuing at its end."
                );
                Change::Jump(head)
            }
            Step::Reset { epoch: new, head, first } => {
                tracing::warn!(channel = channel.key, epoch = %new, "The stream was replaced or went back in time.");
                epoch = new;
                Change::Reset { epoch, head, first }
            }
        });
    }
    channel.change(|fanout, woken| {
        for change in changes {
            match change {
                Change::Append(entry) => fanout.append(entry, woken),
                Change::Skip(to) => fanout.skip(to),
                Change::Jump(head) => fanout.jump(head, woken),
                Change::Reset { epoch, head, first } => fanout.reset(epoch, head, first, woken),
            }
        }
    });
}

/// A step with its frame made.
enum Change {
    Append(Arc<Entry>),
    Skip(Mark),
    Jump(Mark),
    Reset { epoch: tidings_crds::position::Epoch, head: Mark, first: u64 },
}

fn count(channel: &LiveChannel, publication: &Publication, max_event_bytes: u64) {
    let bytes = publication.data.len() as u64;
    channel.metrics.publication_in(bytes);
    if bytes > max_event_bytes {
        channel.metrics.oversize();
    }
}

fn encode(frame: Frame, publication: Publication) -> Arc<Entry> {
    let Publication { sequence, time, topic, .. } = publication;
    Arc::new(Entry { sequence, time, topic, frame, kind: Kind::Event })
}

/// Where continuity ends for everybody who stands before it.
fn lost(to: Mark) -> Arc<Entry> {
    Arc::new(Entry { sequence: to.sequence, time: now(), topic: "".into(), frame: Frame::default(), kind: Kind::Lost })
}

/// Core NATS: at most once. What cannot be vouched for is told as a gap.
async fn ephemeral(channel: &Arc<LiveChannel>, broker: &Broker) {
    let link = broker.core();
    let mut sequence = 0;
    let subjects = channel.wire.topics().patterns(&tidings_crds::topic::TopicFilter::All);
    loop {
        let mut messages = SelectAll::new();
        for subject in &subjects {
            messages.push(subscribe(&link, subject.as_str()).await.0);
        }
        let mut health = link.health();
        let mut seen = *health.borrow_and_update();
        // What is published from now on is ours to deliver.
        link.round_trip().await;
        if sequence == 0 {
            channel.opened();
        } else {
            dropped(channel, &mut sequence);
        }
        loop {
            tokio::select! {
                taken = messages.next() => {
                    let Some(taken) = taken else { break };
                    let entries: Vec<_> =
                        taken.iter().filter_map(|message| ephemeral_entry(channel, message, &mut sequence)).collect();
                    channel.change(|fanout, woken| entries.into_iter().for_each(|entry| fanout.append(entry, woken)));
                }
                _ = health.changed() => {
                    let latest = *health.borrow_and_update();
                    if latest.connects > seen.connects.max(1) || latest.overflows != seen.overflows {
                        dropped(channel, &mut sequence);
                    }
                    seen = latest;
                }
            }
        }
        sequence += 1;
    }
}

fn ephemeral_entry(channel: &LiveChannel, message: &Message, sequence: &mut u64) -> Option<Arc<Entry>> {
    let framing = channel.framing();
    let Some(read) = channel.wire.ephemeral(message, *sequence + 1, now()) else {
        channel.metrics.invalid_message(crate::metrics::registry::InvalidMessage::Subject);
        return None;
    };
    *sequence += 1;
    if let Some(fault) = read.fault {
        channel.metrics.invalid_message(fault);
    }
    count(channel, &read.publication, framing.max_event_bytes);
    Some(encode(framing.publication(&read.publication, None), read.publication))
}

fn dropped(channel: &LiveChannel, sequence: &mut u64) {
    *sequence += 1;
    let frame = subscriber::gap(GapReason::Dropped, None, None);
    let entry = Arc::new(Entry { sequence: *sequence, time: now(), topic: "".into(), frame, kind: Kind::Notice });
    (0..channel.subscribers()).for_each(|_| channel.metrics.gap(GapReason::Dropped));
    channel.change(|fanout, woken| fanout.append(entry, woken));
}

/// Milliseconds since 1970.
pub fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
