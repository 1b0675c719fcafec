//! Many clients with the semantics of a browser's `EventSource`, each of which keeps a tally instead of a record: so
//! thousands fit into one small pod. `visitor` is the program around it.
//!
//! What they receive are the numbers 0, 1, 2, … in the order of their publication, so each client knows by itself what it
//! has missed, seen twice, or seen late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::event_source::is_event_stream;
use crate::sse::{Event, Item, Parser};
use crate::web::Request;

/// What a browser waits before it comes back, as long as no stream has told it otherwise.
const DEFAULT_RETRY: Duration = Duration::from_secs(3);
/// Clients that start in the same moment would be a storm, which is another test's matter.
const STARTED_AT_ONCE: usize = 50;

/// What all clients together went through so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many clients there are.
    pub clients: usize,
    /// Streams that are open now and know their position.
    pub open: usize,
    /// Streams that were opened and told a position.
    pub opened: usize,
    /// Streams that ended before they told a position: the gateway sent the client away, to come back.
    pub sent_away: usize,
    /// Attempts on which nobody answered.
    pub failed: usize,
    /// Clients that were refused for good, by status.
    pub refused: BTreeMap<u16, usize>,
    /// What ended streams, by the reason that was told.
    pub ends: BTreeMap<String, usize>,
    /// Gaps that were told.
    pub gaps: usize,
    /// Numbers that have not come, though greater ones have.
    pub lost: usize,
    /// Numbers that came again.
    pub duplicated: usize,
    /// Numbers that came after a greater one.
    pub reordered: usize,
    /// Every client has all numbers below this.
    pub complete: u64,
}

/// Running clients. Dropping this ends them.
#[derive(Debug)]
pub struct Crowd {
    clients: Vec<Arc<Mutex<Client>>>,
    _tasks: JoinSet<()>,
}

/// One client's part of the tally.
#[derive(Debug, Default)]
struct Client {
    open: bool,
    opened: usize,
    sent_away: usize,
    failed: usize,
    refused: Option<u16>,
    ends: Vec<String>,
    gaps: usize,
    duplicated: usize,
    reordered: usize,
    next: u64,
    missing: BTreeSet<u64>,
}

// === impl Crowd ===

impl Crowd {
    /// Lets this many clients send the same request.
    pub fn start(request: &Request, count: usize) -> Self {
        let clients: Vec<_> = (0..count).map(|_| Arc::default()).collect();
        let starting = Arc::new(tokio::sync::Semaphore::new(STARTED_AT_ONCE));
        let mut tasks = JoinSet::new();
        for client in &clients {
            let (client, request, starting) = (Arc::clone(client), request.clone(), Arc::clone(&starting));
            tasks.spawn(async move {
                let turn = starting.acquire_owned().await.ok();
                listen(&client, &request.header("accept", "text/event-stream"), turn).await;
            });
        }
        Self { clients, _tasks: tasks }
    }

    /// Where all of them stand.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally { clients: self.clients.len(), complete: u64::MAX, ..Tally::default() };
        for client in &self.clients {
            locked(client).add_to(&mut tally);
        }
        tally
    }
}

/// Connects, reads, and comes back, as the standard has it, until the client is refused.
async fn listen(client: &Mutex<Client>, request: &Request, mut turn: Option<tokio::sync::OwnedSemaphorePermit>) {
    let (mut last_id, mut retry) = (String::new(), DEFAULT_RETRY);
    loop {
        let resumed =
            if last_id.is_empty() { request.clone() } else { request.clone().header("last-event-id", &last_id) };
        let answer = resumed.open().await;
        drop(turn.take());
        match answer {
            Err(_) => locked(client).failed += 1,
            Ok(answer) if is_event_stream(&answer) => {
                last_id = read(client, answer.into_body(), last_id, &mut retry).await;
                locked(client).ended();
            }
            Ok(answer) => {
                locked(client).refused = Some(answer.status().as_u16());
                return;
            }
        }
        tokio::time::sleep(retry).await;
    }
}

/// Reads a stream to its end and returns the last event id.
async fn read(client: &Mutex<Client>, mut body: Incoming, last_id: String, retry: &mut Duration) -> String {
    let mut parser = Parser::new(last_id);
    while let Some(Ok(frame)) = body.frame().await {
        for item in parser.feed(frame.data_ref().map(AsRef::as_ref).unwrap_or_default()) {
            match item {
                Item::Retry(milliseconds) => *retry = Duration::from_millis(milliseconds),
                Item::Comment(_) | Item::Blank => {}
                Item::Checkpoint(_) => locked(client).stands(),
                Item::Event(event) => locked(client).received(&event),
            }
        }
    }
    parser.last_id().to_owned()
}

fn locked(client: &Mutex<Client>) -> MutexGuard<'_, Client> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Client ===

impl Client {
    /// The stream has told its position.
    fn stands(&mut self) {
        if !std::mem::replace(&mut self.open, true) {
            self.opened += 1;
        }
    }

    fn ended(&mut self) {
        if !std::mem::take(&mut self.open) {
            self.sent_away += 1;
        }
    }

    fn received(&mut self, event: &Event) {
        match event.event.as_str() {
            "tidings.end" => {
                let told: serde_json::Value = serde_json::from_str(&event.data).unwrap_or_default();
                self.ends.push(told["reason"].as_str().unwrap_or("unreadable").to_owned());
                return;
            }
            "tidings.gap" => self.gaps += 1,
            _ => {}
        }
        self.stands();
        let Ok(number) = event.data.parse::<u64>() else { return };
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
        } else if self.missing.remove(&number) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
        }
    }

    fn add_to(&self, tally: &mut Tally) {
        tally.open += usize::from(self.open);
        tally.opened += self.opened;
        tally.sent_away += self.sent_away;
        tally.failed += self.failed;
        if let Some(status) = self.refused {
            *tally.refused.entry(status).or_default() += 1;
        }
        for reason in &self.ends {
            *tally.ends.entry(reason.clone()).or_default() += 1;
        }
        tally.gaps += self.gaps;
        tally.lost += self.missing.len();
        tally.duplicated += self.duplicated;
        tally.reordered += self.reordered;
        tally.complete = tally.complete.min(self.missing.first().copied().unwrap_or(self.next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(data: &[&str]) -> Tally {
        let mut client = Client::default();
        for data in data {
            client.received(&Event { id: "a-1".into(), event: "message".into(), data: (*data).to_owned() });
        }
        let mut tally = Tally { complete: u64::MAX, ..Tally::default() };
        client.add_to(&mut tally);
        tally
    }

    #[test]
    fn what_is_lost_late_or_doubled_is_told_apart() {
        let clean = Tally { open: 1, opened: 1, complete: 3, ..Tally::default() };
        assert_eq!(after(&["0", "1", "2"]), clean);
        assert_eq!(after(&["0", "2"]), Tally { lost: 1, complete: 1, ..clean.clone() });
        assert_eq!(after(&["0", "2", "1"]), Tally { reordered: 1, ..clean.clone() });
        assert_eq!(after(&["0", "1", "1", "2"]), Tally { duplicated: 1, ..clean });
    }

    #[test]
    fn a_stream_without_a_position_was_no_stream() {
        let mut client = Client::default();
        client.ended();
        assert_eq!((client.opened, client.sent_away), (0, 1));
        client.stands();
        client.stands();
        client.ended();
        assert_eq!((client.opened, client.sent_away), (1, 1));
        let end = r#"{"reason":"shutdown"}"#;
        client.received(&Event { id: String::new(), event: "tidings.end".into(), data: end.into() });
        assert_eq!((client.ends.as_slice(), client.open), (["shutdown".to_owned()].as_slice(), false));
    }
}
