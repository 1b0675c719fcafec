//! Ten thousand subscribers on one gateway: everybody receives everything. Prints what it costs; fails on completeness alone,
//! and on memory that is not given back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidings_tests::installation::{Installation, Settings};
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::manifest::Manifest;
use tidings_tests::tls::{TlsClient, TlsFolder};
use tidings_tests::wait::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SUBSCRIBERS: usize = 10_000;
const PUBLICATIONS: u64 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// What all subscribers have seen together.
#[derive(Debug, Default)]
struct Tally {
    /// Streams whose first block has arrived.
    open: AtomicUsize,
    /// Events in order and without a hole.
    events: AtomicU64,
    /// What came instead of the next event.
    faults: AtomicUsize,
}

/// A subscriber that is nothing but a socket: reads events and compares each with the one that must come next.
async fn subscribe(gateway: SocketAddr, path: String, tally: Arc<Tally>) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(gateway).await?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {gateway}\r\nAccept: text/event-stream\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    let mut unread: Vec<u8> = Vec::new();
    let mut next = 0u64;
    let mut open = false;
    let mut buffer = [0; 2048];
    loop {
        let count = socket.read(&mut buffer).await?;
        if count == 0 {
            tally.faults.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        unread.extend_from_slice(&buffer[..count]);
        let mut start = 0;
        while let Some(length) = unread[start..].iter().position(|byte| *byte == b'\n') {
            let line = &unread[start..start + length];
            if let Some(data) = line.strip_prefix(b"data: ") {
                if std::str::from_utf8(data).ok().and_then(|text| text.parse().ok()) == Some(next) {
                    next += 1;
                    tally.events.fetch_add(1, Ordering::Relaxed);
                } else {
                    tally.faults.fetch_add(1, Ordering::Relaxed);
                }
            } else if !open && line.starts_with(b"id: ") {
                open = true;
                tally.open.fetch_add(1, Ordering::Relaxed);
            }
            start += length + 1;
        }
        unread.drain(..start);
        unread.shrink_to(64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_thousand_subscribers_receive_everything() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let gateway = &site.gateways[0];
    let publisher = site.publisher(&channel).await;
    let before = gateway.process().memory();
    let cpu_before = gateway.process().cpu();
    let tally = Arc::new(Tally::default());
    let mut streams = tokio::task::JoinSet::new();
    // In steps, so that no connection is refused for a full backlog.
    for step in 0..SUBSCRIBERS / 500 {
        for _ in 0..500 {
            streams.spawn(subscribe(gateway.address(), channel.path(), tally.clone()));
        }
        let wanted = (step + 1) * 500;
        eventually(PATIENCE, "the streams are open", || {
            let open = tally.open.load(Ordering::Relaxed);
            std::future::ready((open >= wanted).then_some(()).ok_or(open))
        })
        .await;
    }
    let idle = gateway.process().memory();
    let cpu_open = gateway.process().cpu();
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(PAUSE);
    for n in 0..PUBLICATIONS {
        ticks.tick().await;
        publisher.publish("a", n.to_string()).await;
    }
    let wanted = PUBLICATIONS * SUBSCRIBERS as u64;
    eventually(PATIENCE, "everybody has received everything", || {
        let events = tally.events.load(Ordering::Relaxed);
        std::future::ready((events >= wanted).then_some(()).ok_or(events))
    })
    .await;
    let took = begun.elapsed();
    let cpu = gateway.process().cpu() - cpu_open;
    let busy = gateway.process().memory();
    assert_eq!((tally.events.load(Ordering::Relaxed), tally.faults.load(Ordering::Relaxed)), (wanted, 0));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tidings_deliveries_total"), wanted as f64);
    assert_eq!(metrics.sum("tidings_gaps_total"), 0.0);
    println!(
        "{SUBSCRIBERS} subscribers: {} B each when idle, {} B when busy; {:.1} µs of CPU a connect, {:.2} µs a delivery; \
         {wanted} deliveries in {:.1} s",
        idle.saturating_sub(before) / SUBSCRIBERS as u64,
        busy.saturating_sub(before) / SUBSCRIBERS as u64,
        (cpu_open - cpu_before).as_secs_f64() * 1e6 / SUBSCRIBERS as f64,
        cpu.as_secs_f64() * 1e6 / wanted as f64,
        took.as_secs_f64(),
    );
    streams.abort_all();
    while streams.join_next().await.is_some() {}
    site.subscribers(0, 0).await;
}

/// A crowd on TLS, each with a stream that has begun.
async fn crowd(gateway: SocketAddr, path: &str, client: &TlsClient, size: usize) -> Vec<impl Send + use<>> {
    let mut streams = Vec::with_capacity(size);
    for _ in 0..size {
        let socket = TcpStream::connect(gateway).await.expect("the gateway listens");
        let mut session = client.connect(socket, "http/1.1").await.expect("a session");
        let head = format!("GET {path} HTTP/1.1\r\nHost: {gateway}\r\n\r\n");
        session.write_all(head.as_bytes()).await.expect("sent");
        let mut some = [0; 2048];
        assert!(session.read(&mut some).await.expect("a stream") > 0);
        streams.push(session);
    }
    streams
}

#[tokio::test]
async fn a_crowd_that_has_left_takes_its_memory_along() {
    // 8 kB each, and what their handshakes needed: without being told, the allocator keeps nearly all of it.
    const CROWD: usize = 3_000;
    const KEPT: u64 = 10 << 20;
    let authority = KubeAuthority::new().expect("an authority");
    let (folder, client) = (TlsFolder::of(&authority), TlsClient::trusting(&authority));
    let site = Settings::default().tls(&folder, client.clone()).start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let gateway = &site.gateways[0];
    // What all share is there before.
    let few = crowd(gateway.address(), &channel.path(), &client, 10).await;
    let before = gateway.process().memory();
    let many = crowd(gateway.address(), &channel.path(), &client, CROWD).await;
    let most = gateway.process().memory();
    assert!(most > before + KEPT, "a crowd of {} bytes shows nothing", most - before);
    drop(many);
    eventually(PATIENCE, "the memory is given back", || {
        let kept = gateway.process().memory().saturating_sub(before);
        std::future::ready((kept <= KEPT).then_some(()).ok_or(kept))
    })
    .await;
    drop(few);
}
