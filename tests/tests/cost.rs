//! What a delivery costs, in numbers that do not depend on how busy the machine is: system calls and bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidings_tests::installation::Installation;
use tidings_tests::manifest::Manifest;
use tidings_tests::wait::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SUBSCRIBERS: u64 = 200;
const PUBLICATIONS: u64 = 50;

/// What all subscribers have received together.
#[derive(Debug, Default)]
struct Tally {
    bytes: AtomicU64,
    events: AtomicU64,
    open: AtomicU64,
}

/// Reads one stream for as long as it lasts. Its events are few and small, and come one at a time: none is split.
async fn subscribe(mut socket: TcpStream, tally: Arc<Tally>) {
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
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let gateway = &site.gateways[0];
    let tally = Arc::new(Tally::default());
    let mut streams = JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        let mut socket = TcpStream::connect(gateway.address()).await.expect("the gateway listens");
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", channel.path());
        socket.write_all(head.as_bytes()).await.expect("sent");
        streams.spawn(subscribe(socket, tally.clone()));
    }
    reaches("the streams are open", &tally.open, SUBSCRIBERS).await;
    let publisher = site.publisher(&channel).await;
    let before = gateway.process().written();
    for n in 1..=PUBLICATIONS {
        publisher.publish("a", format!("{n:0100}")).await;
        reaches("everybody has received it", &tally.events, n * SUBSCRIBERS).await;
    }
    let (calls, bytes) = gateway.process().written().since(before);
    let deliveries = PUBLICATIONS * SUBSCRIBERS;
    // Beside the events: waking workers, questions to NATS, log lines. They do not grow with the subscribers.
    let others = 40 * PUBLICATIONS;
    assert!(calls >= deliveries, "{calls} writes were counted: not by the calls that this test knows of");
    assert!(calls <= deliveries + others, "{calls} writes for {deliveries} deliveries");
    let received = tally.bytes.load(Relaxed);
    assert!(bytes >= received && bytes <= received + 200 * others, "{bytes} bytes for {received} received");
    assert!(received <= deliveries * 160, "{} bytes for an event of 100", received / deliveries);
}
