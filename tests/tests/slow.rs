//! Readers that do not read: they cost a bounded amount of memory and nobody else's time, and lose nothing.

use tidings_tests::h2_frames::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, RawH2, SETTINGS, WINDOW_UPDATE, block, frame,
};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::line::Line;
use tidings_tests::manifest::Manifest;
use tidings_tests::on_every_side;
use tidings_tests::side::Side;
use tidings_tests::sse::{Item, Parser};
use tidings_tests::wait::{PATIENCE, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// A subscriber that reads only when it is told to.
enum Reader {
    Http1(Line),
    Http2(RawH2<Line>),
}

/// What stops a reader's stream.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    /// Its socket, which is full.
    Socket,
    /// The windows of HTTP/2, which are left as they are: 64 KiB.
    Window,
}

const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = (1 << 16) - 1;

impl Reader {
    /// Opens a stream with a small receive buffer and reads nothing but its head.
    async fn stopped(site: &Installation, channel: &Manifest, side: Side, stop: Stop) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let socket = socket.connect(site.gateways[0].address()).await.expect("the gateway listens");
        let protocol = if side == Side::H2 { "h2" } else { "http/1.1" };
        let mut line = site.gateways[0].line(socket, protocol).await;
        if side != Side::H2 {
            let head = format!("GET {} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n", channel.path());
            line.write_all(head.as_bytes()).await.expect("sent");
            let mut first = [0; 1];
            within(PATIENCE, "the head", line.read_exact(&mut first)).await.expect("an answer");
            return Self::Http1(line);
        }
        let mut h2 = RawH2::over(line).await.expect("sent");
        if stop == Stop::Socket {
            // SETTINGS_INITIAL_WINDOW_SIZE, and the connection's own.
            let settings = [&[0, 4][..], &LARGEST_WINDOW.to_be_bytes()].concat();
            h2.send(&frame(SETTINGS, 0, 0, &settings)).await.expect("sent");
            let more = LARGEST_WINDOW - FIRST_WINDOW;
            h2.send(&frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes())).await.expect("sent");
        }
        let fields = block("GET", &channel.path(), &[("accept", "text/event-stream")]);
        h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)).await.expect("sent");
        while within(PATIENCE, "the head", h2.next()).await.expect("an answer").0 != HEADERS {}
        Self::Http2(h2)
    }

    /// Reads on. The head of an HTTP/1.1 response comes along; it passes for lines that say nothing.
    async fn more(&mut self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Http1(line) => {
                let mut buffer = Vec::with_capacity(64 << 10);
                line.read_buf(&mut buffer).await?;
                Ok(buffer)
            }
            Self::Http2(h2) => loop {
                match h2.next().await? {
                    (DATA, _, payload) => {
                        let taken = (payload.len() as u32).to_be_bytes();
                        let updates = [0, 1].map(|stream| frame(WINDOW_UPDATE, 0, stream, &taken));
                        h2.send(&updates.concat()).await?;
                        return Ok(payload);
                    }
                    (kind @ (SETTINGS | PING), 0, payload) => {
                        let payload = if kind == PING { payload.as_slice() } else { &[] };
                        h2.send(&frame(kind, ACK, 0, payload)).await?;
                    }
                    (RST_STREAM, ..) => return Ok(Vec::new()),
                    _ => {}
                }
            },
        }
    }
}

async fn stopped_readers_cost_bounded_memory_and_get_everything_when_they_go_on(side: Side) {
    const READERS: usize = 50;
    const EVENTS: u64 = 1_500;
    // They stand still for as long as this machine needs.
    let site = Settings::on(side).gateway_arg("--write-timeout=10m").start().await;
    let channel = site.channel(Manifest::public("large").with("events/heartbeatSeconds", 1)).await;
    let mut quick = site.subscribe(0, &channel, &[]).await;
    let mut readers = Vec::new();
    for number in 0..READERS {
        let stop = if number % 2 == 0 { Stop::Socket } else { Stop::Window };
        readers.push(Reader::stopped(&site, &channel, side, stop).await);
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

    for reader in readers.iter_mut().take(4) {
        let mut parser = Parser::new("");
        let mut received = 0;
        while received < data.len() {
            let read = within(PATIENCE, "more", reader.more()).await.expect("it goes on");
            assert!(!read.is_empty(), "the stream ended after {received} events");
            for item in parser.feed(&read) {
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

async fn a_reader_that_takes_nothing_for_too_long_ends_with_its_reason(side: Side) {
    const EVENTS: usize = 300;
    let site = Settings::on(side).gateway_arg("--write-timeout=2s").start().await;
    let channel = site.channel(Manifest::public("large").with("events/heartbeatSeconds", 1)).await;
    let mut quick = site.subscribe(0, &channel, &[]).await;
    let mut stopped = Vec::new();
    for stop in [Stop::Socket, Stop::Window] {
        stopped.push(Reader::stopped(&site, &channel, side, stop).await);
    }
    site.subscribers(0, 3).await;
    let padding = "x".repeat(16 << 10);
    // 4.8 MiB: more than the kernels hold for any of them.
    let data: Vec<String> = (0..EVENTS).map(|n| format!("{n} {padding}")).collect();
    site.publisher(&channel).await.fill_with("a", data.iter().cloned()).await;
    site.subscribers(0, 1).await;
    let metrics = site.gateways[0].metrics().await;
    assert_eq!(metrics.sum_where("tidings_streams_closed_total", &["reason=\"slow\""]), 2.0);
    // Who reads has everything, and stays.
    assert!(quick.take(data.len()).await.iter().zip(&data).all(|(event, data)| event.data == *data));
    let last = site.publisher(&channel).await.publish("a", "still here").await;
    quick.reaches(last).await;
    // What the stopped ones find when they read on ends.
    for mut reader in stopped {
        let ended = async { while reader.more().await.is_ok_and(|read| !read.is_empty()) {} };
        within(PATIENCE, "the end of a stopped reader's stream", ended).await;
    }
}

on_every_side! {
    a_reader_that_takes_nothing_for_too_long_ends_with_its_reason,
    stopped_readers_cost_bounded_memory_and_get_everything_when_they_go_on,
}
