//! Clients that mean harm. Whatever they do, everybody else receives every event, the admin port answers, memory stays
//! bounded, and what was done to them is counted by its reason.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tidings_tests::event_source::{EventSource, Settings as Client};
use tidings_tests::gateway::BINARY;
use tidings_tests::h2_frames::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, RawH2, SETTINGS, block, bomb, frame,
};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::manifest::Manifest;
use tidings_tests::metrics::Samples;
use tidings_tests::ports::Port;
use tidings_tests::process::{Process, Program};
use tidings_tests::publisher::Publisher;
use tidings_tests::tls::{TlsClient, TlsFolder};
use tidings_tests::wait::{PATIENCE, eventually, within};
use tidings_tests::web::{Protocol, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

/// Subscribers that want nothing but their events, and somebody who asks the admin port all the time.
struct Bystanders {
    sources: Vec<EventSource>,
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<u64>,
    asking: JoinHandle<u64>,
}

impl Bystanders {
    /// Subscribes these clients of a new channel.
    async fn start(site: &Installation, admin: String, clients: impl FnOnce(&Manifest) -> Vec<Client>) -> Self {
        let channel = site.channel(Manifest::public("bystanders")).await;
        let mut sources: Vec<EventSource> = clients(&channel).into_iter().map(Client::open).collect();
        for source in &mut sources {
            source.next_checkpoint().await;
        }
        let publisher = Publisher::new(&site.jetstream().await, &channel);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let publishing = tokio::spawn(async move {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                publisher.publish("a", count.to_string()).await;
                count += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            count
        });
        let stopped = stop.clone();
        let asking = tokio::spawn(async move {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                assert_eq!(Request::get(format!("{admin}/livez")).send().await.status, 200);
                count += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            count
        });
        Self { sources, stop, publishing, asking }
    }

    /// Over both protocols, at the installation's gateway.
    async fn of(site: &Installation) -> Self {
        let secured = site.gateways[0].tls().is_some();
        let two = if secured { Protocol::H2 } else { Protocol::H2c };
        let clients = |channel: &Manifest| {
            [Protocol::Http1, two].map(|protocol| site.client(0, channel, &[]).over(protocol)).to_vec()
        };
        Self::start(site, site.gateways[0].admin_url(), clients).await
    }

    /// All events have come, in order, on the streams of the beginning, and every question was answered.
    async fn unharmed(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.asking.await.expect("the admin port answers");
        let count = self.publishing.await.expect("NATS stores");
        assert!(asked > 0 && count > 0);
        for source in &mut self.sources {
            let events = source.take(usize::try_from(count).expect("it fits")).await;
            let wanted = (0..count).map(|n| n.to_string());
            assert!(events.iter().map(|event| event.data.clone()).eq(wanted), "events are missing:\n{}", source.tail());
        }
    }
}

async fn counted(admin: &str, metric: &str, label: &str, least: f64) {
    eventually(PATIENCE, &format!("{metric}{{{label}}} reaches {least}"), || async {
        let now = samples(admin).await?.sum_where(metric, &[label]);
        if now >= least { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

async fn samples(admin: &str) -> Result<Samples, String> {
    let reply = Request::get(format!("{admin}/metrics")).try_send().await.map_err(|error| format!("{error:?}"))?;
    Ok(Samples::read(&reply.text()))
}

async fn fault(site: &Installation, kind: &str, least: f64) {
    counted(&site.gateways[0].admin_url(), "tidings_connection_errors_total", &format!("kind=\"{kind}\""), least).await;
}

/// Waits until no more connections are open than these.
async fn connections(admin: &str, most: f64) {
    eventually(PATIENCE, &format!("at most {most} connections are left"), || async {
        let now = samples(admin).await?.sum("tidings_connections");
        if now <= most { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

/// Connects, sends the beginning, then a byte at a time, until it is cut off.
async fn drip(address: SocketAddr, begin: &'static [u8], byte: u8) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(begin).await?;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        socket.write_all(&[byte]).await?;
    }
}

async fn slowly(site: &Installation, begin: &'static [u8], count: usize) {
    let mut dripping = JoinSet::new();
    for _ in 0..count {
        dripping.spawn(drip(site.gateways[0].address(), begin, b'a'));
    }
    let all = async { while dripping.join_next().await.is_some() {} };
    within(PATIENCE, "every slow client is cut off", all).await;
}

#[tokio::test]
async fn slow_heads_are_cut_off() {
    const CLIENTS: usize = 1_000;
    let site = Settings::default().gateway_arg("--header-timeout=2s").start().await;
    let bystanders = Bystanders::of(&site).await;
    let before = site.gateways[0].process().memory();
    slowly(&site, b"GET / HTTP/1.1\r\nHost: x\r\nx: ", CLIENTS).await;
    fault(&site, "header-timeout", CLIENTS as f64).await;
    slowly(&site, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\x40\0\x01\0\0\0\0\x01", CLIENTS).await;
    fault(&site, "header-timeout", 2.0 * CLIENTS as f64).await;
    let grown = site.gateways[0].process().memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for {CLIENTS} slow clients", grown >> 20);
    bystanders.unharmed().await;
}

#[tokio::test]
async fn slow_handshakes_are_cut_off() {
    const CLIENTS: usize = 1_000;
    let authority = KubeAuthority::new().expect("an authority");
    let folder = TlsFolder::of(&authority);
    let settings = Settings::default().tls(&folder, TlsClient::trusting(&authority)).gateway_arg("--header-timeout=4s");
    let site = settings.start().await;
    let bystanders = Bystanders::of(&site).await;
    let before = site.gateways[0].process().memory();
    slowly(&site, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", CLIENTS).await;
    let admin = site.gateways[0].admin_url();
    counted(&admin, "tidings_tls_handshakes_total", "outcome=\"timeout\"", CLIENTS as f64).await;
    let grown = site.gateways[0].process().memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for {CLIENTS} slow clients", grown >> 20);
    bystanders.unharmed().await;
}

/// The status of an answer that is read from a bare socket; 0 if there is none.
async fn status(address: SocketAddr, bytes: &[u8]) -> u16 {
    let Ok(mut socket) = TcpStream::connect(address).await else { return 0 };
    let (mut reader, mut writer) = socket.split();
    let mut answer = Vec::new();
    // The answer may come before everything is sent, and the rest is then refused.
    let (_, _) = tokio::join!(writer.write_all(bytes), reader.read_to_end(&mut answer));
    let text = String::from_utf8_lossy(&answer);
    text.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn bombs_in_heads_and_addresses_are_refused_and_cost_little() {
    const CLIENTS: usize = 200;
    let site = Settings::default().gateway_arg("--header-timeout=5s").start().await;
    let bystanders = Bystanders::of(&site).await;
    let (address, path) = (site.gateways[0].address(), "/channels/test/bystanders/events");
    let before = site.gateways[0].process().memory();
    let close = "Host: x\r\nConnection: close\r\n";
    for (what, bytes, wanted) in [
        ("a long address", format!("GET {path}?topic={} HTTP/1.1\r\n{close}\r\n", "a".repeat(10_000)), &[414][..]),
        ("an endless address", format!("GET /{}", "a".repeat(1 << 20)), &[414, 431, 400, 0]),
        ("an endless header", format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(1 << 20)), &[431, 0]),
        ("many headers", format!("GET / HTTP/1.1\r\n{close}{}\r\n", "x: y\r\n".repeat(5_000)), &[431, 0]),
        ("many topics", format!("GET {path}?{} HTTP/1.1\r\n{close}\r\n", "topic=a&".repeat(800)), &[400]),
    ] {
        let bytes: Arc<[u8]> = bytes.into_bytes().into();
        let mut asking = JoinSet::new();
        for _ in 0..CLIENTS {
            let bytes = bytes.clone();
            asking.spawn(async move { status(address, &bytes).await });
        }
        let all = async {
            while let Some(status) = asking.join_next().await {
                let status = status.expect("no panic");
                assert!(wanted.contains(&status), "{what}: {status}");
            }
        };
        within(PATIENCE, what, all).await;
    }
    fault(&site, "protocol", CLIENTS as f64).await;

    // A few kilobytes that unpack to 40 MB, if one lets them.
    let mut bombs = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = RawH2::connect(address).await.expect("the gateway listens");
        let fields = [block("GET", path, &[]), bomb(&"a".repeat(4_000), 10_000)].concat();
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields)).await.expect("sent");
        bombs.push(raw);
    }
    for raw in &mut bombs {
        // Refused on the connection, or cut off with it.
        let _ = within(PATIENCE, "an answer", raw.round_trip()).await;
    }
    let metrics = site.gateways[0].metrics().await;
    assert_eq!(metrics.sum("tidings_streams_opened_total"), 2.0, "only the bystanders are served");
    let grown = site.gateways[0].process().memory().saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB for bombs", grown >> 20);
    drop(bombs);
    bystanders.unharmed().await;
}

#[tokio::test]
async fn floods_of_http2_frames_end_their_connection() {
    const ENOUGH: usize = 10_000;
    let site = Installation::start().await;
    let bystanders = Bystanders::of(&site).await;
    let address = site.gateways[0].address();
    let before = site.gateways[0].process().memory();
    let get = block("GET", "/channels/test/bystanders/events", &[]);
    let waiting = site.channel(Manifest::public("waiting")).await;
    let wait = block("GET", &waiting.path(), &[]);
    let cancel = 8u32.to_be_bytes();

    // Taken back at once, thousands in one write.
    let mut rapid = RawH2::connect(address).await.expect("the gateway listens");
    let pairs: Vec<u8> = (0..ENOUGH as u32)
        .flat_map(|n| {
            let stream = 2 * n + 1;
            [frame(HEADERS, END_STREAM | END_HEADERS, stream, &get), frame(RST_STREAM, 0, stream, &cancel)].concat()
        })
        .collect();
    let _ = rapid.send(&pairs).await;
    within(PATIENCE, "the rapid reset is cut off", rapid.closed()).await;
    fault(&site, "protocol", 1.0).await;

    // Taken back while they wait for NATS, always fewer than what HTTP/2 itself takes for an attack.
    site.nats.node(0).stop().await;
    let mut patient = RawH2::connect(address).await.expect("the gateway listens");
    let resets = async {
        for n in 0..ENOUGH as u32 {
            let streams = (0..15).map(|m| 2 * (15 * n + m) + 1);
            let asked: Vec<u8> =
                streams.clone().flat_map(|stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &wait)).collect();
            patient.send(&asked).await?;
            patient.round_trip().await?;
            let taken: Vec<u8> = streams.flat_map(|stream| frame(RST_STREAM, 0, stream, &cancel)).collect();
            patient.send(&taken).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    assert!(within(PATIENCE, "the patient reset is cut off", resets).await.is_err(), "it went on to the end");
    fault(&site, "resets", 1.0).await;
    site.nats.node(0).cont();

    // A block that never ends.
    let mut endless = RawH2::connect(address).await.expect("the gateway listens");
    let mut blocks = frame(HEADERS, END_STREAM, 1, &get);
    (0..ENOUGH).for_each(|_| blocks.extend(frame(CONTINUATION, 0, 1, b"\0\x01x\x01y")));
    let _ = endless.send(&blocks).await;
    within(PATIENCE, "the endless block is cut off", endless.closed()).await;
    fault(&site, "protocol", 2.0).await;

    // Questions whose answers nobody reads: at some point nobody reads the questions either.
    let mut unread = Vec::new();
    for question in [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])] {
        let mut raw = RawH2::connect(address).await.expect("the gateway listens");
        let many = question.repeat(ENOUGH);
        for _ in 0..100 {
            if tokio::time::timeout(Duration::from_millis(500), raw.send(&many)).await.is_err() {
                break;
            }
        }
        unread.push(raw);
    }
    let grown = site.gateways[0].process().memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for floods", grown >> 20);
    drop(unread);
    connections(&site.gateways[0].admin_url(), 2.0).await;
    bystanders.unharmed().await;
}

/// A gateway of this test's own beside the installation's, started by a line of shell.
struct Own {
    process: Process,
    listen: Port,
    admin: Port,
}

impl Own {
    async fn start(site: &Installation, before: &str, address: &str, arguments: &[&str]) -> Self {
        let (listen, admin) = (Port::free(), Port::free());
        let test = std::env::current_exe().expect("a running program has a path");
        // target/<profile>/deps/<test>-<hash>
        let path = test.ancestors().nth(2).expect("a test stands in target/<profile>/deps").join(BINARY);
        let process = Program::new("own-gateway", "/bin/sh")
            .args(["-c", &format!("{before} exec \"$0\" \"$@\"")])
            .arg(path)
            .args(["--nats", &site.nats.url(), "--admin", &admin.address().to_string()])
            .args(["--listen", &format!("{address}:{}", listen.number())])
            .arg("--routes")
            .arg(site.routes())
            .args(arguments.iter().map(ToString::to_string))
            .start();
        let own = Self { process, listen, admin };
        let ready = Request::get(own.admin() + "/readyz");
        own.process.ready(|| async { ready.try_send().await.is_ok_and(|reply| reply.status == 200) }).await;
        own
    }

    fn admin(&self) -> String {
        format!("http://{}", self.admin.address())
    }

    fn client(&self, channel: &Manifest) -> Client {
        Client::new(format!("http://{}{}", self.listen.address(), channel.path()))
    }

    fn allow_files(&self, count: u64) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        let limit = Rlimit { current: Some(count), maximum: Some(300) };
        prlimit(pid, Resource::Nofile, limit).expect("the process is ours");
    }
}

#[tokio::test]
async fn without_file_descriptors_only_newcomers_wait() {
    let mut site = Installation::start().await;
    let own = Own::start(&site, "ulimit -n 300;", "127.0.0.1", &["--header-timeout=30s"]).await;
    let admin = own.admin();
    let bystanders = Bystanders::start(&site, admin.clone(), |channel| vec![own.client(channel)]).await;
    let crowd = async |count: usize| {
        let connect = (0..count).map(|_| TcpStream::connect(own.listen.address()));
        futures_util::future::join_all(connect).await.into_iter().filter_map(Result::ok).collect::<Vec<_>>()
    };
    // As many as there is room for; the others wait in the kernel. What the process needs for itself is still there:
    // it finds NATS again, and reads a new Route.
    let waiting = crowd(500).await;
    counted(&admin, "tidings_accept_pauses_total", "", 1.0).await;
    site.nats.restart().await;
    counted(&admin, "tidings_broker_connects_total", "", 2.0).await;
    counted(&admin, "tidings_broker_connected", "", 1.0).await;
    site.write(&Manifest::public("another"));
    counted(&admin, "tidings_routes", "", 2.0).await;
    drop(waiting);
    connections(&admin, 1.0).await;

    // Something else in the process has taken the descriptors: accepting fails, is counted, and works again by itself.
    let used = own.process.descriptors() as u64;
    own.allow_files(used + 20);
    let refused = crowd(100).await;
    let cpu = own.process.cpu();
    eventually(PATIENCE, "descriptors run out", || std::future::ready(own.process.descriptors() as u64 >= used + 20))
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = own.process.cpu() - cpu;
    assert!(spent < Duration::from_secs(1), "{spent:?} of CPU while there was nothing to do");
    own.allow_files(300);
    counted(&admin, "tidings_accept_errors_total", "", 1.0).await;
    drop(refused);
    connections(&admin, 1.0).await;
    let mut late = own.client(&Manifest::public("another")).open();
    late.next_checkpoint().await;
    bystanders.unharmed().await;
}

/// Answers that a storm's client has got, as it prints them.
const ANSWERED: &str = "answered";

/// The sockets of each of [`CLIENTS`] clients.
const CROWD: u64 = 7_000;

/// A process may have 20,000 descriptors here.
const CLIENTS: u64 = 3;

/// Not a test: the process that [`twenty_thousand_connects_at_once_leave_everybody_else_alone`] starts three times.
#[test]
#[ignore = "the storm starts it"]
fn storm_client() {
    let Ok(storm) = std::env::var("TIDINGS_STORM") else { return };
    let (address, path) = storm.split_once(' ').expect("an address and a path");
    let address: SocketAddr = address.parse().expect("an address");
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut storm = JoinSet::new();
        for n in 0..CROWD {
            let head = head.clone();
            storm.spawn(async move {
                let mut socket = TcpStream::connect(address).await?;
                if n % 2 == 0 {
                    return Ok((socket, false));
                }
                socket.write_all(head.as_bytes()).await?;
                let mut answer = [0; 12];
                socket.read_exact(&mut answer).await?;
                Ok::<_, std::io::Error>((socket, answer == *b"HTTP/1.1 200"))
            });
        }
        let sockets = storm.join_all().await;
        let answered = sockets.iter().flatten().filter(|(_, answered)| *answered).count();
        let mut faults = std::collections::BTreeMap::new();
        sockets.iter().filter_map(|socket| socket.as_ref().err()).for_each(|error| {
            *faults.entry(error.kind().to_string()).or_insert(0) += 1;
        });
        println!("{ANSWERED} {answered} of {}; {faults:?}", sockets.iter().flatten().count());
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn twenty_thousand_connects_at_once_leave_everybody_else_alone() {
    // Each client has thousands of sockets to look after, and may need a while until it has asked on all of them.
    let site = Settings::default().gateway_arg("--header-timeout=10m").start().await;
    let bystanders = Bystanders::of(&site).await;
    let channel = site.channel(Manifest::public("storm")).await;
    let gateway = &site.gateways[0];
    let before = gateway.process().memory();
    // More than there is room for, of which the gateway keeps 128 descriptors for itself. Half of them say nothing and stay.
    // Of those who ask, some get a stream; above 15/16 the others are sent away and make room for who still waits.
    let test = std::env::current_exe().expect("a running program has a path");
    let client = Program::new("storm", test)
        .args(["--exact", "storm_client", "--ignored", "--nocapture"])
        .env("TIDINGS_STORM", format!("{} {}", gateway.address(), channel.path()));
    let storm = [client.start(), client.start(), client.start()];
    assert_eq!(storm.len() as u64, CLIENTS);
    for process in &storm {
        let answered = || {
            let said = process.output();
            let (_, rest) = said.split_once(ANSWERED)?;
            Some(rest.lines().next()?.trim().to_owned())
        };
        let answered = process.ready(|| std::future::ready(answered())).await;
        let all = answered.starts_with(&format!("{} of ", CROWD / 2));
        assert!(all, "{answered}: everybody who asks is answered, if only to come later");
    }
    let memory = gateway.process().memory().saturating_sub(before);
    println!("{} B a connection in the storm", memory / (CLIENTS * CROWD));
    assert!(memory < CLIENTS * CROWD * (16 << 10), "{} MiB for the storm", memory >> 20);
    counted(&gateway.admin_url(), "tidings_turned_away_total", "reason=\"connections\"", 1.0).await;
    counted(&gateway.admin_url(), "tidings_connections_accepted_total", "", 20_000.0).await;
    drop(storm);
    connections(&gateway.admin_url(), 2.0).await;
    let mut late = site.client(0, &channel, &[]).open();
    late.next_checkpoint().await;
    bystanders.unharmed().await;
}

/// Not a test: subscribes in the network of [`peers_that_vanish_without_a_word_are_given_up`].
#[test]
#[ignore = "another test starts it"]
fn vanishing_client() {
    let Ok(wanted) = std::env::var("TIDINGS_VANISH") else { return };
    let (address, path) = wanted.split_once(' ').expect("an address and a path");
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(address).expect("the gateway listens");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").expect("sent");
    while socket.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    std::thread::sleep(Duration::from_secs(3600));
}

#[tokio::test]
async fn peers_that_vanish_without_a_word_are_given_up() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a network that swallows packets needs root");
        return;
    }
    let site = Installation::start().await;
    let own = Own::start(&site, "", "", &["--peer-timeout=6s"]).await;
    let bystanders = Bystanders::start(&site, own.admin(), |channel| vec![own.client(channel)]).await;
    // One is sent something after it has vanished, the other one nothing.
    let quiet = site.channel(Manifest::public("quiet").with("events/heartbeatSeconds", 300)).await;
    let busy = site.channel(Manifest::public("busy")).await;
    let network = Network::start().await;
    let clients = [&quiet, &busy].map(|channel| {
        network
            .program(std::env::current_exe().expect("a running program has a path"))
            .args(["--exact", "vanishing_client", "--ignored", "--nocapture"])
            .env("TIDINGS_VANISH", format!("{}:{} {}", network.host, own.listen.number(), channel.path()))
            .start()
    });
    let admin = own.admin();
    let vanishing = |label: &'static str| {
        let admin = admin.clone();
        async move { samples(&admin).await.map(|samples| samples.sum_where("tidings_subscribers", &[label])) }
    };
    for label in ["channel=\"test/quiet\"", "channel=\"test/busy\""] {
        eventually(PATIENCE, label, || async { vanishing(label).await == Ok(1.0) }).await;
    }
    network.swallow();
    site.publisher(&busy).await.publish("a", "into the void").await;
    for label in ["channel=\"test/quiet\"", "channel=\"test/busy\""] {
        eventually(PATIENCE, &format!("{label} is given up"), || async { vanishing(label).await == Ok(0.0) }).await;
    }
    assert!(clients.iter().all(|client| client.status().is_none()), "nobody has told them");
    bystanders.unharmed().await;
}

/// A network namespace beside this one, whose answers can be swallowed.
struct Network {
    holder: Process,
    host: String,
}

impl Network {
    async fn start() -> Self {
        let holder = Program::new("network", "unshare").args(["--net", "sleep", "infinity"]).start();
        let (pid, number) = (holder.id().to_string(), holder.id() % 200 + 20);
        let network = Self { holder, host: format!("10.98.{number}.1") };
        let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        let other = format!("/proc/{pid}/ns/net");
        let apart = || std::future::ready(std::fs::read_link(&other).is_ok_and(|other| other != own));
        network.holder.ready(apart).await;
        let (ours, address) = (format!("tdg{pid}"), format!("{}/30", network.host));
        run("ip", &["link", "add", &ours, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run("ip", &["addr", "add", &address, "dev", &ours]);
        run("ip", &["link", "set", &ours, "up"]);
        network.inside(&["ip", "addr", "add", &format!("10.98.{number}.2/30"), "dev", "eth0"]);
        network.inside(&["ip", "link", "set", "eth0", "up"]);
        network
    }

    fn inside(&self, command: &[&str]) {
        run("nsenter", &[&["--target", &self.holder.id().to_string(), "--net"], command].concat());
    }

    fn program(&self, path: std::path::PathBuf) -> Program {
        let pid = self.holder.id().to_string();
        Program::new("vanishing", "nsenter").args(["--target", &pid, "--net"]).arg(path)
    }

    /// From now on, nothing that is said in there comes out.
    fn swallow(&self) {
        self.inside(&["ip", "route", "add", "blackhole", &format!("{}/32", self.host)]);
    }
}

impl Drop for Network {
    /// Sockets that still hope for an answer keep their namespace, and with it our interface, for minutes.
    fn drop(&mut self) {
        let interface = format!("tdg{}", self.holder.id());
        let _ = std::process::Command::new("ip").args(["link", "del", &interface]).output();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(program).args(arguments).output().expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}
