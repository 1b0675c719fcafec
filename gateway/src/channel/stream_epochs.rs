//! Which epoch a stream had when it acknowledged a publication: what the id in the answer to a POST begins with.
//!
//! An acknowledgement names the stream and the sequence, not the epoch. An epoch that was seen before may be that of a
//! stream deleted since, and an id with it would be a false reset for who resumes from it. So an epoch counts only if it was
//! seen before the publication was sent **and** after it was acknowledged: a stream that was made again in between has
//! another one. What is not certain is left out.
//!
//! The look afterwards is shared by all publications that were acknowledged before it began: one request to the stream's
//! leader at a time, however many publish.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidings_crds::position::Epoch;

use crate::log::ingest::Info;

/// How long an answer to a POST waits for its epoch; then it goes without an id.
const PATIENCE: Duration = Duration::from_secs(1);

/// Streams to remember, at some hundred bytes each.
const MOST: usize = 1024;

/// What was last seen of each stream that is published to.
#[derive(Debug, Default)]
pub struct StreamEpochs(Mutex<HashMap<String, Arc<Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    /// Looks that have begun.
    begun: AtomicU64,
    known: Mutex<Option<Epoch>>,
    last: tokio::sync::Mutex<Look>,
}

/// The newest look that has ended.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    number: u64,
    info: Option<Info>,
}

/// A publication that is about to be sent.
#[derive(Debug)]
pub struct Before {
    entry: Arc<Entry>,
    epoch: Option<Epoch>,
}

// === impl StreamEpochs ===

impl StreamEpochs {
    /// To be called before the publication is sent. `ask` is only polled where nothing is known of the stream.
    pub async fn before(&self, stream: &str, ask: impl Future<Output = Option<Info>>) -> Before {
        let entry = self.entry(stream);
        let known = *entry.known.lock();
        let epoch = match known {
            Some(epoch) => Some(epoch),
            None => entry.look(ask).await.map(|info| info.epoch),
        };
        Before { entry, epoch }
    }

    fn entry(&self, stream: &str) -> Arc<Entry> {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.get(stream) {
            return entry.clone();
        }
        if entries.len() >= MOST {
            entries.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        entries.entry(stream.to_owned()).or_default().clone()
    }
}

// === impl Before ===

impl Before {
    /// The epoch of the stream that has acknowledged this sequence by now, if that is certain.
    pub async fn acknowledged(self, sequence: u64, ask: impl Future<Output = Option<Info>>) -> Option<Epoch> {
        let info = self.entry.look(ask).await?;
        (Some(info.epoch) == self.epoch && info.last >= sequence).then_some(info.epoch)
    }
}

// === impl Entry ===

impl Entry {
    /// The result of a look that began after this call.
    async fn look(&self, ask: impl Future<Output = Option<Info>>) -> Option<Info> {
        let before = self.begun.load(Ordering::Acquire);
        let look = async {
            let mut last = self.last.lock().await;
            if last.number <= before {
                let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
                let info = ask.await;
                *last = Look { number, info };
                *self.known.lock() = info.map(|info| info.epoch);
            }
            last.info
        };
        tokio::time::timeout(PATIENCE, look).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::cell::Cell;

    fn info(epoch: u64, last: u64) -> Option<Info> {
        Some(Info { epoch: Epoch::from_nanos(epoch), first: 1, last, last_time: 0, heard: None, unrouted: false })
    }

    async fn posted(epochs: &StreamEpochs, before: Option<Info>, sequence: u64, after: Option<Info>) -> Option<Epoch> {
        let sent = epochs.before("s", async { before }).await;
        sent.acknowledged(sequence, async { after }).await
    }

    #[tokio::test]
    async fn an_epoch_counts_if_it_was_there_before_and_after() {
        let epochs = StreamEpochs::default();
        assert_eq!(posted(&epochs, info(1, 0), 1, info(1, 1)).await, Some(Epoch::from_nanos(1)));
        // Known by now: nobody asks before.
        assert_eq!(posted(&epochs, None, 2, info(1, 2)).await, Some(Epoch::from_nanos(1)));
        // Made again in between, whichever stream acknowledged.
        assert_eq!(posted(&epochs, None, 1, info(2, 1)).await, None);
        assert_eq!(posted(&epochs, None, 2, info(2, 2)).await, Some(Epoch::from_nanos(2)));
        // What does not have the sequence did not acknowledge it.
        assert_eq!(posted(&epochs, None, 9, info(2, 8)).await, None);
        assert_eq!(posted(&epochs, None, 3, None).await, None);
        assert_eq!(posted(&epochs, None, 4, info(2, 4)).await, None, "nothing was known before");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_is_shared_by_those_who_came_before_it_began_and_by_no_other() {
        let epochs = StreamEpochs::default();
        posted(&epochs, info(1, 0), 1, info(1, 1)).await;
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
            info(1, 1_000)
        };
        let post = || async {
            let before = epochs.before("s", async { unreachable!("it is known") }).await;
            before.acknowledged(5, ask()).await
        };
        let late = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            join_all((0..100).map(|_| post())).await
        };
        let (first, rest) = futures_util::join!(post(), late);
        assert!(first.is_some() && rest.iter().all(Option::is_some));
        assert_eq!(asked.get(), 2, "one for the first, one for all who came while it ran");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_does_not_wait_for_long() {
        let epochs = StreamEpochs::default();
        posted(&epochs, info(1, 0), 1, info(1, 1)).await;
        let before = epochs.before("s", async { None }).await;
        assert_eq!(before.acknowledged(2, std::future::pending()).await, None);
        assert_eq!(posted(&epochs, info(1, 2), 3, info(1, 3)).await, Some(Epoch::from_nanos(1)), "and spoils no other");
    }
}
