//! What is measured: the gateway with everything that stands behind it, nchan, or the floor. Each is started pinned to
//! the first core; what feeds it, to the second, beside the load.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::floor;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One send of a ready frame for each socket.
    Floor,
    /// nginx with nchan.
    Nchan,
    /// Tidings.
    Gateway,
}

/// A server that runs, and all that belongs to it. Dropping it ends everything.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// Where publications go to.
    publish_to: SocketAddr,
    measured: u32,
    children: Vec<Child>,
    directory: TempDir,
}

/// One publisher's connection.
#[derive(Debug)]
pub(crate) struct Publisher {
    kind: Kind,
    pub(crate) socket: TcpStream,
    unsent: Vec<u8>,
}

/// What a process has used up to now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// Resident, in bytes.
    pub(crate) memory: u64,
}

const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const PATIENCE: Duration = Duration::from_secs(60);

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Nchan => "nchan",
            Self::Gateway => "tidings",
        }
    }
}

// === impl Server ===

impl Server {
    /// Starts one and waits until it serves. `programs` holds the gateway under test, `operator` is beside it or in the
    /// folder of the other profile.
    pub(crate) fn start(kind: Kind, programs: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tidings-bench-").tempdir()?;
        let address = free_port()?;
        let mut server = Self { kind, address, publish_to: address, measured: 0, children: Vec::new(), directory };
        match kind {
            Kind::Floor => {
                let mut floor = pinned(SERVER_CORE, std::env::current_exe()?);
                floor.arg("floor").arg(address.to_string());
                server.measured = server.run("floor", floor)?;
            }
            Kind::Nchan => server.nchan()?,
            Kind::Gateway => server.gateway(programs)?,
        }
        until("the server accepts connections", || TcpStream::connect(address).is_ok())?;
        Ok(server)
    }

    fn nchan(&mut self) -> Result<()> {
        let folder = self.directory.path();
        let file = folder.join("nginx.conf");
        fs::write(&file, nginx(folder, self.address))?;
        let mut nginx = pinned(SERVER_CORE, "nginx");
        nginx.arg("-c").arg(file);
        self.measured = self.run("nginx", nginx)?;
        Ok(())
    }

    fn gateway(&mut self, programs: &Path) -> Result<()> {
        let folder = self.directory.path().to_owned();
        let (channels, routes) = (folder.join("channels"), folder.join("routes"));
        fs::create_dir(&channels)?;
        fs::create_dir(&routes)?;
        fs::write(channels.join("bench.yaml"), CHANNEL)?;
        let (nats, admin, operator_admin) = (free_port()?, free_port()?, free_port()?);
        let mut server = pinned(LOAD_CORE, nats_server()?);
        server.args(["--addr", "127.0.0.1", "--port", &nats.port().to_string(), "--jetstream", "--store_dir"]);
        server.arg(folder.join("nats"));
        self.run("nats-server", server)?;
        until("NATS listens", || TcpStream::connect(nats).is_ok())?;
        let url = format!("nats://{nats}");
        let mut operator = pinned(LOAD_CORE, beside(programs, "tidings-operator")?);
        operator.args(["--nats", &url, "--admin", &operator_admin.to_string()]);
        operator.arg("--channels").arg(&channels).arg("--routes").arg(&routes);
        self.run("operator", operator)?;
        until("the operator writes the Route", || {
            fs::read_dir(&routes).is_ok_and(|mut entries| entries.next().is_some())
        })?;
        let mut gateway = pinned(SERVER_CORE, beside(programs, "tidings-gateway")?);
        gateway.args(["--nats", &url, "--listen", &self.address.to_string(), "--admin", &admin.to_string()]);
        gateway.args(["--drain-delay", "0s", "--drain-window", "0s"]).arg("--routes").arg(&routes);
        self.measured = self.run("gateway", gateway)?;
        self.publish_to = nats;
        until("the gateway is ready", || get(admin, "/readyz").is_ok_and(|reply| reply.contains(" 200 ")))
    }

    fn run(&mut self, name: &str, mut command: Command) -> Result<u32> {
        let log = fs::File::create(self.directory.path().join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    /// The request of a subscriber.
    pub(crate) fn request(&self, topic: Option<usize>, position: Option<&str>) -> String {
        let path = match (self.kind, topic) {
            (Kind::Gateway, None) => "/channels/bench/load/events".to_owned(),
            (Kind::Gateway, Some(topic)) => format!("/channels/bench/load/events?topic=t.{topic}"),
            (_, None) => "/sub/all".to_owned(),
            (_, Some(topic)) => format!("/sub/{topic}"),
        };
        let position = position.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n{position}\r\n")
    }

    /// Connects a publisher.
    pub(crate) fn publisher(&self) -> Result<Publisher> {
        let socket = TcpStream::connect(self.publish_to)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let unsent = match self.kind {
            Kind::Floor => floor::PUBLISHER.to_vec(),
            Kind::Nchan => Vec::new(),
            Kind::Gateway => b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_vec(),
        };
        Ok(Publisher { kind: self.kind, socket, unsent })
    }

    /// What the measured processes have used.
    pub(crate) fn used(&self) -> Result<Used> {
        let mut used = Used { cpu: Duration::ZERO, memory: 0 };
        for pid in family(self.measured) {
            used.cpu += cpu(pid)?;
            used.memory += status(pid, "VmRSS:")?;
        }
        Ok(used)
    }

    /// The most memory since [`Server::forget_peak`].
    pub(crate) fn peak(&self) -> Result<u64> {
        family(self.measured).into_iter().map(|pid| status(pid, "VmHWM:")).sum()
    }

    /// Starts to look for the peak anew.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        family(self.measured).into_iter().try_for_each(|pid| Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?))
    }

    /// Writes made by the measured processes through write(2) and writev(2).
    pub(crate) fn writes(&self) -> Result<u64> {
        family(self.measured).into_iter().map(|pid| field(&format!("/proc/{pid}/io"), "syscw:")).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What feeds a server goes last.
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

// === impl Publisher ===

impl Publisher {
    /// Adds a publication; [`Publisher::flush`] sends it.
    pub(crate) fn push(&mut self, topic: Option<usize>, data: &[u8]) {
        let head = match (self.kind, topic) {
            (Kind::Floor, _) => {
                self.unsent.extend_from_slice(&(data.len() as u32).to_be_bytes());
                self.unsent.extend_from_slice(data);
                return;
            }
            (Kind::Nchan, topic) => {
                let name = topic.map_or("all".to_owned(), |topic| topic.to_string());
                format!("POST /pub/{name} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", data.len())
            }
            (Kind::Gateway, topic) => {
                let topic = topic.map_or("all".to_owned(), |topic| format!("t.{topic}"));
                format!("PUB tidings.bench.load.{topic} {}\r\n", data.len())
            }
        };
        self.unsent.extend_from_slice(head.as_bytes());
        self.unsent.extend_from_slice(data);
        if self.kind == Kind::Gateway {
            self.unsent.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what the kernel takes, and reads what comes back.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => bail!("the connection of a publisher was closed"),
                Ok(read) => {
                    let read = buffer.get(..read).unwrap_or_default();
                    if self.kind == Kind::Gateway && memchr::memmem::find(read, b"PING\r\n").is_some() {
                        self.unsent.extend_from_slice(b"PONG\r\n");
                    }
                    if memchr::memmem::find(read, b"-ERR").is_some() {
                        bail!("NATS refuses: {}", String::from_utf8_lossy(read));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }
}

const CHANNEL: &str = "\
apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata: { name: load, namespace: bench }
spec:
  history: { maxMessages: 100000 }
  access: { subscribe: { mode: Public, topics: [\">\"] } }
  limits: { connections: 1000000, connectionsPerClient: 1000000, connectsPerSecond: 1000000 }
";

fn nginx(folder: &Path, address: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
user root;
pid {folder}/nginx.pid;
error_log stderr;
include /etc/nginx/modules-enabled/*nchan*.conf;
events {{ worker_connections 19900; multi_accept on; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    nchan_shared_memory_size 256m;
    server {{
        listen {address} backlog=4096;
        location ~ ^/pub/(.*)$ {{
            nchan_publisher;
            nchan_channel_id $1;
            nchan_message_buffer_length 1000;
            nchan_message_timeout 5m;
        }}
        location ~ ^/sub/(.*)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"
    )
}

/// Whether nginx with nchan is installed.
pub(crate) fn has_nchan() -> bool {
    let module = fs::read_dir("/etc/nginx/modules-enabled")
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("nchan")));
    module && Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A program on one core, that ends with us.
fn pinned(core: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", core]).arg(program);
    command
}

/// A program of ours: of this profile, or else of the other one.
fn beside(programs: &Path, name: &str) -> Result<PathBuf> {
    let other = programs.with_file_name("debug");
    [programs, &other]
        .map(|folder| folder.join(name))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("{name} is missing: make bench builds it"))
}

fn nats_server() -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/nats-server.sh");
    let output = Command::new(script).output().context("failed to run scripts/nats-server.sh")?;
    let path = String::from_utf8(output.stdout)?.trim().to_owned();
    if path.is_empty() { bail!("no nats-server: {}", String::from_utf8_lossy(&output.stderr)) } else { Ok(path) }
}

/// Below the range of outgoing connections: ten thousand of them would soon sit on it.
fn free_port() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 6_000) as u16;
    (0..2_000)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, first + NEXT.fetch_add(1, Relaxed))))
        .find(|address| TcpListener::bind(address).is_ok())
        .ok_or_else(|| anyhow!("no free port"))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            bail!("waited in vain: {what}");
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    socket.read_to_string(&mut reply)?;
    Ok(reply)
}

/// A process and its children: nginx has a worker.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

/// On the processor, to the nanosecond, over all threads that still live.
fn cpu(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(nanos))
}

/// A field of `/proc/PID/status` in bytes.
fn status(pid: u32, name: &str) -> Result<u64> {
    Ok(field(&format!("/proc/{pid}/status"), name)? << 10)
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

/// What this process, the load, has used.
pub(crate) fn own_cpu() -> Result<Duration> {
    cpu(std::process::id())
}
