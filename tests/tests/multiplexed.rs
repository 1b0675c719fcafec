//! Many streams on one connection, as browsers have them over HTTP/2: what becomes of one is nothing to the others.

use std::net::Shutdown;

use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidings_tests::h2_frames::RawH2;
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::manifest::Manifest;
use tidings_tests::side::Side;
use tidings_tests::sse::{Event, Item, Parser};
use tidings_tests::wait::{PATIENCE, within};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

/// HTTP/2 by prior knowledge, and over TLS.
const SIDES: [Side; 2] = [Side::Http1, Side::H2];

/// What a stream's client takes before it reads: much less than is published.
const WINDOW: u32 = 64 << 10;

/// A connection with HTTP/2.
struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    task: JoinHandle<hyper::Result<()>>,
    /// To cut it: the client's library has the other handle.
    socket: std::net::TcpStream,
    url: String,
}

/// A stream on it.
struct Stream {
    body: Incoming,
    parser: Parser,
    unread: std::vec::IntoIter<Item>,
}

impl Connection {
    async fn open(site: &Installation) -> Self {
        let gateway = &site.gateways[0];
        let socket = TcpStream::connect(gateway.address()).await.expect("the gateway listens");
        let socket = socket.into_std().expect("a socket");
        let cut = socket.try_clone().expect("a descriptor");
        let socket = TcpStream::from_std(socket).expect("as it was");
        let io = TokioIo::new(gateway.line(socket, "h2").await);
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(64 << 20);
        let (requests, connection) = builder.handshake(io).await.expect("HTTP/2");
        Self { requests, task: tokio::spawn(connection), socket: cut, url: gateway.url() }
    }

    async fn ask(&mut self, method: Method, channel: &Manifest) -> http::Response<Incoming> {
        let request = http::Request::builder().method(method).uri(self.url.clone() + &channel.path());
        let request = request.header("accept", "text/event-stream").body(Empty::new()).expect("a plain request");
        self.requests.ready().await.expect("the connection is open");
        within(PATIENCE, "an answer", self.requests.send_request(request)).await.expect("the connection is open")
    }

    /// Opens this many streams, each with its first checkpoint read.
    async fn streams(&mut self, channel: &Manifest, count: usize) -> Vec<Stream> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let answer = self.ask(Method::GET, channel).await;
            assert_eq!(answer.status(), 200);
            let (parser, unread) = (Parser::new(""), Vec::new().into_iter());
            let mut stream = Stream { body: answer.into_body(), parser, unread };
            while !matches!(stream.next().await, Some(Ok(Item::Checkpoint(_)))) {}
            streams.push(stream);
        }
        streams
    }
}

impl Stream {
    /// What the stream says next; `None` at its end.
    async fn next(&mut self) -> Option<hyper::Result<Item>> {
        loop {
            if let Some(item) = self.unread.next() {
                return Some(Ok(item));
            }
            match within(PATIENCE, "more of the stream", self.body.frame()).await? {
                Ok(frame) => self.unread = self.parser.feed(frame.data_ref().expect("no trailers")).into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The data of the next events.
    async fn take(&mut self, count: usize) -> Vec<String> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.next().await.expect("it goes on").expect("it goes on") {
                Item::Event(event) => taken.push(event.data),
                _ => continue,
            }
        }
        taken
    }

    /// All events to the end, and whether that was a clean one.
    async fn rest(mut self) -> (Vec<Event>, bool) {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Some(Ok(Item::Event(event))) => events.push(event),
                Some(Ok(_)) => {}
                other => return (events, other.is_none()),
            }
        }
    }
}

/// What is published: several windows of it.
fn publications() -> Vec<String> {
    (0..1_000).map(|n| format!("{n} {}", "x".repeat(300))).collect()
}

#[tokio::test]
async fn a_stream_that_stops_or_leaves_costs_the_others_of_its_connection_nothing() {
    const STREAMS: usize = 20;
    for side in SIDES {
        let site = Installation::on(side).await;
        let channel = site.channel(Manifest::public("orders")).await;
        let mut connection = Connection::open(&site).await;
        let mut stopped = connection.streams(&channel, STREAMS).await;
        let leaving = connection.streams(&channel, STREAMS).await;
        let staying = connection.streams(&channel, STREAMS).await;
        site.subscribers(0, 3 * STREAMS as u32).await;

        let publisher = site.publisher(&channel).await;
        let meanwhile = tokio::spawn(async move { publisher.fill_with("a", publications()).await });
        let mut readers = JoinSet::new();
        for mut stream in staying {
            readers.spawn(async move { (stream.take(1_000).await, Some(stream)) });
        }
        for (number, mut stream) in leaving.into_iter().enumerate() {
            readers.spawn(async move { (stream.take(number * 20).await, None) });
        }
        let mut stayed = Vec::new();
        while let Some(read) = readers.join_next().await {
            let (read, stream) = read.expect("it reads");
            assert!(read == publications()[..read.len()], "in order, and once");
            stayed.extend(stream);
        }
        meanwhile.await.expect("the publisher goes on");
        site.subscribers(0, 2 * STREAMS as u32).await;

        for stream in &mut stopped {
            assert!(stream.take(1_000).await == publications(), "everything, once it reads");
        }
        drop(stopped);
        site.subscribers(0, STREAMS as u32).await;
        assert_eq!(connection.ask(Method::HEAD, &channel).await.status(), 200, "the connection is as good as new");
        site.publisher(&channel).await.publish("a", "the last").await;
        for stream in &mut stayed {
            assert_eq!(stream.take(1).await, ["the last"]);
        }
        connection.socket.shutdown(Shutdown::Both).expect("it was connected");
        site.subscribers(0, 0).await;
        for stream in stayed {
            assert!(!stream.rest().await.1, "a cut is no clean end");
        }
    }
}

#[tokio::test]
async fn a_gateway_that_leaves_ends_the_streams_of_a_connection_each_with_a_reason_and_then_the_connection() {
    for side in SIDES {
        let mut site = Settings::on(side).start().await;
        let channel = site.channel(Manifest::public("orders")).await;
        let mut connection = Connection::open(&site).await;
        let streams = connection.streams(&channel, 50).await;
        site.publisher(&channel).await.publish("a", "the last").await;
        let mut readers = JoinSet::new();
        for mut stream in streams {
            assert_eq!(stream.take(1).await, ["the last"]);
            readers.spawn(stream.rest());
        }
        let socket = TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens");
        let mut idle = RawH2::over(site.gateways[0].line(socket, "h2").await).await.expect("sent");
        idle.round_trip().await.expect("an answer");
        let goodbye = tokio::spawn(async move { idle.closed().await });
        let status = site.gateways[0].terminate().await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        assert!(within(PATIENCE, "goodbye", goodbye).await.expect("it reads"), "GOAWAY, where there is no stream");
        while let Some(read) = readers.join_next().await {
            let (events, clean) = read.expect("it reads");
            let said: Vec<_> = events.iter().map(|event| (event.event.as_str(), event.data.as_str())).collect();
            assert_eq!((said, clean), (vec![("tidings.end", "{\"reason\":\"shutdown\"}")], true));
        }
        let end = within(PATIENCE, "the end of the connection", connection.task).await.expect("it was driven");
        end.expect("no fault");
    }
}

#[tokio::test]
async fn a_stream_with_a_shut_window_does_not_keep_a_gateway_from_leaving_nor_its_neighbours_from_their_last_words() {
    for side in SIDES {
        let mut site = Settings::on(side).start().await;
        let channel = site.channel(Manifest::public("orders")).await;
        let mut connection = Connection::open(&site).await;
        let shut = connection.streams(&channel, 1).await.remove(0);
        let mut neighbour = connection.streams(&channel, 1).await.remove(0);
        site.publisher(&channel).await.fill_with("a", publications()).await;
        assert!(neighbour.take(1_000).await == publications());
        let last_words = tokio::spawn(neighbour.rest());
        let status = site.gateways[0].terminate().await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        let (events, clean) = last_words.await.expect("it reads");
        assert_eq!((events.len(), clean), (1, true));
        // It was cut off, and knows so: it resumes behind what it has.
        let (events, clean) = shut.rest().await;
        let data: Vec<String> = events.into_iter().map(|event| event.data).collect();
        assert!(data.len() < 1_000 && data == publications()[..data.len()] && !clean, "{} events", data.len());
    }
}
