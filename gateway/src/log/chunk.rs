//! A piece of the stream behind the Log, read once for everybody who needs it.

use std::sync::Arc;

use tidings_crds::topic::TopicSet;

use crate::log::event_log::Entry;
use crate::log::feed::{Batch, batch};

/// The entries of one range of the stream, as one topic filter lets them pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which Log it was read for: with another one, the stream is another one too.
    pub generation: u32,
    /// Everything up to here does not match the topics that were read.
    pub from: u64,
    /// Everything after `from` and up to here that passes is in `entries`.
    pub through: u64,
    /// The first sequence that existed after this was read: below it, what is missing may have expired.
    pub first: u64,
    /// In stream order.
    pub entries: Vec<Arc<Entry>>,
}

/// Where continuity ends when retention has overtaken a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The sequence before the next event.
    pub resumed: u64,
}

// === impl Chunk ===

impl Chunk {
    /// The frames behind `after` of these topics, as many as fit into `budget` bytes.
    pub fn read(&self, topics: &TopicSet, after: u64, budget: usize) -> Option<Batch> {
        batch(self.behind(after).iter().filter(|entry| topics.matches(&entry.topic)), budget)
    }

    /// Whether something behind `after` can have been removed from the front of the stream before it was read.
    ///
    /// A range may take several reads (a second replica or the leader for what the first did not know, single messages once
    /// a reply has broken off), and a purge can come in between. So what was read below the first sequence proves nothing,
    /// unless it is without a hole. Above it, what is missing was deleted, has had a time to live,
    /// or was replaced by a newer value: that is what the channel promises. To be asked before topics are filtered out.
    pub fn expired(&self, after: u64) -> Option<Expired> {
        let end = self.through.min(self.first.saturating_sub(1));
        if end <= after {
            return None;
        }
        let below = self.behind(after).iter().take_while(|entry| entry.sequence <= end);
        (below.count() as u64 != end - after).then_some(Expired { resumed: end })
    }

    /// What it counts for in a cache.
    pub fn cost(&self) -> usize {
        size_of::<Self>() + self.entries.iter().map(|entry| entry.cost()).sum::<usize>()
    }

    /// The entry at `sequence`, or the first one after it.
    pub fn at(&self, sequence: u64) -> Option<&Arc<Entry>> {
        self.behind(sequence.saturating_sub(1)).first()
    }

    fn behind(&self, after: u64) -> &[Arc<Entry>] {
        let start = self.entries.partition_point(|entry| entry.sequence <= after);
        self.entries.get(start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::event_log::Kind;

    fn chunk(first: u64, sequences: &[u64]) -> Chunk {
        let entry = |sequence: &u64| {
            let frame = format!("<{sequence}>").into();
            Arc::new(Entry { sequence: *sequence, time: 0, topic: "".into(), frame, kind: Kind::Event })
        };
        Chunk { generation: 0, from: 0, through: 100, first, entries: sequences.iter().map(entry).collect() }
    }

    #[test]
    fn nothing_expired_while_the_successor_exists() {
        assert_eq!(chunk(1, &[5]).expired(2), None);
        assert_eq!(chunk(3, &[5]).expired(2), None);
        assert_eq!(chunk(5, &[3, 4, 9]).expired(2), None, "read before it expired");
    }

    #[test]
    fn what_lies_below_the_first_sequence_has_expired() {
        assert_eq!(chunk(9, &[9, 10]).expired(2), Some(Expired { resumed: 8 }));
        assert_eq!(chunk(9, &[5, 10]).expired(2), Some(Expired { resumed: 8 }));
        assert_eq!(chunk(9, &[3, 4, 10]).expired(2), Some(Expired { resumed: 8 }), "purged while it was read");
        assert_eq!(chunk(101, &[]).expired(2), Some(Expired { resumed: 100 }));
    }

    #[test]
    fn reading_starts_behind_the_cursor() {
        let all = TopicSet::all();
        assert_eq!(chunk(1, &[3, 5]).read(&all, 3, 100).unwrap().bytes, "<5>");
        assert_eq!(chunk(1, &[3, 5]).read(&all, 5, 100), None);
        assert_eq!(chunk(1, &[3, 5]).at(4).unwrap().sequence, 5);
        assert_eq!(chunk(1, &[3, 5]).at(3).unwrap().sequence, 3);
    }
}
