//! The shards of the process, one for each worker of the runtime: takes connections in, and drives [`crate::delivery::shard`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::{JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::channel::hub::Opened;
use crate::channel::relay;
use crate::delivery::epoll::{EVENTS, Kernel, tell};
use crate::delivery::handed::Handed;
use crate::delivery::io::Now;
use crate::delivery::mailbox::{Inbox, Mail};
use crate::delivery::shard::{LOOK, LOOKS, Shard};
use crate::server::hold::Held as Connection;
use crate::server::socket::Socket;
use crate::server::upgrade::{Offer, TakeSocket};

/// The shards of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shards(Arc<[Arc<Inbox>]>);

// === impl Shards ===

impl Shards {
    /// Starts the shards as tasks that never end by themselves. Readers that take nothing for as long as `write_timeout` end.
    pub fn start(tasks: &mut JoinSet<&'static str>, write_timeout: Duration) -> io::Result<Self> {
        let workers = tokio::runtime::Handle::current().metrics().num_workers();
        let inboxes: Arc<[Arc<Inbox>]> = (0..workers.max(1)).map(|_| Arc::default()).collect();
        for inbox in inboxes.iter() {
            let kernel = Kernel::new(inbox.clone())?;
            tasks.spawn(async move {
                drive(Shard::new(kernel).with_write_timeout(write_timeout)).await;
                "a shard"
            });
        }
        Ok(Self(inboxes))
    }

    /// Takes up a connection's offer: its socket comes here with the head of the answer, and the stream is written to it.
    pub fn take_up(&self, offer: &Offer, opened: Opened) {
        let shards = self.clone();
        offer.take_up(move |headers, asked| {
            let handed = Handed::new(opened, headers, asked, SystemTime::now());
            TakeSocket::new(move |socket, connection| shards.take(socket, handed, connection))
        });
    }

    /// Takes a connection in, with what it holds for as long as its socket is open.
    fn take(&self, socket: Socket, handed: Handed, connection: Connection) {
        let Some(inbox) = self.0.iter().min_by_key(|inbox| inbox.sockets()) else { return };
        inbox.arrive(socket, handed, connection);
    }

    /// Sockets that are still open.
    pub fn sockets(&self) -> usize {
        self.0.iter().map(|inbox| inbox.sockets()).sum()
    }

    /// Waits until every socket is closed.
    pub async fn until_empty(&self) {
        while self.sockets() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Drives a shard. It never ends.
async fn drive(mut shard: Shard<Kernel>) {
    let inbox = shard.outside().inbox().clone();
    let mut looks = interval(LOOK / LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events = Vec::with_capacity(EVENTS);
    let mut mail = Mail::default();
    loop {
        let mut look = false;
        let idle = shard.guests() == 0;
        tokio::select! {
            () = inbox.rung() => {}
            happened = shard.outside().happened(&mut events) => happened,
            _ = looks.tick(), if !idle => look = true,
        }
        loop {
            let now = Now { at: Instant::now(), wall: relay::now() };
            inbox.empty_into(&mut mail);
            mail.arrivals.drain(..).for_each(|arrival| shard.arrive(arrival));
            mail.rung.drain(..).for_each(|roll| shard.ring(roll));
            mail.read.drain(..).for_each(|(ticket, chunk)| shard.take(ticket, chunk));
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
            // Other tasks of this core run now, new connections first of all.
            yield_now().await;
            shard.outside().poll(&mut events);
        }
        if shard.guests() == 0 {
            // A crowd that has left leaves no room behind.
            mail = Mail::default();
        }
    }
}
