//! The rolls of a shard: who subscribes to which feed, and how far the sweep over each has come.
//!
//! A channel wakes a roll once, however many it lists. A sweep is a circle: what is published while it goes on only makes it
//! longer, and those who come or leave meanwhile do not take the turn of others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use crate::channel::event_stream::Stream;
use crate::channel::live::LiveChannel;
use crate::delivery::io::RollId;
use crate::log::fanout::Cursor;
use crate::log::topic_index::FeedId;

/// All rolls of a shard.
#[derive(Default)]
pub struct Rolls {
    rolls: Vec<Option<Roll>>,
    free: Vec<RollId>,
    by_feed: HashMap<(u64, FeedId), RollId>,
    /// Rolls with members left to visit.
    sweeps: VecDeque<RollId>,
}

/// All subscribers of one feed in a shard.
pub struct Roll {
    /// Its channel.
    pub channel: Arc<LiveChannel>,
    /// A seat in the feed, which keeps it open and is woken for all.
    pub seat: Cursor,
    /// What wakes the shard for it.
    pub bell: Waker,
    /// Whether the feed will ring.
    pub armed: bool,
    members: Vec<u32>,
    /// Whom the sweep visits next.
    at: usize,
    /// How many it still has to visit.
    left: usize,
}

/// A member's line on a roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The roll.
    pub roll: RollId,
    /// Where on it.
    pub at: u32,
}

/// Whom the last one's leaving has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its place.
    pub place: u32,
    /// Its new line.
    pub at: u32,
    /// Whether the sweep may have passed there: it is to be visited alone.
    pub visit: bool,
}

// === impl Rolls ===

impl Rolls {
    /// Puts a subscriber on the roll of its feed. `bell` makes what wakes a new one.
    pub fn enrol(&mut self, stream: &Stream, place: u32, bell: impl FnOnce(RollId) -> Waker) -> Line {
        let channel = stream.channel();
        let key = (channel.id, stream.subscriber().cursor().feed());
        let id = match self.by_feed.get(&key) {
            Some(id) => *id,
            None => {
                let id = self.free.pop().unwrap_or_else(|| {
                    self.rolls.push(None);
                    self.rolls.len() as u32 - 1
                });
                let roll = Roll {
                    channel: channel.clone(),
                    seat: channel.fanout().beside(stream.subscriber().cursor()),
                    bell: bell(id),
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
        let Some(roll) = self.get_mut(id) else { return Line { roll: id, at: 0 } };
        roll.members.push(place);
        // It is visited alone; the circle goes past it and must still reach the last one.
        roll.left += usize::from(roll.left > 0);
        Line { roll: id, at: roll.members.len() as u32 - 1 }
    }

    /// Takes a subscriber off its roll, and the roll away with the last one.
    pub fn strike(&mut self, line: Line) -> Option<Moved> {
        let slot = self.rolls.get_mut(line.roll as usize)?;
        let roll = slot.as_mut()?;
        let at = line.at as usize;
        if at < roll.members.len() {
            roll.members.swap_remove(at);
        }
        let moved = roll.members.get(at).map(|place| Moved { place: *place, at: line.at, visit: roll.left > 0 });
        roll.left = roll.left.min(roll.members.len().max(1));
        if roll.members.is_empty() {
            self.by_feed.remove(&(roll.channel.id, roll.seat.feed()));
            roll.channel.fanout().leave(&roll.seat);
            *slot = None;
            self.free.push(line.roll);
        } else if roll.members.capacity() > 4 * roll.members.len().max(16) {
            roll.members.shrink_to(2 * roll.members.len());
        }
        moved
    }

    /// Begins a sweep over all members, or makes the one that goes on a whole circle again.
    pub fn ring(&mut self, id: RollId) {
        let Some(roll) = self.rolls.get_mut(id as usize).and_then(Option::as_mut) else { return };
        roll.armed = false;
        if roll.left == 0 {
            self.sweeps.push_back(id);
        }
        // An empty one would never be done; there is none, but nothing here has to rely on that.
        roll.left = roll.members.len().max(1);
    }

    /// The next at most `most` members to visit, all of one roll. Each roll has its turn.
    pub fn sweep(&mut self, most: usize, group: &mut Vec<u32>) -> Option<RollId> {
        while let Some(id) = self.sweeps.pop_front() {
            let Some(roll) = self.rolls.get_mut(id as usize).and_then(Option::as_mut) else { continue };
            let count = roll.left.min(most);
            for _ in 0..count {
                if roll.at >= roll.members.len() {
                    roll.at = 0;
                }
                group.extend(roll.members.get(roll.at));
                roll.at += 1;
            }
            roll.left -= count;
            // Only this sweep goes on with it.
            if roll.left > 0 {
                self.sweeps.push_back(id);
            }
            return Some(id);
        }
        None
    }

    /// Whether nobody is left to visit.
    pub fn is_swept(&self) -> bool {
        self.sweeps.is_empty()
    }

    /// Whether there is no roll.
    pub fn is_empty(&self) -> bool {
        self.by_feed.is_empty() && self.rolls.iter().all(Option::is_none)
    }

    /// A roll, if it is still there.
    pub fn get_mut(&mut self, id: RollId) -> Option<&mut Roll> {
        self.rolls.get_mut(id as usize)?.as_mut()
    }
}
