//! The kernel and the runtime, as a shard needs them: an epoll of its own, nested in the runtime's, and tasks that read.
//!
//! The epoll tells of hang-ups, of what comes for sessions, and of room to write once a socket was full.
//!
//! Sockets are registered edge-triggered. The runtime's epoll is told of changes only, and Linux (seen on 6.18) tells it of
//! none when something happens to a level-triggered socket that the inner one still has on its list: a slow reader would
//! never be written to again. Every change of interest looks at the socket again, so nothing is lost between.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::io::unix::AsyncFd;
use tokio_util::task::AbortOnDropHandle;

use crate::channel::live::{Behind, LiveChannel};
use crate::delivery::io::{Heard, Outside, RollId, Ticket, Wrote};
use crate::delivery::mailbox::{Held, Inbox};
use crate::delivery::shard::Shard;
use crate::server::async_fd;
use crate::server::socket::Socket;

/// The kernel and the runtime.
pub struct Kernel {
    epoll: AsyncFd<OwnedFd>,
    inbox: Arc<Inbox>,
}

/// What an epoll tells of one socket.
pub type Happened = (Ticket, EventFlags);

/// What is told at once; more are told the next time.
pub const EVENTS: usize = 256;

// === impl Kernel ===

impl Kernel {
    /// For the shard with this inbox.
    pub fn new(inbox: Arc<Inbox>) -> io::Result<Self> {
        Ok(Self { epoll: async_fd::readable(epoll::create(CreateFlags::CLOEXEC)?)?, inbox })
    }

    /// What comes for the shard.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Waits until something has happened, and collects it.
    pub async fn happened(&self, events: &mut Vec<Happened>) {
        // An epoll that cannot be waited for is none: the task ends, and the process with it.
        let mut ready = self.epoll.readable().await.expect("the runtime lives as long as its tasks");
        self.poll(events);
        if events.len() < EVENTS {
            ready.clear_ready();
        }
    }

    /// Collects what has happened, without waiting.
    pub fn poll(&self, events: &mut Vec<Happened>) {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        // It fails when interrupted only; then the next one tells.
        let mut buffer = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        if let Ok((told, _)) = epoll::wait(self.epoll.get_ref(), &mut buffer, Some(&at_once)) {
            events.extend(told.iter().map(|event| (Ticket::from_key(event.data.u64()), event.flags)));
        }
    }

    /// Whatever is asked for, hang-ups are.
    fn interest(&self, socket: &Socket, ticket: Ticket, flags: EventFlags) -> io::Result<()> {
        let (data, flags) = (EventData::new_u64(ticket.key()), flags | EventFlags::RDHUP | EventFlags::ET);
        Ok(epoll::modify(self.epoll.get_ref(), socket.as_fd(), data, flags)?)
    }
}

/// Tells a shard of what has happened.
pub fn tell(shard: &mut Shard<Kernel>, (ticket, flags): Happened) {
    if flags.contains(EventFlags::IN) {
        shard.readable(ticket);
    }
    if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
        shard.hung_up(ticket);
    } else if flags.contains(EventFlags::OUT) {
        shard.writable(ticket);
    }
}

impl Outside for Kernel {
    type Socket = Socket;
    type Reading = AbortOnDropHandle<()>;
    type Hold = Held;

    fn write(&mut self, socket: &mut Socket, bytes: &[u8]) -> io::Result<Wrote> {
        socket.write(bytes)
    }

    fn backlog(&self, socket: &Socket) -> u32 {
        socket.backlog()
    }

    fn enter(&mut self, socket: &Socket, ticket: Ticket) -> io::Result<()> {
        let (data, flags) = (EventData::new_u64(ticket.key()), calm(socket) | EventFlags::RDHUP | EventFlags::ET);
        Ok(epoll::add(self.epoll.get_ref(), socket.as_fd(), data, flags)?)
    }

    fn watch(&mut self, socket: &Socket, ticket: Ticket, writable: bool) -> io::Result<()> {
        let room = if writable { EventFlags::OUT } else { EventFlags::empty() };
        self.interest(socket, ticket, calm(socket) | room)
    }

    fn hear(&mut self, socket: &mut Socket) -> Heard {
        socket.hear()
    }

    fn shut(&mut self, socket: &mut Socket, ticket: Ticket) -> io::Result<bool> {
        let shut = socket.shut()?;
        if shut {
            self.interest(socket, ticket, EventFlags::IN)?;
        }
        Ok(shut)
    }

    fn drain(&mut self, socket: &mut Socket, ticket: Ticket) -> bool {
        socket.drain().unwrap_or_else(|| self.interest(socket, ticket, EventFlags::IN).is_err())
    }

    fn read(&mut self, channel: &Arc<LiveChannel>, ticket: Ticket, behind: Behind) -> AbortOnDropHandle<()> {
        let (channel, inbox) = (channel.clone(), self.inbox.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let chunk = channel.read_behind(behind).await;
            inbox.read(ticket, chunk);
        }))
    }

    fn bell(&mut self, roll: RollId) -> Waker {
        self.inbox.bell(roll)
    }
}

/// What concerns a socket that has room.
fn calm(socket: &Socket) -> EventFlags {
    if socket.listens() { EventFlags::IN } else { EventFlags::empty() }
}
