//! The gateway as a process: its ports, its signals, and what it does without file descriptors. NATS is away.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

struct Gateway {
    process: Child,
    public: SocketAddr,
    admin: SocketAddr,
    log: mpsc::Receiver<String>,
    _routes: tempfile::TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Gateway {
    /// Starts with so many file descriptors, and waits until it listens.
    fn start(files: u32, arguments: &[&str]) -> Self {
        let routes = tempfile::tempdir().unwrap();
        let mut process = Command::new("sh")
            .args(["-c", r#"ulimit -n "$1"; shift; exec "$@""#, "sh", &files.to_string()])
            .arg(env!("CARGO_BIN_EXE_tidings-gateway"))
            .args(["--nats", "nats://127.0.0.1:9", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--log-format", "json", "--routes"])
            .arg(routes.path())
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, log) = mpsc::channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut gateway = Self {
            process,
            public: SocketAddr::from(([0; 4], 0)),
            admin: SocketAddr::from(([0; 4], 0)),
            log,
            _routes: routes,
        };
        let line: serde_json::Value = serde_json::from_str(&gateway.logged("Listening.")).unwrap();
        let address = |field: &str| line.get(field).unwrap().as_str().unwrap().parse().unwrap();
        (gateway.public, gateway.admin) = (address("listen"), address("admin"));
        gateway.logged("Loaded the Routes.");
        gateway
    }

    /// The first line that says this.
    fn logged(&self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(error) => panic!("nothing logged \"{text}\": {error}"),
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the gateway goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let text = get(self.admin, "/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse().unwrap()
    }

    fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn without_nats_it_lives_and_says_why_it_is_not_ready() {
    let gateway = Gateway::start(1_000, &[]);
    assert!(get(gateway.admin, "/livez").unwrap().starts_with("HTTP/1.1 200"));
    let ready = get(gateway.admin, "/readyz").unwrap();
    assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("\r\n\r\nNATS is not connected\n"), "{ready}");
    assert!(get(gateway.admin, "/nothing").unwrap().starts_with("HTTP/1.1 404"));
}

#[test]
fn on_sigterm_it_serves_on_for_the_delay_and_then_ends_well() {
    let mut gateway = Gateway::start(1_000, &["--drain-delay", "1s", "--drain-window", "1s"]);
    let started = Instant::now();
    gateway.signal("TERM");
    gateway.until("unready", |gateway| get(gateway.admin, "/readyz").unwrap().contains("shutting down"));
    assert!(get(gateway.public, "/nothing").unwrap().starts_with("HTTP/1.1 404"), "it serves on");
    assert_eq!(gateway.metric("tidings_draining"), 1);
    assert!(gateway.ended().success());
    assert!(started.elapsed() >= Duration::from_secs(1), "it waited for the delay");
}

#[test]
fn on_sigint_it_ends_soon_and_on_a_second_signal_at_once() {
    let mut gateway = Gateway::start(1_000, &["--drain-delay", "1h"]);
    gateway.signal("INT");
    assert!(gateway.ended().success());
    let mut gateway = Gateway::start(1_000, &["--drain-delay", "1h"]);
    gateway.signal("TERM");
    gateway.logged("Shutting down.");
    gateway.signal("TERM");
    assert!(gateway.ended().success());
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_tidings-gateway"))
        .args(["--routes", "/nowhere", "--admin", "127.0.0.1:0", "--listen", &address])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&format!("failed to listen on {address}")), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
}

#[test]
fn a_full_public_port_leaves_the_admin_port_alone() {
    // 160 files, less the reserve of 128, but at least half: 80 connections.
    let gateway = Gateway::start(160, &["--header-timeout", "1h"]);
    let mut held: Vec<_> = (0..120).map(|_| TcpStream::connect(gateway.public).unwrap()).collect();
    gateway.until("full", |gateway| gateway.metric("tidings_accept_pauses_total") > 0);
    assert_eq!(gateway.metric("tidings_connections"), 80);
    for _ in 0..10 {
        assert!(get(gateway.admin, "/livez").unwrap().starts_with("HTTP/1.1 200"));
    }
    assert_eq!(gateway.metric("tidings_accept_errors_total"), 0);
    held.clear();
    assert!(get(gateway.public, "/nothing").unwrap().starts_with("HTTP/1.1 404"), "it serves again");
}

#[test]
fn without_any_file_descriptor_it_neither_ends_nor_spins() {
    // Too few even for the half that it hopes for.
    let mut gateway = Gateway::start(24, &["--header-timeout", "1h"]);
    let held: Vec<_> = (0..60).map(|_| TcpStream::connect(gateway.public).unwrap()).collect();
    let failed = gateway.logged("Failed to accept a connection");
    assert!(failed.contains("Too many open files"), "{failed}");
    assert!(gateway.process.try_wait().unwrap().is_none());
    drop(held);
    gateway.until("serving again", |gateway| {
        get(gateway.public, "/nothing").is_ok_and(|answer| answer.starts_with("HTTP/1.1 404"))
    });
    // A pause that doubles from 10 ms to 1 s: a handful, where a spinning loop has thousands.
    assert!(gateway.metric("tidings_accept_errors_total") < 50);
    assert!(gateway.process.try_wait().unwrap().is_none());
}
