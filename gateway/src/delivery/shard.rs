//! A shard: sockets handed over by hyper, and the subscribers behind them. Synchronous; `now` is passed in and io goes
//! through [`Outside`], so that a test can be the kernel.
//!
//! All of a shard's subscribers in one feed are on one [roll](super::feed_members). The channel wakes a roll once, however many it
//! lists, and the shard **sweeps** it: some hundred sockets a slice, then everybody else has a turn, then on from where it
//! stopped. A socket that is reached later gets all that was published meanwhile in one write. What each is sent is decided in
//! [`crate::channel::event_stream`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::channel::event_stream::{Events, Stream, Turn};
use crate::delivery::batch_counts::Tally;
use crate::delivery::feed_members::{Line, Rolls};
use crate::delivery::io::{Arrival, Heard, Now, Outside, RollId, Ticket, Wrote};
use crate::log::chunk::Chunk;
use crate::log::chunked::{Frame, LAST_CHUNK};
use crate::log::end_reason::EndReason;

/// The subscribers of one core.
pub struct Shard<O: Outside> {
    outside: O,
    places: Vec<Option<Guest<O>>>,
    free: Vec<u32>,
    guests: usize,
    /// Grows with every guest, so that nothing meant for one reaches the next in its place.
    generation: u32,
    rolls: Rolls,
    /// Who is to be visited alone.
    due: VecDeque<u32>,
    /// Who was sent everything and is waited for to close.
    closing: VecDeque<(Instant, Ticket)>,
    /// Where the walk through all places goes on.
    walk: usize,
    /// How long a socket may take nothing.
    write_timeout: Duration,
    /// When its clock began to run.
    began: Option<Instant>,
    /// Bytes written in this slice.
    written: usize,
    turns: Vec<(u32, Turn)>,
    group: Vec<u32>,
}

struct Guest<O: Outside> {
    generation: u32,
    /// Whether its socket has no room: it tells when there is some.
    full: bool,
    /// Whether its response is sent in chunks.
    chunked: bool,
    socket: O::Socket,
    /// Gone once everything was written.
    open: Option<Open<O>>,
    /// What the socket has not taken yet.
    unsent: Bytes,
    stall: Stall,
    _hold: O::Hold,
}

/// Since when a socket that has no room has taken nothing, as far as was seen.
#[derive(Clone, Copy, Default)]
struct Stall {
    /// Tenths of a second on the shard's clock; 0 while it takes what it is given.
    since: u32,
    /// What the peer had not acknowledged then.
    backlog: u32,
}

struct Open<O: Outside> {
    stream: Stream,
    reading: Option<O::Reading>,
    line: Line,
}

/// Sockets that are visited before others have a turn: at some 2.5 µs each well below a millisecond.
pub(crate) const SLICE: usize = 256;

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
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// How long a socket may take nothing where nothing else is set. Less than the kernel's own patience with a peer that opens no
/// window (`--peer-timeout`), so that the reason is known.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(45);

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
            rolls: Rolls::default(),
            due: VecDeque::new(),
            closing: VecDeque::new(),
            walk: 0,
            write_timeout: WRITE_TIMEOUT,
            began: None,
            written: 0,
            turns: Vec::new(),
            group: Vec::new(),
        }
    }

    /// The same, but readers that take nothing for this long end.
    pub fn with_write_timeout(self, write_timeout: Duration) -> Self {
        Self { write_timeout, ..self }
    }

    /// The world.
    pub fn outside(&mut self) -> &mut O {
        &mut self.outside
    }

    /// Sockets, those that are about to close included.
    pub fn guests(&self) -> usize {
        self.guests
    }

    /// Whether nothing is left of anybody who was here.
    #[cfg(test)]
    pub(crate) fn is_bare(&self) -> bool {
        (self.places.capacity(), self.due.capacity(), self.guests) == (0, 0, 0) && self.rolls.is_empty()
    }

    /// Takes a subscriber in and writes what comes first.
    pub fn arrive(&mut self, arrival: Arrival<O::Socket, O::Hold>) {
        let Arrival { socket, stream, first, chunked, hold } = arrival;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        let outside = &mut self.outside;
        let line = self.rolls.enrol(&stream, place, |roll| outside.bell(roll));
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let watched = self.outside.enter(&socket, Ticket { place, generation });
        let open = Some(Open { stream, reading: None, line });
        let (unsent, stall) = (Bytes::new(), Stall::default());
        let guest = Guest { generation, full: false, chunked, socket, open, unsent, stall, _hold: hold };
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
        self.rolls.ring(id);
    }

    /// What was read of the stream behind the Log.
    pub fn take(&mut self, ticket: Ticket, chunk: Option<Arc<Chunk>>) {
        let Some(open) = at(&mut self.places, ticket).and_then(|guest| guest.open.as_mut()) else { return };
        open.reading = None;
        open.stream.take(chunk);
        self.due.push_back(ticket.place);
    }

    /// The peer has closed its end, or the connection broke.
    pub fn hung_up(&mut self, ticket: Ticket) {
        if at(&mut self.places, ticket).is_some() {
            self.remove(ticket.place);
        }
    }

    /// Something has come: for the socket itself, or from a peer that is waited for to close.
    pub fn readable(&mut self, ticket: Ticket) {
        let Some(guest) = at(&mut self.places, ticket) else { return };
        if guest.open.is_none() {
            if self.outside.drain(&mut guest.socket, ticket) {
                self.remove(ticket.place);
            }
            return;
        }
        match self.outside.hear(&mut guest.socket) {
            Heard::Nothing => {}
            Heard::Owes => self.write(ticket.place, Bytes::new()),
            Heard::More => {
                if self.outside.watch(&guest.socket, ticket, guest.full).is_err() {
                    self.remove(ticket.place);
                }
            }
            Heard::Closed => self.remove(ticket.place),
        }
    }

    /// A socket takes bytes again.
    pub fn writable(&mut self, ticket: Ticket) {
        let Some(guest) = at(&mut self.places, ticket).filter(|guest| guest.full) else { return };
        (guest.full, guest.stall) = (false, Stall::default());
        let unsent = std::mem::take(&mut guest.unsent);
        if guest.open.is_some() || !unsent.is_empty() {
            self.write(ticket.place, unsent);
        }
        if at(&mut self.places, ticket).is_some_and(|guest| guest.open.is_none() && !guest.full) {
            return self.shut(ticket.place);
        }
        let Some(guest) = at(&mut self.places, ticket).filter(|guest| !guest.full) else { return };
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
            if self.is_stalled(self.walk, now.at) {
                self.end_slow(self.walk as u32);
            }
            self.walk += 1;
        }
        while self.closing.front().is_some_and(|(until, _)| *until <= now.at) {
            if let Some((_, ticket)) = self.closing.pop_front() {
                self.hung_up(ticket);
            }
        }
    }

    /// Whether the socket at this place has no room, and its peer has taken nothing for too long. One that takes a little is slow, but
    /// reads.
    fn is_stalled(&mut self, place: usize, now: Instant) -> bool {
        let tenths = |time: Duration| u32::try_from(time.as_millis() / 100).unwrap_or(u32::MAX);
        let clock = tenths(now.saturating_duration_since(*self.began.get_or_insert(now))).saturating_add(1);
        let Some(Some(guest)) = self.places.get_mut(place) else { return false };
        if !guest.full || guest.open.is_none() {
            return false;
        }
        let since = guest.stall.since;
        if since != 0 && clock.saturating_sub(since) < tenths(self.write_timeout) {
            return false;
        }
        let before =
            std::mem::replace(&mut guest.stall, Stall { since: clock, backlog: self.outside.backlog(&guest.socket) });
        since != 0 && guest.stall.backlog >= before.backlog
    }

    /// Without last words: there is no room for any.
    fn end_slow(&mut self, place: u32) {
        if let Some(Some(guest)) = self.places.get_mut(place as usize)
            && let Some(open) = &mut guest.open
        {
            open.stream.cut(EndReason::Slow);
        }
        self.remove(place);
    }

    /// Visits a slice of those who are due. Says whether there are more.
    pub fn turn(&mut self, now: Now) -> bool {
        let mut visited = 0;
        self.written = 0;
        // Those who catch up must not keep the others waiting for what is new.
        let alone = if self.rolls.is_swept() { SLICE } else { SLICE / 2 };
        while visited < alone
            && self.written < SLICE_BYTES
            && let Some(place) = self.due.pop_front()
        {
            visited += 1;
            let open = self.places.get(place as usize).and_then(|guest| guest.as_ref()?.open.as_ref());
            if let Some(line) = open.map(|open| open.line) {
                self.group.push(place);
                self.visit(line.roll, now);
            }
        }
        while visited < SLICE
            && self.written < SLICE_BYTES
            && let Some(id) = self.rolls.sweep(GROUP.min(SLICE - visited), &mut self.group)
        {
            visited += self.group.len();
            self.visit(id, now);
        }
        !self.due.is_empty() || !self.rolls.is_swept()
    }

    /// Visits the members in `group`: decides what each is sent under one lock, and sends it without.
    fn visit(&mut self, id: RollId, now: Now) {
        let mut turns = std::mem::take(&mut self.turns);
        let mut group = std::mem::take(&mut self.group);
        let Some(roll) = self.rolls.get_mut(id) else { return };
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
                if let (false, Some(open)) = (guest.full, &mut guest.open) {
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
                    tally.count(&channel.metrics, &events, now.wall);
                    let Events { batch, more, .. } = events;
                    self.send(place, batch.bytes);
                    if more {
                        self.due.push_back(place);
                    }
                }
                Turn::Control(bytes) => {
                    self.send(place, bytes);
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
        tally.tell(&channel.metrics);
        self.turns = turns;
        self.group = group;
    }

    /// Writes a frame in the form in which the response is sent.
    fn send(&mut self, place: u32, frame: Frame) {
        let chunked = self.places.get(place as usize).and_then(Option::as_ref).is_some_and(|guest| guest.chunked);
        self.write(place, frame.on_the_wire(chunked));
    }

    /// Writes; what the socket does not take waits until it does.
    fn write(&mut self, place: u32, bytes: Bytes) {
        let Some(Some(guest)) = self.places.get_mut(place as usize) else { return };
        if guest.full {
            // A gap behind what was not taken yet: rare enough to be put together.
            if !bytes.is_empty() {
                guest.unsent = [guest.unsent.as_ref(), bytes.as_ref()].concat().into();
            }
            return;
        }
        let Ok(Wrote { taken, full }) = self.outside.write(&mut guest.socket, &bytes) else {
            return self.remove(place);
        };
        self.written += taken;
        if full {
            guest.unsent = bytes.slice(taken..);
            self.wait_for_room(place);
        }
    }

    /// Everything was written: ends the stream, and waits for the client to close.
    fn finish(&mut self, place: u32, now: Instant) {
        let Some(Some(guest)) = self.places.get_mut(place as usize) else { return };
        let ticket = Ticket { place, generation: guest.generation };
        let chunked = guest.chunked;
        let mut complete = false;
        if let Some(open) = guest.open.take() {
            complete = open.stream.is_complete();
            self.strike(open.line);
        }
        self.closing.push_back((now + LINGER, ticket));
        // Without its last chunk a response looks cut: clients that take a complete one as the end of everything come back.
        if chunked && complete {
            self.write(place, LAST_CHUNK);
        }
        if at(&mut self.places, ticket).is_some_and(|guest| !guest.full) {
            self.shut(place);
        }
    }

    fn shut(&mut self, place: u32) {
        let Some(Some(guest)) = self.places.get_mut(place as usize) else { return };
        let ticket = Ticket { place, generation: guest.generation };
        match self.outside.shut(&mut guest.socket, ticket) {
            Ok(true) => {}
            Ok(false) => self.wait_for_room(place),
            Err(_) => self.remove(place),
        }
    }

    fn wait_for_room(&mut self, place: u32) {
        let Some(Some(guest)) = self.places.get_mut(place as usize) else { return };
        guest.full = true;
        let ticket = Ticket { place, generation: guest.generation };
        if self.outside.watch(&guest.socket, ticket, true).is_err() {
            self.remove(place);
        }
    }

    fn remove(&mut self, place: u32) {
        let Some(guest) = self.places.get_mut(place as usize).and_then(Option::take) else { return };
        self.free.push(place);
        self.guests -= 1;
        if let Some(open) = &guest.open {
            self.strike(open.line);
        }
        drop(guest);
        if self.guests == 0 {
            // A crowd that has left leaves no room behind.
            (self.places, self.free) = (Vec::new(), Vec::new());
            (self.due, self.closing) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// Takes a subscriber off its roll.
    fn strike(&mut self, line: Line) {
        let Some(moved) = self.rolls.strike(line) else { return };
        let guest = self.places.get_mut(moved.place as usize).and_then(Option::as_mut);
        if let Some(open) = guest.and_then(|guest| guest.open.as_mut()) {
            open.line.at = moved.at;
        }
        if moved.visit {
            self.due.push_back(moved.place);
        }
    }
}

/// The guest with this ticket, if it is still here.
fn at<O: Outside>(places: &mut [Option<Guest<O>>], ticket: Ticket) -> Option<&mut Guest<O>> {
    places.get_mut(ticket.place as usize)?.as_mut().filter(|guest| guest.generation == ticket.generation)
}
