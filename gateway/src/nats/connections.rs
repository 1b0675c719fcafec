//! The NATS side of the gateway: which connection is used for what.
//!
//! A malformed header block ends the connection it comes over. So live messages, questions, core NATS and publications
//! have connections of their own: while one of them recovers, the others go on. A channel whose live messages keep breaking the connection
//! is moved to a connection of its own ([`Broker::apart`]).

use std::str::FromStr;
use std::sync::Arc;

use async_nats::ServerAddr;
use tidings_crds::login::LoginError;
use tidings_process::nats_login::NatsSettings;
use tokio_util::sync::CancellationToken;

use crate::metrics::registry::Metrics;
use crate::nats::connection::{Link, Peer};
use crate::nats::publisher::Publisher;
use crate::runtime::tasks::CoreTasks;

/// The connections of this gateway to NATS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    peer: Peer,
    live: Link,
    ask: Link,
    core: Link,
    publisher: Publisher,
    metrics: Arc<Metrics>,
    tasks: CoreTasks,
    stop: CancellationToken,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Where, over which TLS and as whom.
    pub nats: NatsSettings,
    /// What NATS lists the connections as.
    pub name: String,
}

/// Why no broker could be made.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not an address.
    #[error("failed to read the NATS address \"{address}\": write nats://host:4222, several separated by commas")]
    Address {
        /// The part that is none.
        address: String,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The login's files.
    #[error(transparent)]
    Login(#[from] LoginError),
}

// === impl Broker ===

impl Broker {
    /// Connects in the background and goes on trying: a gateway starts with NATS away. What keeps the connections is
    /// among `tasks`.
    pub fn connect(options: &BrokerOptions, metrics: Arc<Metrics>, tasks: CoreTasks) -> Result<Self, BrokerError> {
        let mut servers = Vec::new();
        for address in options.nats.url.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let server = ServerAddr::from_str(address);
            servers.push(server.map_err(|source| BrokerError::Address { address: address.to_owned(), source })?);
        }
        let handshake = options.nats.handshake.clone();
        // Later they may be broken for a while; now an administrator is looking.
        handshake.check()?;
        let peer = Peer { servers, name: options.name.clone(), handshake };
        let stop = CancellationToken::new();
        let link = |purpose| Link::open(peer.clone(), purpose, metrics.clone(), stop.clone(), &tasks);
        let (live, ask, core) = (link("live"), link("ask"), link("core"));
        let publisher = Publisher::open(peer.clone(), metrics.clone(), tasks.clone(), stop.clone());
        let broker = Self { peer, live, ask, core, publisher, metrics, tasks, stop };
        broker.tasks.spawn("the monitor of the NATS connections", broker.stop.clone(), broker.clone().report());
        Ok(broker)
    }

    /// The connection for live messages of Durable channels.
    pub fn live(&self) -> Link {
        self.live.clone()
    }

    /// The connection for questions.
    pub fn ask(&self) -> Link {
        self.ask.clone()
    }

    /// The connection for Ephemeral channels.
    pub fn core(&self) -> Link {
        self.core.clone()
    }

    /// What publishes, over a connection of its own.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// A connection of its own, for as long as `stop` allows.
    pub fn apart(&self, channel: &str, stop: CancellationToken) -> Link {
        Link::open(self.peer.clone(), channel, self.metrics.clone(), stop, &self.tasks)
    }

    /// Whether messages can come in and questions go out.
    pub fn is_connected(&self) -> bool {
        self.live.is_connected() && self.ask.is_connected() && self.core.is_connected()
    }

    /// The tasks that the gateway cannot do without.
    pub fn tasks(&self) -> &CoreTasks {
        &self.tasks
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close().await;
    }

    /// Keeps the metric of the connection up to date.
    async fn report(self) {
        let mut watched = [self.live.health(), self.ask.health(), self.core.health()];
        let mut before = None;
        loop {
            let now = self.is_connected();
            if before != Some(now) {
                self.metrics.broker_connected(now);
                before = Some(now);
            }
            let [live, ask, core] = &mut watched;
            tokio::select! {
                _ = live.changed() => {}
                _ = ask.changed() => {}
                _ = core.changed() => {}
            }
        }
    }
}
