//! What connects one client with one server, to be cut: a TCP proxy that understands nothing of what passes.
//!
//! For connections that are encrypted. [`Proxy`](crate::proxy::Proxy) reads what NATS says.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Silent,
    Cut,
}

/// What has happened to a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    state: State,
    /// Connections made before this was reached carry nothing any more.
    age: u64,
}

/// One cable. Dropping it cuts it for good.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: watch::Sender<Fate>,
    accept: JoinHandle<()>,
}

impl Cable {
    /// A whole one to `upstream`.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn to(upstream: SocketAddr) -> Cable {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (state, watched) = watch::channel(Fate { state: State::Whole, age: 0 });
        let accept = tokio::spawn(accept(listener, upstream, watched));
        Cable { address, state, accept }
    }

    /// Where the client is to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections stay open, and nothing arrives any more.
    pub fn silence(&self) {
        self.state.send_modify(|fate| fate.state = State::Silent);
    }

    /// Connections that are open now stay so, and nothing ever arrives on them again: half open, as after the loss of a
    /// router. New ones work.
    pub fn forsake(&self) {
        self.state.send_modify(|fate| fate.age += 1);
    }

    /// Connections are closed, and new ones too.
    pub fn cut(&self) {
        self.state.send_modify(|fate| fate.state = State::Cut);
    }

    /// Makes it whole again. What was sent meanwhile arrives.
    pub fn mend(&self) {
        self.state.send_modify(|fate| fate.state = State::Whole);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, state: watch::Receiver<Fate>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(connection(client, upstream, state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(client: TcpStream, upstream: SocketAddr, mut state: watch::Receiver<Fate>) {
    let age = state.borrow().age;
    let _ = state.wait_for(|fate| fate.state != State::Silent).await;
    if state.borrow().state == State::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut cut = state.clone();
    tokio::select! {
        () = carry(from_client, to_server, state.clone(), age) => {}
        () = carry(from_server, to_client, state.clone(), age) => {}
        _ = cut.wait_for(|fate| fate.state == State::Cut) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Fate>, age: u64) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let _ = state.wait_for(|fate| fate.state != State::Silent && fate.age == age).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
