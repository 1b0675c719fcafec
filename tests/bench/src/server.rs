//! What is measured: the gateway with everything that stands behind it, nchan, or the floor. Each is started pinned to
//! the first core; what feeds it, to the second, beside the load.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::link::Protocol;
use crate::place::{Ask, Place};
use crate::process::{LOAD_CORE, SERVER_CORE, Used, end, pinned};
use crate::publisher::{Publisher, nchan_name};
use crate::secure::Certificate;
use crate::token::Issuer;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One send of a ready frame for each socket.
    Floor,
    /// nginx with nchan.
    Nchan,
    /// Tidings.
    #[value(alias = "gateway")]
    Tidings,
}

/// What a server is asked to offer beyond the usual.
#[derive(Debug, Default)]
pub(crate) struct Setting {
    pub(crate) protocol: Protocol,
    /// Whose tokens are checked, on a channel for their bearers alone.
    pub(crate) issuer: Option<Issuer>,
    /// So many channels, beside the one that is always there.
    pub(crate) channels: usize,
    /// Gateways behind the same NATS; 0 means 1.
    pub(crate) gateways: usize,
}

/// A server that runs, and all that belongs to it. Dropping it ends everything.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) setting: Setting,
    certificate: Option<Certificate>,
    /// Where publications go to.
    publish_to: SocketAddr,
    admin: SocketAddr,
    measured: Measured,
    /// Gateways beside the first: where they listen, and their processes.
    others: Vec<(SocketAddr, u32)>,
    children: Vec<Child>,
    directory: TempDir,
}

/// The process whose costs count, and how it was started.
#[derive(Debug, Default)]
struct Measured {
    pid: u32,
    program: PathBuf,
    arguments: Vec<String>,
}

const PATIENCE: Duration = Duration::from_secs(180);

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Nchan => "nchan",
            Self::Tidings => "tidings",
        }
    }
}

// === impl Server ===

impl Server {
    /// Starts one and waits until it serves. `programs` holds the gateway under test, the operator is beside it or in the
    /// folder of the other profile.
    pub(crate) fn start(kind: Kind, programs: &Path, setting: Setting) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tidings-bench-").tempdir()?;
        let (address, admin) = (free_port()?, free_port()?);
        let certificate = match setting.protocol {
            Protocol::Tls => Some(Certificate::make(directory.path())?),
            _ => None,
        };
        let mut server = Self {
            kind,
            address,
            setting,
            certificate,
            publish_to: address,
            admin,
            measured: Measured::default(),
            others: Vec::new(),
            children: Vec::new(),
            directory,
        };
        match kind {
            Kind::Floor => server.measure(std::env::current_exe()?, vec!["floor".into(), address.to_string()])?,
            Kind::Nchan => server.nchan()?,
            Kind::Tidings => server.tidings(programs)?,
        }
        until("the server accepts connections", || TcpStream::connect(address).is_ok())?;
        Ok(server)
    }

    /// One that another process has started: nothing but where it is.
    pub(crate) fn elsewhere(address: SocketAddr, publish_to: SocketAddr) -> Result<Self> {
        Ok(Self {
            kind: Kind::Tidings,
            address,
            setting: Setting::default(),
            certificate: None,
            publish_to,
            admin: address,
            measured: Measured::default(),
            others: Vec::new(),
            children: Vec::new(),
            directory: tempfile::Builder::new().prefix("tidings-bench-").tempdir()?,
        })
    }

    fn nchan(&mut self) -> Result<()> {
        let folder = self.directory.path();
        let file = folder.join("nginx.conf");
        self.publish_to = free_port()?;
        let listen = match (self.setting.protocol, &self.certificate) {
            (Protocol::Tls, Some(Certificate { certificate, key, .. })) => {
                let files =
                    format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display());
                format!("listen {} backlog=4096 ssl; {files}", self.address)
            }
            (Protocol::Http2, _) => format!("listen {} backlog=4096 http2;", self.address),
            _ => format!("listen {} backlog=4096;", self.address),
        };
        fs::write(&file, nginx(folder, &listen, self.publish_to))?;
        self.measure("nginx".into(), vec!["-c".into(), file.display().to_string()])
    }

    fn tidings(&mut self, programs: &Path) -> Result<()> {
        let folder = self.directory.path().to_owned();
        let (channels, routes) = (folder.join("channels"), folder.join("routes"));
        fs::create_dir(&channels)?;
        fs::create_dir(&routes)?;
        fs::write(channels.join("load.yaml"), channel("load", "100000", "mode: Public"))?;
        for number in 0..self.setting.channels {
            let name = format!("c{number}");
            fs::write(channels.join(format!("{name}.yaml")), channel(&name, "1000", "mode: Public"))?;
        }
        let (nats, operator_admin) = (free_port()?, free_port()?);
        let mut server = pinned(LOAD_CORE, nats_server()?);
        server.args(["--addr", "127.0.0.1", "--port", &nats.port().to_string(), "--jetstream", "--store_dir"]);
        server.arg(folder.join("nats"));
        self.run("nats-server", server)?;
        until("NATS listens", || TcpStream::connect(nats).is_ok())?;
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("--nats", format!("nats://{nats}"));
        add("--listen", self.address.to_string());
        add("--admin", self.admin.to_string());
        add("--drain-delay", "0s".into());
        add("--drain-window", "0s".into());
        add("--routes", routes.display().to_string());
        if let Some(Certificate { certificate, key, .. }) = &self.certificate {
            add("--tls-cert", certificate.display().to_string());
            add("--tls-key", key.display().to_string());
        }
        if let Some(issuer) = &self.setting.issuer {
            fs::write(channels.join("guarded.yaml"), channel("guarded", "100000", "mode: Token"))?;
            fs::write(folder.join("keys"), &issuer.published)?;
            fs::write(folder.join("config.yaml"), issuer.settings(&folder.join("keys").display().to_string()))?;
            add("--config", folder.join("config.yaml").display().to_string());
        }
        let mut operator = pinned(LOAD_CORE, beside(programs, "tidings-operator")?);
        operator.args(["--nats", &format!("nats://{nats}"), "--admin", &operator_admin.to_string()]);
        operator.arg("--channels").arg(&channels).arg("--routes").arg(&routes);
        self.run("operator", operator)?;
        let wanted = fs::read_dir(&channels)?.count();
        until("the operator writes the Routes", || {
            // A file in the making has a dot in front.
            let written = |entries: fs::ReadDir| entries.flatten().filter(|entry| !hidden(&entry.path())).count();
            fs::read_dir(&routes).is_ok_and(|entries| written(entries) >= wanted)
        })?;
        self.publish_to = nats;
        let gateway = beside(programs, "tidings-gateway")?;
        for number in 1..self.setting.gateways {
            let (listen, admin) = (free_port()?, free_port()?);
            let mut command = pinned(SERVER_CORE, &gateway);
            command.args(moved(&arguments, listen, admin));
            let pid = self.run(&format!("gateway-{number}"), command)?;
            self.others.push((listen, pid));
            ready(admin)?;
        }
        self.measure(gateway, arguments)?;
        ready(self.admin)
    }

    /// Kills the gateway and starts it again: what it had in memory is gone, what NATS holds is not.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let pid = self.measured.pid;
        self.children.iter_mut().filter(|child| child.id() == pid).for_each(end);
        self.children.retain(|child| child.id() != pid);
        let Measured { program, arguments, .. } = std::mem::take(&mut self.measured);
        self.measure(program, arguments)?;
        ready(self.admin)
    }

    /// Starts the process whose costs count.
    fn measure(&mut self, program: PathBuf, arguments: Vec<String>) -> Result<()> {
        let mut command = pinned(SERVER_CORE, &program);
        command.args(&arguments);
        let pid = self.run("measured", command)?;
        self.measured = Measured { pid, program, arguments };
        Ok(())
    }

    fn run(&mut self, name: &str, mut command: Command) -> Result<u32> {
        let log = fs::File::create(self.directory.path().join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.setting.protocol
    }

    pub(crate) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// What a subscriber asks for.
    pub(crate) fn path_and_fields(&self, ask: &Ask<'_>) -> (String, Vec<(&'static str, String)>) {
        let path = match (self.kind, ask.place, ask.token) {
            (Kind::Tidings, _, Some(_)) => "/channels/bench/guarded/events".to_owned(),
            (Kind::Tidings, Place::All, None) => "/channels/bench/load/events".to_owned(),
            (Kind::Tidings, Place::Topic(topic), None) => format!("/channels/bench/load/events?topic=t.{topic}"),
            (Kind::Tidings, Place::Channel(channel), None) => format!("/channels/bench/c{channel}/events"),
            (_, place, _) => format!("/sub/{}", nchan_name(place)),
        };
        let mut fields = vec![("accept", "text/event-stream".to_owned())];
        fields.extend(ask.position.map(|id| ("last-event-id", id.to_owned())));
        fields.extend(ask.token.map(|token| ("authorization", format!("Bearer {token}"))));
        (path, fields)
    }

    /// The request of a subscriber on HTTP/1.1.
    pub(crate) fn request(&self, ask: &Ask<'_>) -> String {
        let (path, fields) = self.path_and_fields(ask);
        let fields: String = fields.into_iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("GET {path} HTTP/1.1\r\nhost: bench\r\n{fields}\r\n")
    }

    /// Connects a publisher.
    pub(crate) fn publisher(&self) -> Result<Publisher> {
        Publisher::connect(self.kind, self.publish_to)
    }

    /// The process whose costs count.
    pub(crate) fn pid(&self) -> u32 {
        self.measured.pid
    }

    /// What the measured processes have used.
    pub(crate) fn used(&self) -> Result<Used> {
        let mut used = Used::by(self.measured.pid)?;
        for (_, pid) in &self.others {
            let other = Used::by(*pid)?;
            used.cpu += other.cpu;
            used.memory += other.memory;
        }
        Ok(used)
    }

    /// Where the gateways listen.
    pub(crate) fn gateways(&self) -> Vec<SocketAddr> {
        std::iter::once(self.address).chain(self.others.iter().map(|(address, _)| *address)).collect()
    }

    pub(crate) fn publish_to(&self) -> SocketAddr {
        self.publish_to
    }

    /// The sum of a metric of the gateway's.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let text = get(self.admin, "/metrics")?;
        let samples = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')));
        samples.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?)).sum()
    }

    /// The last lines that its process wrote, for whoever looks for a fault.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("measured.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What feeds a server goes last.
        self.children.iter_mut().rev().for_each(end);
    }
}

fn channel(name: &str, messages: &str, mode: &str) -> String {
    format!(
        "apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata: {{ name: {name}, namespace: bench }}
spec:
  history: {{ maxMessages: {messages} }}
  access: {{ subscribe: {{ {mode}, topics: [\">\"] }} }}
  limits: {{ connections: 1000000, connectionsPerClient: 1000000, connectsPerSecond: 1000000 }}
"
    )
}

/// Publishers have a port of their own: they speak plain HTTP/1.1, whatever subscribers speak.
fn nginx(folder: &Path, listen: &str, publish_to: SocketAddr) -> String {
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
    http2_max_concurrent_streams 250;
    client_body_temp_path {folder}/body;
    nchan_shared_memory_size 256m;
    server {{
        listen {publish_to};
        location ~ ^/pub/(.*)$ {{
            nchan_publisher;
            nchan_channel_id $1;
            nchan_message_buffer_length 1000;
            nchan_message_timeout 5m;
        }}
    }}
    server {{
        {listen}
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

/// A program of ours: of this profile, or else of the other one.
fn beside(programs: &Path, name: &str) -> Result<PathBuf> {
    let other = programs.with_file_name("debug");
    [programs, &other]
        .map(|folder| folder.join(name))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("{name} is missing: make bench builds it"))
}

/// The pinned nats-server, built if need be.
pub(crate) fn nats_server() -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/nats-server.sh");
    let output = Command::new(script).output().context("failed to run scripts/nats-server.sh")?;
    let path = String::from_utf8(output.stdout)?.trim().to_owned();
    if path.is_empty() { bail!("no nats-server: {}", String::from_utf8_lossy(&output.stderr)) } else { Ok(path) }
}

fn ready(admin: SocketAddr) -> Result<()> {
    until("the gateway is ready", || get(admin, "/readyz").is_ok_and(|reply| reply.contains(" 200 ")))
}

/// The same arguments for a gateway on other ports.
fn moved(arguments: &[String], listen: SocketAddr, admin: SocketAddr) -> Vec<String> {
    let mut moved = arguments.to_vec();
    for (flag, address) in [("--listen", listen), ("--admin", admin)] {
        let place = arguments.iter().position(|argument| argument == flag);
        if let Some(value) = place.and_then(|place| moved.get_mut(place + 1)) {
            *value = address.to_string();
        }
    }
    moved
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
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
