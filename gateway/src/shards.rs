//! The shards of the process, one for each worker of the runtime: takes connections in, and drives [`crate::shard`].
//!
//! Each shard has an epoll of its own, nested in the runtime's: it tells of hang-ups, and of room to write once a socket was
//! full. Everything else reaches a shard through its `Inbox`.
//!
//! Sockets are registered edge-triggered. The runtime's epoll is told of changes only, and Linux (seen on 6.18) tells it of
//! none when something happens to a level-triggered socket that the inner one still has on its list: a slow reader would
//! never be written to again. Every change of interest looks at the socket anew, so nothing is lost between.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::accept::Held as Connection;
use crate::channel::{Behind, LiveChannel};
use crate::chunk::Chunk;
use crate::handover::Handed;
use crate::relay;
use crate::shard::{Arrival, LOOK, LOOKS, Now, Outside, RollId, Shard, Ticket};

/// The shards of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shards(Arc<[Arc<Inbox>]>);

/// What has come for a shard. Bounded by what it is about: an arrival has its place in the [`crate::room`], a roll rings
/// once until it is armed again, and a guest has one read under way.
#[derive(Default)]
struct Inbox {
    mail: Mutex<Mail>,
    bell: Notify,
    /// Sockets here and on their way here.
    sockets: AtomicUsize,
}

#[derive(Default)]
struct Mail {
    arrivals: Vec<Arrival<Socket, Held>>,
    rung: Vec<RollId>,
    read: Vec<(Ticket, Arc<Chunk>)>,
}

/// A connection that is ours alone.
struct Socket(OwnedFd);

/// Counts a socket for as long as it is there.
struct Held {
    inbox: Arc<Inbox>,
    _connection: Connection,
}

/// Wakes a roll of a shard.
struct Bell {
    inbox: Arc<Inbox>,
    roll: RollId,
}

/// The kernel and the runtime.
struct Kernel {
    epoll: AsyncFd<OwnedFd>,
    inbox: Arc<Inbox>,
}

/// What an epoll tells of one socket.
type Happened = (Ticket, EventFlags);

/// What is told at once; more are told the next time.
const EVENTS: usize = 256;

// === impl Shards ===

impl Shards {
    /// Starts the shards as tasks that never end by themselves.
    pub fn start(tasks: &mut JoinSet<&'static str>) -> io::Result<Self> {
        let workers = tokio::runtime::Handle::current().metrics().num_workers();
        let inboxes: Arc<[Arc<Inbox>]> = (0..workers.max(1)).map(|_| Arc::default()).collect();
        for inbox in inboxes.iter() {
            let kernel = Kernel { epoll: nested(epoll::create(CreateFlags::CLOEXEC)?)?, inbox: inbox.clone() };
            tasks.spawn(async move {
                drive(Shard::new(kernel)).await;
                "a shard"
            });
        }
        Ok(Self(inboxes))
    }

    /// Takes a connection in, with what it holds for as long as its socket is open.
    pub fn take(&self, socket: TcpStream, handed: Box<Handed>, connection: Connection) {
        let Some(inbox) = self.0.iter().min_by_key(|inbox| inbox.sockets.load(Relaxed)) else { return };
        inbox.sockets.fetch_add(1, Relaxed);
        let Handed { stream, first } = *handed;
        let hold = Held { inbox: inbox.clone(), _connection: connection };
        inbox.mail.lock().arrivals.push(Arrival { socket: Socket(socket.into()), stream, first, hold });
        inbox.bell.notify_one();
    }

    /// Sockets that are still open.
    pub fn sockets(&self) -> usize {
        self.0.iter().map(|inbox| inbox.sockets.load(Relaxed)).sum()
    }

    /// Waits until every socket is closed.
    pub async fn until_empty(&self) {
        while self.sockets() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Has the runtime tell when an epoll has something to tell.
#[expect(unsafe_code, reason = "tokio has no safe way to register a descriptor that is no socket")]
fn nested(epoll: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and the same descriptor for as long as it exists. The AsyncFd owns it, and nothing here
    // takes it out or puts another in: it is only ever borrowed, by `get_ref`.
    Ok(unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?)
}

/// Drives a shard. It never ends.
async fn drive(mut shard: Shard<Kernel>) {
    let inbox = shard.outside().inbox.clone();
    let mut looks = interval(LOOK / LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events = Vec::with_capacity(EVENTS);
    let mut mail = Mail::default();
    loop {
        let mut look = false;
        let idle = shard.guests() == 0;
        tokio::select! {
            () = inbox.bell.notified() => {}
            happened = shard.outside().happened(&mut events) => happened,
            _ = looks.tick(), if !idle => look = true,
        }
        loop {
            let now = Now { at: Instant::now(), wall: relay::now() };
            std::mem::swap(&mut *inbox.mail.lock(), &mut mail);
            mail.arrivals.drain(..).for_each(|arrival| shard.arrive(arrival));
            mail.rung.drain(..).for_each(|roll| shard.ring(roll));
            mail.read.drain(..).for_each(|(ticket, chunk)| shard.take(ticket, chunk, now));
            events.drain(..).for_each(|event| tell(&mut shard, event));
            if std::mem::take(&mut look) {
                shard.look(now);
                // Costs little, and should the runtime ever miss a change, nobody waits for long.
                shard.outside().poll(&mut events);
                events.drain(..).for_each(|event| tell(&mut shard, event));
            }
            if !shard.turn(now) {
                break;
            }
            // Whoever else has something to do on this core does it now: new connections first of all.
            yield_now().await;
            shard.outside().poll(&mut events);
        }
        if shard.guests() == 0 {
            // A crowd that has left leaves no room behind.
            mail = Mail::default();
        }
    }
}

fn tell(shard: &mut Shard<Kernel>, (ticket, flags): Happened) {
    if flags.contains(EventFlags::IN) {
        shard.readable(ticket);
    }
    if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
        shard.hung_up(ticket);
    } else if flags.contains(EventFlags::OUT) {
        shard.writable(ticket);
    }
}

// === impl Kernel ===

impl Kernel {
    /// Waits until something has happened, and collects it.
    async fn happened(&self, events: &mut Vec<Happened>) {
        // An epoll that cannot be waited for is none: the task ends, and the process with it.
        let mut ready = self.epoll.readable().await.expect("the runtime lives as long as its tasks");
        self.poll(events);
        if events.len() < EVENTS {
            ready.clear_ready();
        }
    }

    /// Collects what has happened, without waiting.
    fn poll(&self, events: &mut Vec<Happened>) {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        // It fails when interrupted only; then the next one tells.
        let mut buffer = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        if let Ok((told, _)) = epoll::wait(self.epoll.get_ref(), &mut buffer, Some(&at_once)) {
            events.extend(told.iter().map(|event| (Ticket::from_key(event.data.u64()), event.flags)));
        }
    }
}

impl Outside for Kernel {
    type Socket = Socket;
    type Reading = AbortOnDropHandle<()>;
    type Hold = Held;

    /// With write(2), which the kernel counts for each process; the signal it may raise is ignored in Rust programs.
    fn write(&mut self, socket: &mut Socket, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&socket.0, bytes)?)
    }

    fn enter(&mut self, socket: &Socket, ticket: Ticket) -> io::Result<()> {
        let data = EventData::new_u64(ticket.key());
        Ok(epoll::add(self.epoll.get_ref(), socket.0.as_fd(), data, EventFlags::RDHUP | EventFlags::ET)?)
    }

    fn watch(&mut self, socket: &Socket, ticket: Ticket, writable: bool) -> io::Result<()> {
        let flags = if writable { EventFlags::RDHUP | EventFlags::OUT } else { EventFlags::RDHUP };
        self.interest(socket, ticket, flags)
    }

    fn shut(&mut self, socket: &mut Socket, ticket: Ticket) -> io::Result<()> {
        rustix::net::shutdown(&socket.0, Shutdown::Write)?;
        self.interest(socket, ticket, EventFlags::RDHUP | EventFlags::IN)
    }

    fn drain(&mut self, socket: &mut Socket, ticket: Ticket) -> bool {
        let mut buffer = [0; 4096];
        // Not for ever: somebody who sends without end has another turn.
        for _ in 0..16 {
            match rustix::io::read(&socket.0, &mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error != rustix::io::Errno::AGAIN && error != rustix::io::Errno::INTR,
            }
        }
        self.interest(socket, ticket, EventFlags::RDHUP | EventFlags::IN).is_err()
    }

    fn read(&mut self, channel: &Arc<LiveChannel>, ticket: Ticket, behind: Behind) -> AbortOnDropHandle<()> {
        let (channel, inbox) = (channel.clone(), self.inbox.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let chunk = channel.read_behind(behind).await;
            inbox.mail.lock().read.push((ticket, chunk));
            inbox.bell.notify_one();
        }))
    }

    fn bell(&mut self, roll: RollId) -> Waker {
        Arc::new(Bell { inbox: self.inbox.clone(), roll }).into()
    }
}

impl Kernel {
    fn interest(&self, socket: &Socket, ticket: Ticket, flags: EventFlags) -> io::Result<()> {
        let data = EventData::new_u64(ticket.key());
        Ok(epoll::modify(self.epoll.get_ref(), socket.0.as_fd(), data, flags | EventFlags::ET)?)
    }
}

// === impl Bell ===

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.inbox.mail.lock().rung.push(self.roll);
        self.inbox.bell.notify_one();
    }
}

// === impl Held ===

impl Drop for Held {
    fn drop(&mut self) {
        self.inbox.sockets.fetch_sub(1, Relaxed);
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}
