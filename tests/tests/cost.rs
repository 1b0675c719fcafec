//! What a delivery and a connect cost, in numbers that do not depend on how busy the machine is: writes and bytes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tidings_tests::installation::Installation;
use tidings_tests::line::Line;
use tidings_tests::manifest::Manifest;
use tidings_tests::segments::Received;
use tidings_tests::side::Side;
use tidings_tests::wait::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SUBSCRIBERS: u64 = 200;
const PUBLICATIONS: u64 = 50;

/// The longest silence that a channel may have, in seconds: no heartbeat comes between.
const QUIET: u32 = 300;

/// What TLS 1.3 adds to a record (RFC 8446, section 5.2): header, type and tag.
const RECORD: u64 = 5 + 1 + 16;

/// A gateway with a channel.
struct Site {
    installation: Installation,
    channel: Manifest,
    /// The sockets of all connections, beside whoever reads them.
    sockets: Mutex<Vec<OwnedFd>>,
}

/// What all subscribers have received together.
#[derive(Debug, Default)]
struct Tally {
    bytes: AtomicU64,
    events: AtomicU64,
    open: AtomicU64,
}

// === impl Site ===

impl Site {
    async fn on(side: Side) -> Self {
        let installation = Installation::on(side).await;
        let channel = installation.channel(Manifest::public("orders").with("events/heartbeatSeconds", QUIET)).await;
        Self { installation, channel, sockets: Mutex::default() }
    }

    async fn request(&self) -> Line {
        let gateway = &self.installation.gateways[0];
        let socket = TcpStream::connect(gateway.address()).await.expect("the gateway listens");
        self.sockets.lock().unwrap().push(socket.as_fd().try_clone_to_owned().expect("a second descriptor"));
        let mut socket = gateway.line(socket, "http/1.1").await;
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", self.channel.path());
        socket.write_all(head.as_bytes()).await.expect("sent");
        socket
    }

    async fn crowd(&self, tally: &Arc<Tally>) -> JoinSet<()> {
        let mut streams = JoinSet::new();
        for _ in 0..SUBSCRIBERS {
            streams.spawn(subscribe(self.request().await, tally.clone()));
        }
        reaches("the streams are open", &tally.open, SUBSCRIBERS).await;
        streams
    }

    fn received(&self) -> Vec<Received> {
        self.sockets.lock().unwrap().iter().map(|socket| Received::on(socket).expect("it is open")).collect()
    }

    /// Delivers everything to everybody. A delivery is one write, of the frame and `around` bytes.
    async fn deliver(&self, around: u64) {
        let tally = Arc::new(Tally::default());
        let _streams = self.crowd(&tally).await;
        let publisher = self.installation.publisher(&self.channel).await;
        let (before, read) = (self.received(), tally.bytes.load(Relaxed));
        for n in 1..=PUBLICATIONS {
            publisher.publish("a", format!("{n:0100}")).await;
            reaches("everybody has received it", &tally.events, n * SUBSCRIBERS).await;
        }
        let received: Received = self.received().iter().zip(&before).map(|(now, before)| now.since(*before)).sum();
        let read = tally.bytes.load(Relaxed) - read;
        let deliveries = PUBLICATIONS * SUBSCRIBERS;
        eprintln!("{received:?} for {deliveries} deliveries");
        assert_eq!((received.segments, received.bytes), (deliveries, read + around * deliveries));
        assert!(read <= deliveries * 160, "{} bytes for an event of 100", read / deliveries);
    }

    /// Opens streams one after the other. Returns how many writes each took.
    async fn connect(&self) -> u64 {
        let tally = Arc::new(Tally::default());
        let mut streams = JoinSet::new();
        for n in 1..=SUBSCRIBERS {
            streams.spawn(subscribe(self.request().await, tally.clone()));
            reaches("the stream is open", &tally.open, n).await;
        }
        let writes: Vec<u64> = self.received().iter().map(|received| received.segments).collect();
        assert!(writes.iter().all(|one| *one == writes[0]), "{writes:?}");
        writes[0]
    }
}

/// Reads one stream for as long as it lasts. Its events are few and small, and come one at a time: none is split.
async fn subscribe(mut socket: Line, tally: Arc<Tally>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = socket.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..read]);
        if text.contains("HTTP/1.1 200") {
            tally.open.fetch_add(1, Relaxed);
        } else {
            tally.bytes.fetch_add(read as u64, Relaxed);
            tally.events.fetch_add(text.matches("data: ").count() as u64, Relaxed);
        }
        if read == 0 {
            return;
        }
    }
}

async fn reaches(what: &str, count: &AtomicU64, wanted: u64) {
    eventually(PATIENCE, what, || {
        let now = count.load(Relaxed);
        std::future::ready((now >= wanted).then_some(()).ok_or(now))
    })
    .await;
}

#[tokio::test]
async fn an_event_leaves_in_one_write_and_nothing_but_its_frame() {
    Site::on(Side::Http1).await.deliver(0).await;
}

#[tokio::test]
async fn an_event_leaves_over_tls_in_one_write_and_one_record() {
    Site::on(Side::Tls).await.deliver(RECORD).await;
}

#[tokio::test]
async fn a_connect_takes_one_write() {
    assert_eq!(Site::on(Side::Http1).await.connect().await, 1);
}

#[tokio::test]
async fn a_connect_over_tls_takes_three_writes() {
    // The server's flight, the tickets to resume with, and the head.
    assert_eq!(Site::on(Side::Tls).await.connect().await, 3);
}
