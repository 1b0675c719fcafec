//! The accept loop of a port: as many connections as there is room for, each a task that this loop owns.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::metrics::registry::{ConnectionFault, Metrics};
use crate::server::address_limit::AddressLimit;
use crate::server::connection::{Departure, Protocol, Served};
use crate::server::connection_limit::Room;
use crate::server::hold::{Held, Open, Places};
use crate::server::listener::Listener;
use crate::server::socket::Socket;
use crate::server::tcp::Tcp;
use crate::server::tls::Tls;

/// One port and everything that serves it.
pub struct Port {
    /// `public` or `admin`, for the log.
    pub name: &'static str,
    /// The listening socket.
    pub listener: Listener,
    /// How connections are served.
    pub protocol: Protocol,
    /// What stands in front of the protocol.
    pub tls: Option<Arc<Tls>>,
    /// How many there may be.
    pub room: Arc<Room>,
    /// How many of one address.
    pub addresses: Arc<AddressLimit>,
    /// Who answers.
    pub router: Router,
    /// Counts connections; absent for the admin port, whose scrapes are not counted.
    pub metrics: Option<Arc<Metrics>>,
}

/// How often connections are asked to make room while there is none.
const SHED: Duration = Duration::from_millis(500);

/// The pause after a failed accept; it doubles up to the second one. Without file descriptors `accept` fails at once,
/// again and again, and would keep a core busy with it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

// === impl Port ===

impl Port {
    /// Accepts until it is to close, then waits until every connection has ended by itself. A caller that cannot wait drops
    /// the future: that ends the connections too.
    pub async fn serve(self, departure: Departure) {
        let port = Arc::new(self);
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let close = departure.close.clone();
        let mut pause = PAUSE.0;
        loop {
            let Some(place) = close.run_until_cancelled(port.place(&departure)).await.flatten() else { break };
            if port.room.is_tight() {
                departure.shed.notify_waiters();
            }
            match close.run_until_cancelled(port.listener.accept()).await {
                None => break,
                Some(Ok((tcp, peer))) => {
                    pause = PAUSE.0;
                    let Ok(of_address) = port.addresses.enter(peer.ip()) else {
                        port.refuse(peer);
                        continue;
                    };
                    let place = (place, of_address);
                    let (port, departure, cut) = (port.clone(), departure.clone(), cut.clone());
                    connections.spawn(async move {
                        // Not `run_until_cancelled`: it would hold the future twice, 2 kB more for each connection.
                        tokio::select! {
                            biased;
                            () = port.connection(tcp, peer, departure, place) => {}
                            () = cut.cancelled() => {}
                        }
                    });
                }
                Some(Err(error)) if is_the_peer_s(&error) => {}
                Some(Err(error)) => {
                    if let Some(metrics) = &port.metrics {
                        metrics.accept_error();
                    }
                    warn!(port = port.name, %error, ?pause, "Failed to accept a connection; trying again.");
                    close.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    /// The socket is closed by being dropped: a client that holds so many would only hold the answer as well.
    fn refuse(&self, peer: SocketAddr) {
        if let Some(metrics) = &self.metrics {
            metrics.connection_fault(ConnectionFault::Address);
        }
        debug!(port = self.name, %peer, "Closed a connection: its address has reached the limit.");
    }

    async fn place(&self, departure: &Departure) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = self.room.try_enter() {
            return Some(place);
        }
        if let Some(metrics) = &self.metrics {
            metrics.accept_paused();
        }
        debug!(
            port = self.name,
            connections = self.room.most(),
            "The connection limit is reached; waiting for a connection to close."
        );
        loop {
            // Those that are not in use make room; a connection that has not been idle for long enough now may be by then.
            departure.shed.notify_waiters();
            if let Ok(place) = tokio::time::timeout(SHED, self.room.enter()).await {
                return place;
            }
        }
    }

    async fn connection(&self, tcp: Tcp, peer: SocketAddr, departure: Departure, place: Places) {
        let open = self.metrics.clone().map(Open::new);
        let router = self.router.clone();
        let served = match &self.tls {
            None => {
                let served = self.protocol.serve_tcp(tcp, peer, router, departure).await;
                served.map(|served| served.map(Socket::plain))
            }
            // On the heap, or connections without TLS would have room for it as well.
            Some(tls) => {
                let served = Box::pin(self.protocol.serve_tls(tcp, tls, peer, router, departure)).await;
                served.map(|served| served.map(Socket::sealed))
            }
        };
        match served {
            Ok(Served::Closed) => {}
            Ok(Served::Upgraded(Ok(socket), take)) => take.take(socket, Held::new(place, open)),
            Ok(Served::Upgraded(Err(error), _)) => {
                debug!(port = self.name, %peer, %error, "Failed to hand a connection over.");
            }
            Err(fault) => {
                if let Some(metrics) = &self.metrics {
                    metrics.connection_fault(fault);
                }
                debug!(port = self.name, %peer, fault = fault.as_str(), "A connection failed.");
            }
        }
    }
}

/// Errors of one connection that was gone before it was accepted (accept(2)); the next one is fine.
fn is_the_peer_s(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::Interrupted
    )
}
