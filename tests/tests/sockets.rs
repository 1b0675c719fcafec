//! Sockets with HTTP/1.1 on them, plain and over TLS, as odd clients use them: several requests at once, bytes that nobody
//! asked for, comings and goings in the middle of everything.

use std::ops::{Deref, DerefMut};

use tidings_tests::chunked::Decoder;
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::line::Line;
use tidings_tests::manifest::Manifest;
use tidings_tests::sse::{Item, Parser};
use tidings_tests::tls::{TlsClient, TlsFolder};
use tidings_tests::wait::{PATIENCE, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// One gateway, and how it is spoken to.
struct Site {
    installation: Installation,
    tls: Option<(TlsClient, TlsFolder)>,
}

/// What is between a client and the gateway.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    Tls,
    OldTls,
}

const LINES: [Between; 3] = [Between::Nothing, Between::Tls, Between::OldTls];

impl Site {
    async fn over(line: Between) -> Self {
        let authority = KubeAuthority::new().expect("an authority");
        let (folder, client) = (TlsFolder::of(&authority), TlsClient::trusting(&authority));
        let (settings, tls) = match line {
            Between::Nothing => (Settings::default(), None),
            Between::Tls => (Settings::default().tls(&folder, client.clone()), Some((client, folder))),
            Between::OldTls => (Settings::default().tls(&folder, client), Some((TlsClient::old(&authority), folder))),
        };
        Self { installation: settings.start().await, tls }
    }

    async fn connect(&self) -> Line {
        self.speak(TcpStream::connect(self.gateways[0].address()).await.expect("the gateway listens")).await
    }

    async fn speak(&self, socket: TcpStream) -> Line {
        match &self.tls {
            None => Box::new(socket),
            Some((client, _)) => Box::new(client.connect(socket, "http/1.1").await.expect("a session")),
        }
    }
}

impl Deref for Site {
    type Target = Installation;

    fn deref(&self) -> &Installation {
        &self.installation
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Installation {
        &mut self.installation
    }
}

/// Reads until the text has come.
async fn read_until(socket: &mut Line, read: &mut String, wanted: &str) {
    let mut buffer = vec![0; 64 << 10];
    while !read.contains(wanted) {
        let count = within(PATIENCE, wanted, socket.read(&mut buffer)).await.expect("it goes on");
        assert!(count > 0, "the end instead of {wanted:?} after {read}");
        read.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

fn subscription(channel: &Manifest) -> String {
    format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", channel.path())
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order_before_the_stream() {
    for line in LINES {
        let site = Site::over(line).await;
        let channel = site.channel(Manifest::public("orders")).await;
        let mut socket = site.connect().await;
        let elsewhere = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n";
        let requests = format!("{elsewhere}{elsewhere}{}{elsewhere}", subscription(&channel));
        socket.write_all(requests.as_bytes()).await.expect("sent");
        let mut read = String::new();
        read_until(&mut socket, &mut read, "id: ").await;
        site.publisher(&channel).await.publish("a", "first").await;
        read_until(&mut socket, &mut read, "data: first\nid: ").await;
        let statuses: Vec<_> = read.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
        assert_eq!(statuses, ["404 Not Found", "404 Not Found", "200 OK"], "{read}");
    }
}

#[tokio::test]
async fn a_stream_begins_behind_answers_that_the_client_was_slow_to_read() {
    for line in LINES {
        const REQUESTS: usize = 3_000;
        let site = Site::over(line).await;
        let channel = site.channel(Manifest::public("orders")).await;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let socket = socket.connect(site.gateways[0].address()).await.expect("the gateway listens");
        let (mut receiver, mut sender) = tokio::io::split(site.speak(socket).await);
        let requests = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n".repeat(REQUESTS) + &subscription(&channel);
        // More answers than all buffers hold: they are read only while the requests are still being sent.
        let sent = tokio::spawn(async move {
            sender.write_all(requests.as_bytes()).await.expect("sent");
            sender
        });
        let mut read = Vec::new();
        let mut buffer = vec![0; 4096];
        while !read.ends_with(b"\n\n\r\n") || !read.windows(7).rev().take(400).any(|window| window == b"retry: ") {
            let count = within(PATIENCE, "the answers", receiver.read(&mut buffer)).await.expect("it goes on");
            assert!(count > 0, "the end after {} bytes", read.len());
            read.extend_from_slice(&buffer[..count]);
        }
        let read = String::from_utf8(read).expect("text");
        assert_eq!(read.matches("HTTP/1.1 404").count(), REQUESTS);
        let (before, stream) = read.split_once("HTTP/1.1 200 OK").expect("the stream's head");
        assert!(before.ends_with("}\n"), "the last refusal is whole");
        assert!(!stream.contains("HTTP/1.1"), "{stream}");
        assert!(stream.contains("\r\nretry: 3000\nevent: tidings.position\ndata:\nid: "), "{stream}");
        drop(sent.await.expect("sent"));
    }
}

#[tokio::test]
async fn bytes_that_nobody_reads_do_not_destroy_the_last_event() {
    for line in LINES {
        let mut site = Site::over(line).await;
        let channel = site.channel(Manifest::public("orders")).await;
        let mut socket = site.connect().await;
        socket.write_all(subscription(&channel).as_bytes()).await.expect("sent");
        let mut read = String::new();
        read_until(&mut socket, &mut read, "id: ").await;
        socket.write_all(&vec![b'x'; 32 << 10]).await.expect("sent");
        // The gateway waits until its client has closed, so both go on at the same time.
        let reading = async move {
            let mut rest = String::new();
            within(PATIENCE, "the end", socket.read_to_string(&mut rest)).await.expect("an orderly end, no reset");
            rest
        };
        let (status, rest) = tokio::join!(site.gateways[0].terminate(), reading);
        assert!(rest.contains("event: tidings.end\ndata: {\"reason\":\"shutdown\"}\nid: "), "{rest}");
        assert!(rest.ends_with("\n\n\r\n"), "a whole chunk, and not the last: the client is to come back: {rest}");
        assert!(status.is_some_and(|status| status.success()));
    }
}

/// Reads a stream until this many events have come, and returns what they say.
async fn events(mut socket: Line, count: usize) -> Vec<String> {
    let (mut parser, mut buffer, mut received) = (Parser::new(""), vec![0; 64 << 10], Vec::new());
    let mut chunks = Decoder::default();
    while received.len() < count {
        let read = within(PATIENCE, "more events", socket.read(&mut buffer)).await.expect("it goes on");
        assert!(read > 0, "the end after {} events", received.len());
        received.extend(parser.feed(&chunks.feed(&buffer[..read])).into_iter().filter_map(|item| match item {
            Item::Event(event) => Some(event.data),
            _ => None,
        }));
    }
    received
}

#[tokio::test]
async fn four_publishers_and_a_crowd_that_comes_and_goes_lose_repeat_and_reorder_nothing() {
    for line in LINES {
        const STAY: usize = 100;
        const EACH: usize = 250;
        let site = Site::over(line).await;
        let channel = site.channel(Manifest::public("orders")).await;
        let mut stay = JoinSet::new();
        for _ in 0..STAY {
            let mut socket = site.connect().await;
            socket.write_all(subscription(&channel).as_bytes()).await.expect("sent");
            // Byte by byte: nothing behind the first block is taken with it.
            let mut head = Vec::new();
            while !head.ends_with(b"\n\n\r\n") {
                head.push(within(PATIENCE, "the first block", socket.read_u8()).await.expect("a stream"));
            }
            stay.spawn(events(socket, 4 * EACH));
        }
        let mut publishing = JoinSet::new();
        for publisher in 0..4 {
            let connection = site.publisher(&channel).await;
            publishing.spawn(async move {
                for n in 0..EACH {
                    connection.publish("a", format!("{publisher} {n}")).await;
                }
            });
        }
        let mut visits = 0;
        while !publishing.is_empty() {
            // Some leave at once, some after the head, some after events; each from the middle of a sweep.
            let mut crowd = Vec::new();
            for n in 0..20 {
                let mut socket = site.connect().await;
                socket.write_all(subscription(&channel).as_bytes()).await.expect("sent");
                if n % 3 > 0 {
                    let mut some = vec![0; 100 << (n % 5)];
                    within(PATIENCE, "something", socket.read(&mut some)).await.expect("a stream");
                }
                crowd.push(socket);
            }
            visits += crowd.len();
            drop(crowd);
            while let Some(done) = publishing.try_join_next() {
                done.expect("published");
            }
        }
        let mut first: Option<Vec<String>> = None;
        while let Some(received) = stay.join_next().await {
            let received = received.expect("no reader fails");
            for publisher in 0..4 {
                let own: Vec<_> = received.iter().filter(|data| data.starts_with(&format!("{publisher} "))).collect();
                let expected: Vec<_> = (0..EACH).map(|n| format!("{publisher} {n}")).collect();
                assert!(own.into_iter().eq(&expected), "publisher {publisher} after {visits} visits");
            }
            // Stream order is the same for everybody.
            assert!(*first.get_or_insert_with(|| received.clone()) == received);
        }
        assert!(visits >= 20);
        site.subscribers(0, 0).await;
    }
}
