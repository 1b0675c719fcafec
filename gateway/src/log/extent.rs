//! How far an answer proves what is missing in it: the one place where the absence of a message is concluded from a reply that
//! does not contain it. No io.
//!
//! Any replica may answer, and may lag. Its reply proves only what lies below the highest sequence it contains, and, where
//! messages expire by age, not what came before the lowest: replicas expire them with timers of their own. The leader is asked
//! about both; whether it was the leader, and knew the stream that far, is for the caller to find out.

use crate::log::publication::Publication;

/// A range of the stream, read as far as it was proven.
#[derive(Debug)]
pub struct Extent {
    messages: Vec<Publication>,
    through: u64,
}

/// How far a replica's reply has brought an extent.
#[derive(Debug, PartialEq, Eq)]
pub enum Reached {
    /// To the highest sequence in it.
    Further,
    /// Nowhere: it was empty, which proves nothing.
    Nothing,
    /// Nowhere yet: only the leader knows what came before these.
    Open(Vec<Publication>),
}

// === impl Extent ===

impl Extent {
    /// Nothing yet, behind `after`.
    pub fn behind(after: u64) -> Self {
        Self { messages: Vec::new(), through: after }
    }

    /// Everything up to here is known: it is among the messages, or does not exist.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// The messages, in ascending order.
    pub fn into_messages(self) -> Vec<Publication> {
        self.messages
    }

    /// A replica's reply to the question for what lies behind [`Extent::through`]. `expires`: replicas may have dropped what
    /// the leader still has.
    pub fn replica(&mut self, messages: Vec<Publication>, expires: bool) -> Reached {
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Reached::Nothing };
        if expires && first.sequence > self.through + 1 {
            return Reached::Open(messages);
        }
        self.through = self.through.max(last.sequence);
        self.messages.extend(messages);
        Reached::Further
    }

    /// The leader's reply to the same question: its first message, or none at all up to `floor`, which it has to know. `rest` is
    /// what a replica answered without proof of what came before.
    pub fn leader(&mut self, message: Option<Publication>, floor: u64, rest: Vec<Publication>) {
        let begins = message.as_ref().map_or(u64::MAX, |message| message.sequence);
        match rest.last() {
            // Nothing came before.
            Some(last) if rest.first().is_some_and(|first| first.sequence <= begins) => {
                self.through = self.through.max(last.sequence);
                self.messages.extend(rest);
            }
            _ => match message {
                Some(message) if begins <= floor => {
                    self.through = begins;
                    self.messages.push(message);
                }
                _ => self.through = self.through.max(floor),
            },
        }
    }

    /// Nothing is wanted behind `floor`.
    pub fn cut(&mut self, floor: u64) {
        self.through = self.through.min(floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(sequence: u64) -> Publication {
        let (topic, data) = ("t".into(), Bytes::new());
        Publication { sequence, time: sequence, topic, event: None, data, marker: false, unrouted: false }
    }

    fn messages(sequences: &[u64]) -> Vec<Publication> {
        sequences.iter().copied().map(message).collect()
    }

    fn read(extent: Extent) -> (u64, Vec<u64>) {
        (extent.through, extent.messages.iter().map(|message| message.sequence).collect())
    }

    #[test]
    fn a_reply_proves_what_lies_below_its_highest_sequence() {
        let mut extent = Extent::behind(3);
        assert_eq!(extent.replica(messages(&[4, 7]), true), Reached::Further);
        assert_eq!(extent.replica(messages(&[]), true), Reached::Nothing);
        assert_eq!(read(extent), (7, vec![4, 7]));
    }

    #[test]
    fn where_messages_expire_a_replica_does_not_say_what_came_before() {
        let mut extent = Extent::behind(3);
        let open = extent.replica(messages(&[6, 7]), true);
        assert_eq!((open, extent.through()), (Reached::Open(messages(&[6, 7])), 3));
        assert_eq!(extent.replica(messages(&[6, 7]), false), Reached::Further);
    }

    #[test]
    fn the_leader_says_what_came_before() {
        for (leader, expected) in
            [(Some(5), (5, vec![5])), (Some(6), (7, vec![6, 7])), (Some(8), (7, vec![6, 7])), (None, (7, vec![6, 7]))]
        {
            let mut extent = Extent::behind(3);
            extent.leader(leader.map(message), 100, messages(&[6, 7]));
            assert_eq!(read(extent), expected, "{leader:?}");
        }
    }

    #[test]
    fn the_leader_proves_that_there_is_nothing_up_to_the_floor() {
        for (leader, expected) in [(None, (9, vec![])), (Some(12), (9, vec![])), (Some(9), (9, vec![9]))] {
            let mut extent = Extent::behind(3);
            extent.leader(leader.map(message), 9, Vec::new());
            assert_eq!(read(extent), expected, "{leader:?}");
        }
    }
}
