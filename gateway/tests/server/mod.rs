//! A gateway's public port within the test, with NATS away, and a client that reads bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_crds::route::Route;
use tidings_gateway::auth::authenticator::Authority;
use tidings_gateway::channel::hub::{Hub, HubSettings};
use tidings_gateway::http::app::App;
use tidings_gateway::http::lingering::Lingering;
use tidings_gateway::http::request_limits::RequestLimits;
use tidings_gateway::limits::client::ForwardedHeader;
use tidings_gateway::metrics::registry::Metrics;
use tidings_gateway::nats::connections::{Broker, BrokerOptions};
use tidings_gateway::routes::Routes;
use tidings_gateway::routes::table::Change;
use tidings_gateway::runtime::drain::Drain;
use tidings_gateway::runtime::tasks::CoreTasks;
use tidings_gateway::server::accept::Port;
use tidings_gateway::server::address_limit::AddressLimit;
use tidings_gateway::server::connection::{Departure, Protocol};
use tidings_gateway::server::connection_limit::{ConnectionLimits, Room};
use tidings_gateway::server::listener::listen;
use tidings_process::nats_login::{NatsHandshake, NatsSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough for any machine, short enough to fail a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const OPEN: &str = "/channels/demo/open/events";
pub(crate) const TOKEN: &str = "/channels/demo/token/events";

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) departure: Departure,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

pub(crate) struct Settings {
    pub(crate) connections: ConnectionLimits,
    pub(crate) requests: RequestLimits,
    pub(crate) room: u32,
    pub(crate) routes: Option<Vec<Route>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: ConnectionLimits {
                connections: None,
                per_address: None,
                header_timeout: DEADLINE,
                idle_timeout: DEADLINE,
                peer_timeout: DEADLINE,
                write_timeout: DEADLINE,
                header_bytes: 32 << 10,
            },
            requests: RequestLimits {
                subscribers: None,
                body_timeout: DEADLINE,
                publish_bytes: 1 << 20,
                trusted_proxies: Vec::new(),
                forwarded_header: ForwardedHeader::default(),
            },
            room: 1_000,
            routes: Some(vec![route("open", "Public", "Public"), route("token", "Token", "Disabled")]),
        }
    }
}

pub(crate) fn route(name: &str, subscribe: &str, publish: &str) -> Route {
    Route::from_yaml(&format!(
        "version: 1\nnamespace: demo\nname: {name}\ngeneration: 1\nstate: Active\n\
         source: {{durability: Durable, stream: TIDINGS_demo_{name}}}\n\
         topics: {{kind: Below, base: tidings.demo.{name}}}\n\
         events: {{from: New, encoding: Text, heartbeatSeconds: 15, retryMilliseconds: 1000, maxEventBytes: 65536}}\n\
         access: {{tokenSources: [Header], subscribe: {{mode: {subscribe}, topics: ['>']}}, \
                   publish: {{mode: {publish}, topics: [news, 'user.*']}}}}\n\
         cors: {{origins: ['https://shop.example'], allowCredentials: true}}\n\
         limits: {{connectsPerSecond: 50}}\n"
    ))
    .unwrap()
}

impl Server {
    pub(crate) fn start(settings: Settings) -> Self {
        let metrics = Metrics::new(10);
        // Port 9 is "discard": nobody listens there.
        let options = BrokerOptions {
            nats: NatsSettings { url: "nats://127.0.0.1:9".to_owned(), handshake: NatsHandshake::default() },
            name: "test".to_owned(),
        };
        let broker = Broker::connect(&options, metrics.clone(), CoreTasks::default()).unwrap();
        let patience = Duration::from_millis(50);
        let hub = Hub::new(broker, metrics.clone(), HubSettings { patience, ..HubSettings::default() });
        let routes = Arc::new(Routes::default());
        if let Some(known) = settings.routes {
            let changes = known.into_iter().map(|route| Change { key: route.key(), route: Some(Arc::new(route)) });
            routes.apply(&changes.collect::<Vec<_>>(), Instant::now());
        }
        let (drain, room) = (Arc::new(Drain::new()), Arc::new(Room::new(settings.room)));
        let app = App {
            routes,
            authority: Authority::new(Arc::default(), &metrics),
            hub,
            metrics: metrics.clone(),
            drain: drain.clone(),
            clients: Arc::default(),
            shards: None,
            room: room.clone(),
            limits: settings.requests,
            demo: true,
            tls: false,
            lingering: Lingering::default(),
        };
        let listener = listen("127.0.0.1:0".parse().unwrap(), DEADLINE).unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port {
            name: "public",
            listener,
            protocol: Protocol::new(&settings.connections),
            tls: None,
            addresses: AddressLimit::new(None, settings.room, Vec::new()),
            room,
            router: app.router(),
            metrics: Some(metrics.clone()),
        };
        let departure = Departure::default();
        let task = tokio::spawn(port.serve(departure.clone()));
        Self { address, metrics, drain, departure, task }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that has got one answer and waits for the next request.
    pub(crate) async fn keep_alive(&self) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap());
        }
        stream
    }

    /// Sends bytes over a new connection and reads until the server closes it.
    pub(crate) async fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may refuse and close before all is written.
        let _ = stream.write_all(bytes.as_ref()).await;
        read_to_end(&mut stream).await
    }

    /// One request over a connection that the client asks to be closed.
    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{length}{headers}\r\n{body}");
        Answer::read(&self.talk(head).await)
    }

    pub(crate) fn metric(&self, line: &str) -> Option<u64> {
        let text = self.metrics.text().unwrap();
        text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
    }

    pub(crate) async fn until_metric(&self, line: &str, value: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.metric(line) != Some(value) {
            assert!(Instant::now() < deadline, "{line} is {:?}, not {value}", self.metric(line));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_owned(), v.to_owned()));
        Self { status, headers: headers.collect(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Everything but the date.
    pub(crate) fn lasting(&self) -> (u16, Vec<&(String, String)>, &str) {
        (self.status, self.headers.iter().filter(|(name, _)| name != "date").collect(), &self.body)
    }

    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["status"], self.status);
        for field in ["type", "title", "detail"] {
            assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {self:?}");
        }
        (self.status, document["detail"].as_str().unwrap().to_owned())
    }
}
