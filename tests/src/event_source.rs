//! A client like the browser's `EventSource` that writes down everything: it reconnects after the announced delay with
//! `Last-Event-ID`, gives up where browsers do, and may be told several addresses, as behind a load balancer. Of the ids it
//! remembers those that Firefox and WebKit do: [`crate::sse`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tidings_crds::position::Position;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::sse::{Event, Item, Parser};
use crate::tls::TlsClient;
use crate::wait::PATIENCE;
use crate::web::{Protocol, Request};

/// How a client behaves.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where to connect: the first at first, the next after every failure.
    pub urls: Vec<String>,
    /// Headers of every request, as in `("authorization", "Bearer …")`.
    pub headers: Vec<(String, String)>,
    /// Sent as `Last-Event-ID` on the first connection.
    pub last_event_id: Option<String>,
    /// Which HTTP is spoken.
    pub protocol: Protocol,
    /// How TLS is spoken where a URL says `https`.
    pub tls: Option<TlsClient>,
    /// How long to wait before a reconnection; absent means what the stream announced, 3 s before it did.
    pub delay: Option<Duration>,
}

/// One thing that happened to a client.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was noticed.
    pub at: Instant,
    /// What.
    pub what: Happening,
}

/// What can happen to a client.
#[derive(Clone, Debug)]
pub enum Happening {
    /// It is about to connect, with this `Last-Event-ID` (empty: none).
    Connecting(String),
    /// An event stream was opened.
    Open(HeaderMap),
    /// An event.
    Event(Event),
    /// An event `tidings.position`, with its id.
    Checkpoint(String),
    /// A block without data: an empty event in several libraries, and an id in it would be forgotten.
    Blank,
    /// A comment.
    Comment(String),
    /// A reconnection time, in milliseconds.
    Retry(u64),
    /// The stream ended: cleanly, or by a broken connection.
    End {
        /// Whether the response was complete.
        clean: bool,
    },
    /// No connection, or no answer on it.
    Unreachable(String),
    /// An answer that ends an `EventSource` for good: any status but 200, or another content type.
    Refused {
        /// The status.
        status: u16,
    },
}

/// Everything that happened, in order.
pub type Record = Vec<Entry>;

/// A running client. Dropping it closes the connection.
#[derive(Debug)]
pub struct EventSource {
    record: watch::Receiver<Record>,
    interrupt: Arc<Notify>,
    task: JoinHandle<()>,
    /// How much of the record the `next_…` methods have passed.
    seen: usize,
}

// === impl Settings ===

impl Settings {
    /// A client of this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self { urls: vec![url.into()], ..Self::default() }
    }

    /// A client of several addresses, tried in turn.
    pub fn any_of(urls: impl IntoIterator<Item = String>) -> Self {
        Self { urls: urls.into_iter().collect(), ..Self::default() }
    }

    /// With a position to resume from.
    pub fn after(mut self, id: impl Into<String>) -> Self {
        self.last_event_id = Some(id.into());
        self
    }

    /// With a header on every request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Over this protocol.
    pub fn over(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// With this TLS, if there is any, where a URL says `https`.
    pub fn secured(mut self, tls: Option<&TlsClient>) -> Self {
        self.tls = tls.cloned();
        self
    }

    /// With a delay of its own before it reconnects, instead of the announced one.
    pub fn reconnect_after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Connects.
    pub fn open(self) -> EventSource {
        let (writer, record) = watch::channel(Vec::new());
        let interrupt = Arc::new(Notify::new());
        let client = Client { settings: self, writer, interrupt: Arc::clone(&interrupt), delay: 3_000 };
        EventSource { record, interrupt, task: tokio::spawn(client.run()), seen: 0 }
    }
}

// === impl EventSource ===

impl EventSource {
    /// Connects to `url`.
    pub fn open(url: impl Into<String>) -> Self {
        Settings::new(url).open()
    }

    /// What has happened so far.
    pub fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Event> {
        events(&self.record.borrow())
    }

    /// The id a reconnection would send now; empty if none.
    pub fn last_id(&self) -> String {
        last_id(&self.record.borrow())
    }

    /// Waits until the record says something.
    ///
    /// # Panics
    /// At the deadline, or when the client was refused and nothing more can come.
    pub async fn wait_for<T>(&self, what: &str, mut read: impl FnMut(&Record) -> Option<T>) -> T {
        let mut record = self.record.clone();
        let waiting = async {
            loop {
                if let Some(value) = read(&record.borrow_and_update()) {
                    return Some(value);
                }
                if record.changed().await.is_err() {
                    return read(&record.borrow());
                }
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Some(value)) => value,
            Ok(None) => panic!("{what}: the client has given up:\n{}", self.tail()),
            Err(_) => panic!("{what}: not within {PATIENCE:?}:\n{}", self.tail()),
        }
    }

    /// The next thing of a kind, behind what earlier calls have returned.
    pub async fn next<T>(&mut self, what: &str, pick: impl Fn(&Happening) -> Option<T>) -> T {
        let seen = self.seen;
        let (at, value) = self
            .wait_for(what, |record| {
                let rest = record.iter().enumerate().skip(seen);
                rest.filter_map(|(at, entry)| Some((at, pick(&entry.what)?))).next()
            })
            .await;
        self.seen = at + 1;
        value
    }

    /// The next event.
    pub async fn next_event(&mut self) -> Event {
        self.next("an event", |happening| match happening {
            Happening::Event(event) => Some(event.clone()),
            _ => None,
        })
        .await
    }

    /// The next checkpoint's id.
    pub async fn next_checkpoint(&mut self) -> String {
        self.next("a checkpoint", |happening| match happening {
            Happening::Checkpoint(id) => Some(id.clone()),
            _ => None,
        })
        .await
    }

    /// The next opened stream's headers.
    pub async fn next_open(&mut self) -> HeaderMap {
        self.next("an open stream", |happening| match happening {
            Happening::Open(headers) => Some(headers.clone()),
            _ => None,
        })
        .await
    }

    /// The next end of a stream, and whether it was clean.
    pub async fn next_end(&mut self) -> bool {
        self.next("the end of the stream", |happening| match happening {
            Happening::End { clean } => Some(*clean),
            _ => None,
        })
        .await
    }

    /// The status that the client was refused with.
    pub async fn refused(&mut self) -> u16 {
        self.next("a refusal", |happening| match happening {
            Happening::Refused { status } => Some(*status),
            _ => None,
        })
        .await
    }

    /// The next `count` events.
    pub async fn take(&mut self, count: usize) -> Vec<Event> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            taken.push(self.next_event().await);
        }
        taken
    }

    /// Waits until the client knows that it stands at `sequence` or behind it.
    pub async fn reaches(&self, sequence: u64) {
        let what = format!("the client reaches sequence {sequence}");
        self.wait_for(&what, |record| (sequence_of(&last_id(record))? >= sequence).then_some(())).await;
    }

    /// Breaks the connection as a network would; the client reconnects by itself.
    pub fn interrupt(&self) {
        self.interrupt.notify_one();
    }

    /// Closes the connection and returns what happened.
    pub fn close(self) -> Record {
        self.task.abort();
        self.record()
    }

    /// The last entries, for messages.
    pub fn tail(&self) -> String {
        let record = self.record.borrow();
        let skipped = record.len().saturating_sub(20);
        let lines = record.iter().skip(skipped).map(|entry| {
            let line = format!("{:?}", entry.what);
            line.chars().take(300).collect::<String>()
        });
        std::iter::once(format!("({skipped} entries before)")).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            eprintln!("--- a client's record:\n{}\n---", self.tail());
        }
    }
}

/// The events of a record.
pub fn events(record: &Record) -> Vec<Event> {
    record
        .iter()
        .filter_map(|entry| match &entry.what {
            Happening::Event(event) => Some(event.clone()),
            _ => None,
        })
        .collect()
}

/// The last id of a record; empty if none.
pub fn last_id(record: &Record) -> String {
    let ids = record.iter().rev().filter_map(|entry| match &entry.what {
        Happening::Event(event) => Some(&event.id),
        Happening::Checkpoint(id) => Some(id),
        _ => None,
    });
    ids.map(String::as_str).next().unwrap_or_default().to_owned()
}

/// The sequence in an id; `None` if it is no position.
pub fn sequence_of(id: &str) -> Option<u64> {
    id.parse().ok().map(|position: Position| position.sequence)
}

struct Client {
    settings: Settings,
    writer: watch::Sender<Record>,
    interrupt: Arc<Notify>,
    delay: u64,
}

impl Client {
    async fn run(mut self) {
        let mut last_id = self.settings.last_event_id.clone().unwrap_or_default();
        let urls = self.settings.urls.clone();
        for url in urls.iter().cycle() {
            self.write(Happening::Connecting(last_id.clone()));
            match self.connect(url, &last_id).await {
                Ok(response) if is_event_stream(&response) => {
                    self.write(Happening::Open(response.headers().clone()));
                    last_id = self.read(response.into_body(), last_id).await;
                }
                Ok(response) => return self.write(Happening::Refused { status: response.status().as_u16() }),
                Err(error) => self.write(Happening::Unreachable(error)),
            }
            tokio::time::sleep(self.settings.delay.unwrap_or(Duration::from_millis(self.delay))).await;
        }
    }

    async fn connect(&self, url: &str, last_id: &str) -> Result<http::Response<Incoming>, String> {
        let request = Request::get(url).over(self.settings.protocol).secured(self.settings.tls.as_ref());
        let request = request.header("accept", "text/event-stream");
        let request = self.settings.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = if last_id.is_empty() { request } else { request.header("last-event-id", last_id) };
        request.open().await.map_err(|error| format!("{error:?}"))
    }

    async fn read(&mut self, mut body: Incoming, last_id: String) -> String {
        let interrupt = Arc::clone(&self.interrupt);
        let mut parser = Parser::new(last_id);
        let clean = loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = interrupt.notified() => break false,
            };
            match frame {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => {
                    let items = parser.feed(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
                    self.write_all(items);
                }
            }
        };
        self.write(Happening::End { clean });
        parser.last_id().to_owned()
    }

    fn write_all(&mut self, items: Vec<Item>) {
        let at = Instant::now();
        let entries = items.into_iter().map(|item| match item {
            Item::Event(event) => Happening::Event(event),
            Item::Checkpoint(id) => Happening::Checkpoint(id),
            Item::Blank => Happening::Blank,
            Item::Comment(text) => Happening::Comment(text),
            Item::Retry(milliseconds) => {
                self.delay = milliseconds;
                Happening::Retry(milliseconds)
            }
        });
        let entries: Vec<Entry> = entries.map(|what| Entry { at, what }).collect();
        self.writer.send_modify(|record| record.extend(entries));
    }

    fn write(&self, what: Happening) {
        self.writer.send_modify(|record| record.push(Entry { at: Instant::now(), what }));
    }
}

/// Whether a browser would take an answer for an event stream.
pub fn is_event_stream(response: &http::Response<Incoming>) -> bool {
    let content_type = response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    response.status() == 200
        && content_type.is_some_and(|text| text.split(';').next().map(str::trim) == Some("text/event-stream"))
}
