//! What was put together for one subscriber, kept for the next one at the same place.
//!
//! Bounded for the channel, however many feeds it has: each feed has one place, and shares it with others.

use std::cell::RefCell;

use crate::log::feed::Batch;
use crate::log::topic_index::FeedId;

/// The places. At most a budget of 64 KiB (or one larger frame, which the Log holds as well) is kept in each: 1 MiB.
const PLACES: usize = 16;

/// What was read last for the feeds of a channel that have many subscribers.
#[derive(Debug, Default)]
pub(super) struct SharedReads {
    /// None before the first is kept: few channels have a feed that needs one.
    places: RefCell<Vec<Option<Read>>>,
}

/// A batch, and the question that it answers.
#[derive(Debug)]
struct Read {
    feed: FeedId,
    after: u64,
    budget: usize,
    batch: Batch,
}

// === impl SharedReads ===

impl SharedReads {
    /// What was read for this feed behind `after`, or else what `read` finds there.
    pub(super) fn get_or_read(
        &self,
        feed: FeedId,
        after: u64,
        budget: usize,
        read: impl FnOnce() -> Option<Batch>,
    ) -> Option<Batch> {
        let mut places = self.places.borrow_mut();
        let kept = places.get(feed % PLACES).and_then(Option::as_ref);
        if let Some(kept) = kept.filter(|kept| (kept.feed, kept.after, kept.budget) == (feed, after, budget)) {
            return Some(kept.batch.clone());
        }
        let batch = read()?;
        if places.is_empty() {
            places.resize_with(PLACES, || None);
        }
        if let Some(place) = places.get_mut(feed % PLACES) {
            *place = Some(Read { feed, after, budget, batch: batch.clone() });
        }
        Some(batch)
    }

    /// The feed has something new, or has lost something.
    pub(super) fn forget(&mut self, feed: FeedId) {
        if let Some(place) = self.places.get_mut().get_mut(feed % PLACES)
            && place.as_ref().is_some_and(|kept| kept.feed == feed)
        {
            *place = None;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.places.get_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &str) -> Batch {
        Batch { bytes: text.into(), events: 1, last: 1, newest: 1 }
    }

    #[test]
    fn the_same_question_is_answered_once() {
        let mut reads = SharedReads::default();
        let ask = |reads: &SharedReads, feed, after, budget, text| {
            reads.get_or_read(feed, after, budget, || Some(batch(text))).map(|batch| batch.bytes)
        };
        assert_eq!(reads.get_or_read(1, 5, 9, || None), None);
        assert_eq!(ask(&reads, 1, 5, 9, "first"), Some("first".into()));
        assert_eq!(ask(&reads, 1, 5, 9, "second"), Some("first".into()));
        assert_eq!(ask(&reads, 1, 6, 9, "behind"), Some("behind".into()));
        assert_eq!(ask(&reads, 1, 6, 8, "short"), Some("short".into()));
        reads.forget(1 + PLACES);
        assert_eq!(ask(&reads, 1, 6, 8, "again"), Some("short".into()));
        reads.forget(1);
        assert_eq!(ask(&reads, 1, 6, 8, "again"), Some("again".into()));
    }

    #[test]
    fn feeds_share_a_bounded_number_of_places() {
        let mut reads = SharedReads::default();
        for feed in 0..1_000 {
            let text = format!("feed {feed}");
            assert_eq!(reads.get_or_read(feed, 0, 9, || Some(batch(&text))).unwrap().bytes, text);
        }
        assert_eq!(reads.places.get_mut().len(), PLACES);
        reads.clear();
        assert_eq!(reads.places.get_mut().len(), 0);
    }
}
