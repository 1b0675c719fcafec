//! Readers that do not read: they cost a bounded amount of memory and nobody else's time, and lose nothing.

use tidings_tests::installation::Installation;
use tidings_tests::manifest::Manifest;
use tidings_tests::sse::{Item, Parser};
use tidings_tests::wait::{PATIENCE, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Opens a stream with a small receive buffer and reads nothing but its head.
async fn stopped(site: &Installation, channel: &Manifest) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(site.gateways[0].address()).await.expect("the gateway listens");
    let head = format!("GET {} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n", channel.path());
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut first = [0; 1];
    within(PATIENCE, "the head", stream.read_exact(&mut first)).await.expect("an answer");
    stream
}

#[tokio::test]
async fn stopped_readers_cost_bounded_memory_and_get_everything_when_they_go_on() {
    const READERS: usize = 50;
    const EVENTS: u64 = 1_500;
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("large").with("events/heartbeatSeconds", 1)).await;
    let mut quick = site.subscribe(0, &channel, &[]).await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(stopped(&site, &channel).await);
    }
    site.subscribers(0, READERS as u32 + 1).await;
    let before = site.gateways[0].process().memory();
    let padding = "x".repeat(16 << 10);
    // 24 MiB: more than the Log holds and more than kernels buffer for any of them.
    let data: Vec<String> = (0..EVENTS).map(|n| format!("{n} {padding}")).collect();
    site.publisher(&channel).await.fill_with("a", data.iter().cloned()).await;
    assert!(quick.take(data.len()).await.iter().zip(&data).all(|(event, data)| event.data == *data));
    let grown = site.gateways[0].process().memory().saturating_sub(before);
    // All of it for each of them would be 1.2 GB; the Log and what is read again have 8 MiB and some.
    assert!(grown < 200 << 20, "{} MiB for {READERS} stopped readers", grown >> 20);

    for stream in readers.iter_mut().take(3) {
        let mut parser = Parser::new("");
        let mut buffer = vec![0; 64 << 10];
        let mut received = 0;
        // The head of the response passes for lines that say nothing.
        while received < data.len() {
            let read = within(PATIENCE, "more", stream.read(&mut buffer)).await.expect("it goes on");
            assert!(read > 0, "the stream ended after {received} events");
            for item in parser.feed(&buffer[..read]) {
                if let Item::Event(event) = item {
                    assert!(event.data == data[received], "event {received} is {:.40}", event.data);
                    received += 1;
                }
            }
        }
    }
    drop(readers);
    eventually(PATIENCE, "the gateway notices that they are gone", || async {
        site.gateways[0].metrics().await.sum("tidings_subscribers") == 1.0
    })
    .await;
}
