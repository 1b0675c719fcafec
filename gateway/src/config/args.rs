//! The command line and the environment, and the settings made of them.
//!
//! `docs/reference/gateway.md` lists every flag; a test compares the two.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use tidings_crds::beat::Sender;
use tidings_crds::release::Release;
use tidings_process::listen::Listen;
use tidings_process::log_writer::Flush;
use tidings_process::logging::{self, LogFormat};
use tidings_process::nats_login::{NatsArguments, NatsSettings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::http::request_limits::RequestLimits;
use crate::limits::client::{ForwardedHeader, Network};
use crate::runtime::drain::DrainTimes;
use crate::runtime::units;
use crate::server::connection_limit::ConnectionLimits;
use crate::server::tls::TlsFiles;

/// Serves Channels to browsers: relays NATS messages as Server-Sent Events.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidings-gateway", version, about, max_term_width = 110)]
#[command(group(ArgGroup::new("source").required(true).args(["routes", "namespace"])))]
pub struct Arguments {
    #[command(flatten)]
    nats: NatsArguments,
    /// Address of the public port, where subscribers connect
    #[arg(long, env = "TIDINGS_LISTEN", value_name = "ADDR", default_value = ":8080")]
    listen: Listen,
    /// TLS certificate chain (PEM) of the public port; enables TLS on --listen
    #[arg(long, env = "TIDINGS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert
    #[arg(long, env = "TIDINGS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificate authorities (PEM) of client certificates; makes client certificates mandatory
    #[arg(long, env = "TIDINGS_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Address of the admin port with /livez, /readyz and /metrics; keep it private
    #[arg(long, env = "TIDINGS_ADMIN", value_name = "ADDR", default_value = ":9090")]
    admin: Listen,
    /// Directory of Route files, written by the operator
    #[arg(long, env = "TIDINGS_ROUTES", value_name = "DIR")]
    routes: Option<PathBuf>,
    /// Read Routes from the ConfigMaps of this namespace: the namespace of the installation
    #[arg(long, env = "TIDINGS_NAMESPACE", value_name = "NAME", value_parser = namespace)]
    namespace: Option<String>,
    /// With --namespace: name of the installation (the Helm release)
    #[arg(long, env = "TIDINGS_RELEASE", value_name = "NAME", default_value = "tidings", value_parser = release)]
    release: String,
    /// With --namespace: name of this pod, reported to the operator [default: the host name]
    #[arg(long, env = "TIDINGS_POD_NAME", value_name = "NAME", value_parser = pod)]
    pod_name: Option<String>,
    /// With --namespace: uid of this pod, by which the operator identifies it [default: a random one]
    #[arg(long, env = "TIDINGS_POD_UID", value_name = "UID", value_parser = pod)]
    pod_uid: Option<String>,
    /// Settings file (YAML): issuers of tokens, deny list, limits
    #[arg(long, env = "TIDINGS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve a small demo page at /
    #[arg(long, env = "TIDINGS_DEMO")]
    demo: bool,
    /// Time to keep serving after SIGTERM, so that load balancers can deregister the gateway
    #[arg(long, env = "TIDINGS_DRAIN_DELAY", value_name = "TIME", default_value = "5s", value_parser = units::duration)]
    drain_delay: Duration,
    /// Time over which the open streams are then ended, evenly spread
    #[arg(long, env = "TIDINGS_DRAIN_WINDOW", value_name = "TIME", default_value = "20s", value_parser = units::duration)]
    drain_window: Duration,
    /// Maximum number of open connections [default: derived from the open-file limit and the memory limit]
    #[arg(long, env = "TIDINGS_MAX_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Maximum number of open connections per address (IPv6: per /64), except of trusted proxies; 0 is no limit
    /// [default: half of --max-connections; connections from this machine are not counted then]
    #[arg(long, env = "TIDINGS_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    max_connections_per_address: Option<u32>,
    /// Maximum number of open event streams, over all channels [default: limited by connections alone]
    #[arg(long, env = "TIDINGS_MAX_SUBSCRIBERS", value_name = "N")]
    max_subscribers: Option<u64>,
    /// Time limit for the first request head of a connection, including the TLS handshake
    #[arg(long, env = "TIDINGS_HEADER_TIMEOUT", value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = units::duration)]
    header_timeout: Duration,
    /// Time after which a connection without requests is closed; set it above your load balancer's idle timeout
    #[arg(long, env = "TIDINGS_IDLE_TIMEOUT", value_name = "TIME", default_value = "90s", value_parser = units::duration)]
    idle_timeout: Duration,
    /// Time after which a client that does not answer at TCP level is considered gone
    #[arg(long, env = "TIDINGS_PEER_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = peer_timeout)]
    peer_timeout: Duration,
    /// Time after which a subscriber that reads nothing of what is pending is disconnected
    #[arg(long, env = "TIDINGS_WRITE_TIMEOUT", value_name = "TIME", default_value = "45s", value_parser = units::duration)]
    write_timeout: Duration,
    /// Time limit for the body of a POST
    #[arg(long, env = "TIDINGS_BODY_TIMEOUT", value_name = "TIME", default_value = "15s", value_parser = units::duration)]
    body_timeout: Duration,
    /// Maximum size of a request head
    #[arg(long, env = "TIDINGS_MAX_HEADER_BYTES", value_name = "SIZE", default_value = "32Ki")]
    #[arg(value_parser = header_bytes)]
    max_header_bytes: u32,
    /// Maximum size of a POST body; a channel's maxEventBytes can only be lower
    #[arg(long, env = "TIDINGS_MAX_PUBLISH_BYTES", value_name = "SIZE", default_value = "1Mi", value_parser = units::bytes)]
    max_publish_bytes: u64,
    /// Trusted proxies (IP addresses or CIDRs, comma-separated): their forwarded header names the client
    #[arg(long, env = "TIDINGS_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',')]
    trusted_proxies: Vec<Network>,
    /// Header that the trusted proxies write; the other one is ignored
    #[arg(long, env = "TIDINGS_FORWARDED_HEADER", value_name = "NAME", default_value = "x-forwarded-for")]
    forwarded_header: ForwardedHeader,
    /// Maximum number of channels with a label of their own in the metrics; 0 omits the label
    #[arg(long, env = "TIDINGS_METRICS_CHANNELS", value_name = "N", default_value_t = 200)]
    metrics_channels: usize,
    /// Log filter: error, warn, info, debug or trace, also per module as in info,tidings_gateway=debug
    #[arg(
        long,
        env = "TIDINGS_LOG",
        value_name = "FILTER",
        default_value = "info,async_nats=warn,h2=error,kube_client=off,kube_runtime=off"
    )]
    log: String,
    /// Log format
    #[arg(long, env = "TIDINGS_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// The settings of one gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The NATS server or servers, and what to show them.
    pub nats: NatsSettings,
    /// The public port.
    pub listen: Listen,
    /// The files that make the public port speak TLS.
    pub tls: Option<TlsFiles>,
    /// The admin port.
    pub admin: Listen,
    /// Where Routes come from.
    pub source: Source,
    /// The settings file.
    pub settings: Option<PathBuf>,
    /// Whether `/` is the demo page.
    pub demo: bool,
    /// How the process leaves.
    pub drain: DrainTimes,
    /// What a connection may cost.
    pub connections: ConnectionLimits,
    /// What a request may cost.
    pub requests: RequestLimits,
    /// How many channels get a label of their own.
    pub metrics_channels: usize,
    /// What to log.
    pub log: String,
    /// How to log.
    pub log_format: LogFormat,
}

/// Where Routes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The files of this directory.
    Files(PathBuf),
    /// The ConfigMaps of a release, of which this process is a part.
    Cluster(Sender),
}

/// hyper needs 8 KiB to read a head at all; above 1 MiB a head is an attack.
fn header_bytes(text: &str) -> Result<u32, String> {
    let bytes = units::bytes(text).map_err(|error| error.to_string())?;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| (8 << 10..=1 << 20).contains(bytes))
        .ok_or_else(|| "write a size from 8Ki to 1Mi".to_owned())
}

fn namespace(text: &str) -> Result<String, String> {
    Release::new(text, "tidings").map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn release(text: &str) -> Result<String, String> {
    Release::new("tidings", text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn pod(text: &str) -> Result<String, String> {
    let release = Release::new("tidings", "tidings").map_err(|error| error.to_string())?;
    Sender::new(release, text, text, text).map(|_| text.to_owned()).map_err(|fault| fault.message)
}

// === impl Source ===

impl Source {
    /// Of exactly one of the two: no others are ever read from the command line.
    fn new(routes: Option<PathBuf>, namespace: Option<String>, release: &str, pod: Pod) -> Self {
        match (routes, namespace) {
            (_, Some(namespace)) => {
                let release = Release::new(namespace, release).expect("both were checked when they were read");
                let name = pod.name.unwrap_or_else(host);
                let uid = pod.uid.unwrap_or_else(random);
                Self::Cluster(Sender::new(release, uid, name, random()).expect("all were checked when they were read"))
            }
            (routes, None) => Self::Files(routes.expect("one of the two is required")),
        }
    }
}

/// Which pod this is, if the command line says so.
struct Pod {
    name: Option<String>,
    uid: Option<String>,
}

/// The name of the machine, as far as a pod could have it.
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    pod(&name).unwrap_or_else(|_| "unknown".to_owned())
}

fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The kernel counts probes in whole seconds: three of them a second apart, after as long a silence.
fn peer_timeout(text: &str) -> Result<Duration, String> {
    let time = units::duration(text).map_err(|error| error.to_string())?;
    if (6..=3600).contains(&time.as_secs()) { Ok(time) } else { Err("write a time from 6s to 1h".to_owned()) }
}

// === impl Config ===

impl Config {
    /// Starts logging.
    pub fn start_logging(&self) -> Result<Flush, ParseError> {
        Ok(logging::start(EnvFilter::try_new(&self.log)?, self.log_format, true))
    }
}

impl From<Arguments> for Config {
    fn from(arguments: Arguments) -> Self {
        let pod = Pod { name: arguments.pod_name, uid: arguments.pod_uid };
        Self {
            nats: arguments.nats.into(),
            listen: arguments.listen,
            tls: arguments.tls_cert.zip(arguments.tls_key).map(|(cert, key)| TlsFiles {
                cert,
                key,
                client_ca: arguments.tls_client_ca,
            }),
            admin: arguments.admin,
            source: Source::new(arguments.routes, arguments.namespace, &arguments.release, pod),
            settings: arguments.config,
            demo: arguments.demo,
            drain: DrainTimes { delay: arguments.drain_delay, window: arguments.drain_window },
            connections: ConnectionLimits {
                connections: arguments.max_connections,
                per_address: arguments.max_connections_per_address,
                header_timeout: arguments.header_timeout,
                idle_timeout: arguments.idle_timeout,
                peer_timeout: arguments.peer_timeout,
                write_timeout: arguments.write_timeout,
                header_bytes: arguments.max_header_bytes,
            },
            requests: RequestLimits {
                subscribers: arguments.max_subscribers,
                body_timeout: arguments.body_timeout,
                publish_bytes: arguments.max_publish_bytes,
                trusted_proxies: arguments.trusted_proxies,
                forwarded_header: arguments.forwarded_header,
            },
            metrics_channels: arguments.metrics_channels,
            log: arguments.log,
            log_format: arguments.log_format,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    const REFERENCE: &str = include_str!("../../../docs/reference/gateway.md");

    #[test]
    fn the_reference_lists_exactly_the_flags_that_exist_with_their_variables_and_defaults() {
        let command = Arguments::command();
        let flags: BTreeSet<String> = command
            .get_arguments()
            .filter_map(|argument| {
                let default = argument.get_default_values().first().map_or("", |value| value.to_str().unwrap());
                let default = if default.is_empty() || default == "false" { "" } else { &format!("`{default}`") };
                let (flag, variable) = (argument.get_long()?, argument.get_env()?.to_str()?);
                Some(format!("| `--{flag}` | `{variable}` | {default} |").replace("|  |", "| |"))
            })
            .collect();
        let documented: BTreeSet<String> = REFERENCE
            .lines()
            .filter(|line| line.starts_with("| `--"))
            .map(|line| line.split_inclusive('|').take(4).collect::<String>())
            .collect();
        assert_eq!(documented, flags);
    }

    #[test]
    fn every_flag_has_a_variable_named_after_it() {
        for argument in Arguments::command().get_arguments() {
            let expected = format!("TIDINGS_{}", argument.get_id().as_str().to_uppercase());
            assert_eq!(argument.get_env().unwrap().to_str().unwrap(), expected);
        }
    }

    fn source(arguments: &[&str]) -> Result<Source, String> {
        let all = [&["tidings-gateway"], arguments].concat();
        Arguments::try_parse_from(all).map(|read| Config::from(read).source).map_err(|error| error.to_string())
    }

    #[test]
    fn routes_come_from_a_directory_or_from_a_namespace() {
        assert_eq!(source(&["--routes", "r"]), Ok(Source::Files("r".into())));
        let in_cluster = ["--namespace", "push", "--release", "b", "--pod-name", "gateway-0", "--pod-uid", "6a1b"];
        let Ok(Source::Cluster(sender)) = source(&in_cluster) else { panic!("{:?}", source(&in_cluster)) };
        assert_eq!((sender.release().to_string(), sender.name(), sender.pod()), ("push/b".into(), "gateway-0", "6a1b"));
        let (Ok(Source::Cluster(one)), Ok(Source::Cluster(other))) =
            (source(&["--namespace", "push"]), source(&["--namespace", "push"]))
        else {
            panic!("{:?}", source(&["--namespace", "push"]))
        };
        assert_eq!((one.release().name(), one.name()), ("tidings", other.name()));
        assert!(one.pod() != other.pod() && one.run() != other.run());

        assert!(source(&[]).unwrap_err().contains("<--routes <DIR>|--namespace <NAME>>"), "{:?}", source(&[]));
        assert!(source(&["--routes", "r", "--namespace", "n"]).unwrap_err().contains("cannot be used with"));
        assert!(source(&["--namespace", "a.b"]).unwrap_err().contains("is not a DNS label"));
        assert!(source(&["--namespace", "n", "--release", "a_b"]).unwrap_err().contains("is not a DNS name"));
        assert!(source(&["--namespace", "n", "--pod-uid", "a b"]).unwrap_err().contains("write letters, digits"));
    }

    #[test]
    fn faults_on_the_command_line_are_named() {
        let fault = |flag: &str, value: &str| {
            let parsed = Arguments::try_parse_from(["tidings-gateway", "--routes", "r", flag, value]);
            parsed.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(fault("--listen", "8080").contains("as in :8080"));
        assert!(fault("--drain-delay", "soon").contains("as in 500ms"));
        assert!(fault("--max-header-bytes", "1Ki").contains("from 8Ki to 1Mi"));
        assert!(fault("--trusted-proxies", "10.0.0.0/8,nonsense").contains("as in 10.0.0.0/8"));
        assert_eq!(fault("--trusted-proxies", "10.0.0.0/8,fd00::/8"), "");
        assert!(fault("--peer-timeout", "1s").contains("from 6s to 1h"));
        assert!(fault("--tls-cert", "c").contains("--tls-key"));
        assert!(fault("--tls-key", "k").contains("--tls-cert"));
        assert!(fault("--tls-client-ca", "ca").contains("--tls-cert"));
    }
}
