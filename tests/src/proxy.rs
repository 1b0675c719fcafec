//! A TCP proxy in front of nats-server that tests use as a bad network: it drops, delays, reorders and forges
//! messages on their way to the client, cuts connections, and lets nothing through at all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::nats_protocol::{Decoder, Message, Operation};

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on as it is.
    Pass,
    /// It is lost.
    Drop,
    /// Other messages go on in its place, in this order.
    Replace(Vec<Message>),
    /// It goes on later; what comes behind it overtakes it.
    Delay(Duration),
}

/// Decides about each message.
pub type Tamper = Box<dyn FnMut(&Message) -> Fate + Send>;

/// The network's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Bytes flow.
    Up,
    /// Connections stay open, no byte moves, new ones get no answer.
    Silent,
    /// Connections are closed, new ones too.
    Down,
}

/// A proxy in front of one server. Dropping it closes everything.
pub struct Proxy {
    address: SocketAddr,
    tamper: Arc<Mutex<Option<Tamper>>>,
    link: watch::Sender<Link>,
    accept: JoinHandle<()>,
}

// === impl Proxy ===

impl Proxy {
    /// Starts one in front of `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let tamper = Arc::new(Mutex::new(None));
        let (link, state) = watch::channel(Link::Up);
        let accept = tokio::spawn(accept(listener, upstream, Arc::clone(&tamper), state));
        Self { address, tamper, link, accept }
    }

    /// The URL that clients connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on, `tamper` decides about every message to a client.
    pub fn tamper(&self, tamper: impl FnMut(&Message) -> Fate + Send + 'static) {
        *self.tamper.lock().expect("no holder panics") = Some(Box::new(tamper));
    }

    /// From now on, every message passes.
    pub fn behave(&self) {
        *self.tamper.lock().expect("no holder panics") = None;
    }

    /// A partition: connections stay open and nothing moves.
    pub fn silence(&self) {
        self.link.send_replace(Link::Silent);
    }

    /// Closes all connections, and new ones as they come.
    pub fn disconnect(&self) {
        self.link.send_replace(Link::Down);
    }

    /// Bytes flow again.
    pub fn heal(&self) {
        self.link.send_replace(Link::Up);
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    tamper: Arc<Mutex<Option<Tamper>>>,
    link: watch::Receiver<Link>,
) {
    // Dropped with this task: connections end with their proxy.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                connections.spawn(serve(client, upstream, Arc::clone(&tamper), link.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(
    client: TcpStream,
    upstream: SocketAddr,
    tamper: Arc<Mutex<Option<Tamper>>>,
    mut link: watch::Receiver<Link>,
) {
    if link.wait_for(|link| *link != Link::Silent).await.is_err() || *link.borrow() == Link::Down {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // 1,024 pieces of at most 64 KiB: delayed messages wait outside of it.
    let (sender, pieces) = mpsc::channel(1024);
    tokio::select! {
        () = copy(from_client, to_server, link.clone()) => {}
        () = decide(from_server, sender, tamper, link.clone()) => {}
        () = write(pieces, to_client) => {}
        _ = link.wait_for(|link| *link == Link::Down) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let up = link.wait_for(|link| *link == Link::Up).await.is_ok();
        if !up || to.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

async fn decide(
    mut from: OwnedReadHalf,
    to: mpsc::Sender<Bytes>,
    tamper: Arc<Mutex<Option<Tamper>>>,
    mut link: watch::Receiver<Link>,
) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if link.wait_for(|link| *link == Link::Up).await.is_err() {
            return;
        }
        decoder.feed(buffer.get(..read).unwrap_or_default());
        let mut out = BytesMut::new();
        while let Some(operation) = decoder.take().expect("nats-server speaks its own protocol") {
            let fate = match &operation {
                Operation::Line(_) => Fate::Pass,
                Operation::Message(message) => {
                    tamper.lock().expect("no holder panics").as_mut().map_or(Fate::Pass, |tamper| tamper(message))
                }
            };
            match fate {
                Fate::Pass => operation.encode(&mut out),
                Fate::Drop => {}
                Fate::Replace(messages) => messages.iter().for_each(|message| message.encode(&mut out)),
                Fate::Delay(delay) => {
                    let mut late = BytesMut::new();
                    operation.encode(&mut late);
                    let to = to.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        let _ = to.send(late.freeze()).await;
                    });
                }
            }
        }
        if !out.is_empty() && to.send(out.freeze()).await.is_err() {
            return;
        }
    }
}

async fn write(mut pieces: mpsc::Receiver<Bytes>, mut to: OwnedWriteHalf) {
    while let Some(piece) = pieces.recv().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::nats::Nats;
    use crate::wait::{PATIENCE, eventually, within};

    async fn receive(subscriber: &mut async_nats::Subscriber) -> String {
        let message = within(PATIENCE, "a message", subscriber.next()).await.expect("the connection lives");
        String::from_utf8_lossy(&message.payload).into_owned()
    }

    #[tokio::test]
    async fn messages_are_dropped_replaced_and_delayed_as_told() {
        let nats = Nats::start().await;
        let proxy = Proxy::start(nats.address(0)).await;
        let client = async_nats::connect(proxy.url()).await.expect("through the proxy");
        let mut subscriber = client.subscribe("s").await.expect("subscribed");
        proxy.tamper(|message| match &message.payload[..] {
            b"lost" => Fate::Drop,
            b"twice" => Fate::Replace(vec![message.clone(), message.clone()]),
            b"late" => Fate::Delay(Duration::from_millis(100)),
            _ => Fate::Pass,
        });
        for data in ["late", "lost", "twice", "plain"] {
            client.publish("s", data.into()).await.expect("sent");
        }
        let mut received = Vec::new();
        for _ in 0..4 {
            received.push(receive(&mut subscriber).await);
        }
        assert_eq!(received, ["twice", "twice", "plain", "late"]);
    }

    #[tokio::test]
    async fn a_silent_link_delivers_what_was_sent_once_it_is_healed() {
        let nats = Nats::start().await;
        let proxy = Proxy::start(nats.address(0)).await;
        let client = async_nats::connect(proxy.url()).await.expect("through the proxy");
        let mut subscriber = client.subscribe("s").await.expect("subscribed");
        let publisher = nats.client().await;
        client.publish("s", "through".into()).await.expect("sent");
        assert_eq!(receive(&mut subscriber).await, "through");
        proxy.silence();
        publisher.publish("s", "held".into()).await.expect("sent");
        publisher.flush().await.expect("the server has it");
        let early = tokio::time::timeout(Duration::from_millis(100), subscriber.next()).await;
        assert!(early.is_err(), "nothing passes a silent link");
        proxy.heal();
        assert_eq!(receive(&mut subscriber).await, "held");
    }

    #[tokio::test]
    async fn a_link_that_is_down_ends_connections_until_it_is_healed() {
        let nats = Nats::start().await;
        let proxy = Proxy::start(nats.address(0)).await;
        let client = async_nats::connect(proxy.url()).await.expect("through the proxy");
        let state = |wanted| {
            let client = &client;
            move || std::future::ready(client.connection_state() == wanted)
        };
        proxy.disconnect();
        eventually(PATIENCE, "the connection is lost", state(async_nats::connection::State::Disconnected)).await;
        proxy.heal();
        eventually(PATIENCE, "the connection is back", state(async_nats::connection::State::Connected)).await;
    }
}
