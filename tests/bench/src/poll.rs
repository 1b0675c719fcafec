//! An epoll and what is asked of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

// === impl Poll ===

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(512) })
    }

    pub(crate) fn add(&self, source: impl AsFd, key: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(key), flags)?)
    }

    pub(crate) fn modify(&self, source: impl AsFd, key: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, EventData::new_u64(key), flags)?)
    }

    /// What has happened, after at most so long; without a limit until something has.
    pub(crate) fn wait(&mut self, most: Option<Duration>) -> io::Result<Vec<(u64, EventFlags)>> {
        let most = most.map(|most| Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() });
        self.events.clear();
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), most.as_ref())?;
        Ok(self.events.iter().map(|event| (event.data.u64(), event.flags)).collect())
    }
}
