//! The ingest against a model of a stream: whatever replicas, leaders, deletions and lost or late live messages do, every
//! message that stays in the stream is appended once and in order.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use tidings_crds::position::{Epoch, Stamp};
use tidings_gateway::log::event_log::Mark;
use tidings_gateway::log::ingest::{Answer, Ask, Info, Ingest, Step};
use tidings_gateway::log::publication::Publication;

const EPOCH: Epoch = Epoch::from_nanos(10);

fn publication(sequence: u64) -> Publication {
    Publication {
        sequence,
        time: sequence * 10,
        topic: "t".into(),
        event: None,
        data: Bytes::from_static(b"x"),
        marker: false,
        unrouted: false,
    }
}

/// What a stream, its replicas and its live messages can do to the machine.
#[derive(Clone, Debug)]
enum Act {
    Publish,
    /// Publishes, and the live copy is lost.
    Lose,
    /// Publishes, and the live copy comes later.
    Delay,
    /// The oldest delayed copy comes now.
    Arrive,
    /// The last live copy comes again.
    Repeat,
    Delete(prop::sample::Index),
    Purge,
    /// The open question is answered by a replica that lags by so many messages, or by the leader.
    Answer(u64),
    Fail,
    Break,
    Interrupt,
    Reconnect,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Publish),
        2 => Just(Act::Lose),
        2 => Just(Act::Delay),
        2 => Just(Act::Arrive),
        1 => Just(Act::Repeat),
        1 => any::<prop::sample::Index>().prop_map(Act::Delete),
        1 => Just(Act::Purge),
        8 => (0u64..4).prop_map(Act::Answer),
        1 => Just(Act::Fail),
        1 => Just(Act::Break),
        1 => Just(Act::Interrupt),
        1 => Just(Act::Reconnect),
    ]
}

struct Stream {
    stored: BTreeMap<u64, Publication>,
    last: u64,
}

impl Stream {
    fn answer(&self, ask: Ask, lag: u64) -> Answer {
        let visible = |p: &&Publication| p.sequence + lag <= self.last;
        match ask {
            Ask::Info => Answer::Info(Info {
                epoch: EPOCH,
                first: self.stored.keys().next().copied().unwrap_or(self.last + 1),
                last: self.last,
                last_time: self.last * 10,
                heard: Some(Duration::ZERO),
                unrouted: false,
            }),
            Ask::Later { than } => Answer::Leader(self.stored.values().find(|p| p.time > than).cloned()),
            Ask::Leader { from } => Answer::Leader(self.stored.range(from..).next().map(|(_, p)| p.clone())),
            Ask::Batch { from, .. } => {
                let all: Vec<_> = self.stored.range(from..).map(|(_, p)| p).filter(visible).cloned().collect();
                Answer::Batch { more: all.len() > 3, messages: all.into_iter().take(3).collect() }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_every_message_that_stays_is_appended_once_and_in_order(
        acts in prop::collection::vec(act(), 1..120)
    ) {
        let mut now = Instant::now();
        let head = Mark { sequence: 10, stamp: Some(Stamp::from_millis(100)) };
        let mut ingest = Ingest::new(EPOCH, head, 100, true, 1000, now);
        let mut steps = Vec::new();
        let mut stream = Stream { stored: [(10, publication(10))].into(), last: 10 };
        let mut deleted = BTreeSet::new();
        let removed = acts.iter().any(|act| matches!(act, Act::Delete(_) | Act::Purge));
        let reconnected = acts.iter().any(|act| matches!(act, Act::Reconnect));
        let (mut delayed, mut latest) = (std::collections::VecDeque::new(), None::<u64>);
        for act in acts {
            now += Duration::from_millis(20);
            match act {
                Act::Publish | Act::Lose | Act::Delay => {
                    stream.last += 1;
                    stream.stored.insert(stream.last, publication(stream.last));
                    match act {
                        Act::Publish => { latest = Some(stream.last); ingest.live(publication(stream.last), now, &mut steps) }
                        Act::Delay => delayed.push_back(stream.last),
                        _ => {}
                    }
                }
                Act::Arrive => if let Some(sequence) = delayed.pop_front() { ingest.live(publication(sequence), now, &mut steps) },
                Act::Repeat => if let Some(sequence) = latest { ingest.live(publication(sequence), now, &mut steps) },
                Act::Delete(which) => {
                    let keys: Vec<_> = stream.stored.keys().copied().collect();
                    if !keys.is_empty() {
                        stream.stored.remove(which.get(&keys));
                        deleted.insert(*which.get(&keys));
                    }
                }
                Act::Purge => stream.stored.clear(),
                Act::Interrupt => ingest.interrupted(now),
                Act::Reconnect => ingest.reconnected(now),
                Act::Answer(_) | Act::Fail | Act::Break => if let Some(ask) = ingest.ask(now) {
                    let answer = match act {
                        Act::Answer(lag) => stream.answer(ask, lag),
                        Act::Fail => Answer::Unavailable,
                        _ => Answer::Broken,
                    };
                    ingest.answer(answer, now, &mut steps);
                },
            }
        }
        let remaining: Vec<u64> = stream.stored.keys().copied().collect();
        for _ in 0..400 {
            let Some(at) = ingest.wake_at(now) else { break };
            now = now.max(at);
            if let Some(ask) = ingest.ask(now) {
                ingest.answer(stream.answer(ask, 0), now, &mut steps);
            }
        }
        prop_assert!(!ingest.is_waiting());
        let (mut appended, mut told, mut head, mut reset) = (Vec::new(), BTreeSet::new(), 10, 10);
        for step in steps.drain(..) {
            match step {
                Step::Append(publication) => {
                    head = publication.sequence;
                    appended.push(head);
                }
                Step::Skip(to) => head = to.sequence,
                Step::Expired(to) => {
                    told.extend(head + 1..=to.sequence);
                    head = to.sequence;
                }
                // Behind a reconnect, with the message at the head gone, nothing proves that the stream is the same. What lies
                // up to here is then read by the subscribers, and they are told.
                Step::Reset { epoch, head: end, .. } => {
                    prop_assert!(epoch == EPOCH && removed && reconnected, "a reset without a reason");
                    told.extend(11..=end.sequence);
                    (head, reset) = (end.sequence, end.sequence);
                }
                Step::Jump(_) => prop_assert!(false, "it is never so far behind"),
            }
        }
        prop_assert!(appended.is_sorted_by(|a, b| a < b), "{:?}", appended);
        prop_assert!(remaining.iter().all(|s| *s <= reset || appended.contains(s)), "{:?} of {:?}", appended, remaining);
        // What was purged before it was seen is announced; what was deleted alone need not be.
        let silent: Vec<u64> = (11..=stream.last)
            .filter(|s| !appended.contains(s) && !told.contains(s) && !deleted.contains(s))
            .collect();
        prop_assert!(silent.is_empty(), "lost silently: {:?}", silent);
    }
}
