//! Command line and environment, and the validated settings made from them.
//!
//! [`Args`] is what clap reads; [`Config`] is what the rest of the operator works with. Nothing else looks at the
//! command line or the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use sha2::{Digest, Sha256};
use tidings_crds::channel::DEFAULT_CLASS;
use tidings_crds::label::is_label;
use tidings_crds::release::{Release, ReleaseError};
use tidings_process::listen::Listen;
use tidings_process::log_writer::Flush;
use tidings_process::logging::{self, LogFormat};
use tidings_process::nats_login::{NatsArguments, NatsSettings};
use tracing_subscriber::EnvFilter;

use crate::commands::smoke_test_http::Address;
use crate::files::config::FilesConfig;
use crate::kubernetes::config::KubernetesConfig;

/// Reconciles Channels (channels.tidings.dev) into NATS streams and gateway Routes.
///
/// With --namespace it works in a Kubernetes cluster: in the one it runs in, or the one of KUBECONFIG. With --channels and
/// --routes it needs none: it reads Channel manifests from a directory (what `kubectl apply` takes) and writes Route files for
/// `tidings-gateway --routes`.
#[derive(Debug, Parser)]
#[command(name = "tidings-operator", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Without a command the operator runs until it is told to end (SIGINT or SIGTERM).
    #[command(subcommand)]
    pub command: Option<CommandArgs>,
    /// Settings for running.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum CommandArgs {
    /// Validates Channel manifests offline; exits with 1 if any has a fault.
    Check {
        /// Manifests; `-` is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The settings file whose subject grants apply; without it no grants apply.
        #[arg(long, env = "TIDINGS_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// The CustomResourceDefinition of channels.tidings.dev.
    Crd {
        /// What to do with it.
        #[command(subcommand)]
        command: CrdArgs,
    },
    /// Uses an installation as its users do, once: a Channel comes, is published to, subscribed to, and goes.
    Try {
        /// Where the gateway is: http://HOST or https://HOST, with or without :PORT.
        #[arg(long, value_name = "URL")]
        gateway: Address,
        /// With https: the certificate (PEM) that the gateway has to show, whatever names it is for.
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
        /// The namespace for the Channel.
        #[arg(long, value_name = "NAMESPACE")]
        namespace: String,
        /// The name of the Channel; one that exists is replaced.
        #[arg(long, value_name = "NAME", default_value = "tidings-try")]
        channel: String,
        /// The class of the installation.
        #[arg(long, value_name = "NAME", default_value = DEFAULT_CLASS)]
        class_name: String,
        /// Ports of the gateway's host that must not answer, separated by commas.
        #[arg(long, value_name = "PORTS", value_delimiter = ',')]
        closed_ports: Vec<u16>,
        /// How long the Channel may take to become ready.
        #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=3_600))]
        timeout_seconds: u32,
    },
}

/// What to do with the CustomResourceDefinition.
#[derive(Debug, Subcommand)]
pub enum CrdArgs {
    /// Prints it as YAML.
    Print,
    /// Brings the cluster's definition up to this version's, by server-side apply. A newer one is left as it is.
    Apply,
}

/// Settings for running; each is also an environment variable.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Where NATS is, and what to show it.
    #[command(flatten)]
    pub nats: NatsArguments,
    /// Address of the admin port with /livez, /readyz and /metrics; keep it private.
    #[arg(long, env = "TIDINGS_ADMIN", value_name = "ADDR", default_value = ":9091")]
    pub admin: Listen,
    /// Directory of Channel manifests (*.yaml, *.yml, *.json), without its subdirectories.
    #[arg(long, env = "TIDINGS_CHANNELS", value_name = "DIR", requires = "routes", conflicts_with = "namespace")]
    pub channels: Option<PathBuf>,
    /// Directory for Route files, one per Channel; created if it is missing.
    #[arg(long, env = "TIDINGS_ROUTES", value_name = "DIR", requires = "channels")]
    pub routes: Option<PathBuf>,
    /// Run in Kubernetes: the namespace of the installation, with the Routes, the Lease and the gateways.
    #[arg(long, env = "TIDINGS_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Name of the installation (the Helm release).
    #[arg(long, env = "TIDINGS_RELEASE", value_name = "NAME", default_value = "tidings")]
    pub release: String,
    /// Class of this installation: Channels with this spec.className are served.
    #[arg(long, env = "TIDINGS_CLASS_NAME", value_name = "NAME", default_value = DEFAULT_CLASS)]
    pub class_name: String,
    /// Namespaces whose Channels are served, comma-separated [default: all]
    #[arg(long, env = "TIDINGS_WATCH_NAMESPACES", value_name = "NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Name of the gateways' Service; a Channel is Ready when all of its ready endpoints serve it
    /// [default: all gateways that send heartbeats]
    #[arg(long, env = "TIDINGS_GATEWAY_SERVICE", value_name = "NAME")]
    pub gateway_service: Option<String>,
    /// Public URL of the gateways, shown in status.url of Channels [default: not shown]
    #[arg(long, env = "TIDINGS_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Duration of the leader's Lease.
    #[arg(long, env = "TIDINGS_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=300))]
    pub lease_seconds: u32,
    /// Name of this pod, which identifies the leader [default: the host name]
    #[arg(long, env = "TIDINGS_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Uid of this pod, so that a restarted container keeps leading [default: a random one]
    #[arg(long, env = "TIDINGS_POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// Owner recorded in the metadata of streams; streams of other owners are never changed
    /// [default: NAMESPACE.RELEASE, or derived from the path of --channels]
    #[arg(long, env = "TIDINGS_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,
    /// Settings file (YAML): subject grants and quotas.
    #[arg(long, env = "TIDINGS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Interval of a full comparison, also without changes.
    #[arg(long, env = "TIDINGS_RESYNC_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub resync_seconds: u32,
    /// Time that a manifest must be missing before its Channel counts as removed.
    #[arg(long, env = "TIDINGS_REMOVAL_DELAY_SECONDS", value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub removal_delay_seconds: u32,
    /// How logs are written.
    #[command(flatten)]
    pub logs: Logs,
}

/// How logs are written.
#[derive(Clone, Debug, ClapArgs)]
pub struct Logs {
    /// Log filter: error, warn, info, debug or trace, also per module as in info,async_nats=debug.
    #[arg(
        id = "log",
        long = "log",
        env = "TIDINGS_LOG",
        value_name = "FILTER",
        default_value = "info,async_nats=error"
    )]
    pub filter: String,
    /// Log format.
    #[arg(id = "log_format", long = "log-format", env = "TIDINGS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub format: LogFormat,
}

/// Settings for running, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// The NATS side.
    pub nats: NatsSettings,
    /// Where the admin port listens.
    pub admin: Listen,
    /// What our streams carry as `tidings.dev/cluster`.
    pub cluster: String,
    /// The settings file.
    pub settings: Option<PathBuf>,
    /// How often everything is compared again.
    pub resync: Duration,
    /// Where Channels come from and Routes go to.
    pub front: Front,
}

/// Where Channels come from and Routes go to.
#[derive(Clone, Debug)]
pub enum Front {
    /// Manifests in a directory, Route files in another.
    Files(FilesConfig),
    /// Resources in a Kubernetes cluster.
    Kubernetes(KubernetesConfig),
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither front end was chosen.
    #[error("say where Channels come from: --namespace NAMESPACE in Kubernetes, or --channels DIR --routes DIR")]
    NoFront,
    /// What names the installation is no name.
    #[error("--namespace and --release")]
    Release(#[source] ReleaseError),
    /// A namespace or a class that is not a DNS label.
    #[error("{flag} {value:?}: write a DNS label, of small letters, digits and dashes")]
    Label {
        /// Which.
        flag: &'static str,
        /// As given.
        value: String,
    },
    /// No address of web pages.
    #[error("--public-url {0:?}: write https://HOST or https://HOST/PATH")]
    PublicUrl(String),
    /// Empty, too long, or with characters that NATS tools show badly.
    #[error("--cluster-id {0:?}: write 1 to 127 letters, digits, '-', '_', '.' or ':'")]
    ClusterId(String),
    /// The same directory for both.
    #[error("--channels and --routes need to be two directories")]
    SameDirectory,
}

// === impl Logs ===

impl Logs {
    /// Starts logging. What of the filter cannot be read is left out.
    pub fn start(&self) -> Flush {
        logging::start(EnvFilter::builder().parse_lossy(&self.filter), self.format, false)
    }
}

// === impl Config ===

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, Self::Error> {
        let given = args.cluster_id.clone().map(checked_id).transpose()?;
        let (front, usual) = match (&args.namespace, &args.channels, &args.routes) {
            (Some(namespace), ..) => kubernetes(namespace, &args)?,
            (None, Some(channels), Some(routes)) => files(channels, routes, &args)?,
            (None, ..) => return Err(ConfigError::NoFront),
        };
        Ok(Self {
            nats: args.nats.into(),
            admin: args.admin,
            cluster: given.unwrap_or(usual),
            settings: args.config,
            resync: Duration::from_secs(args.resync_seconds.into()),
            front,
        })
    }
}

/// The file front end, and the cluster id that it has by default.
fn files(channels: &Path, routes: &Path, args: &RunArgs) -> Result<(Front, String), ConfigError> {
    if same(channels, routes) {
        return Err(ConfigError::SameDirectory);
    }
    let removal_delay = Duration::from_secs(args.removal_delay_seconds.into());
    let config = FilesConfig { channels: channels.to_owned(), routes: routes.to_owned(), removal_delay };
    Ok((Front::Files(config), id_of(channels)))
}

/// The Kubernetes front end, and the cluster id that it has by default.
fn kubernetes(namespace: &str, args: &RunArgs) -> Result<(Front, String), ConfigError> {
    let release = Release::new(namespace, &args.release).map_err(ConfigError::Release)?;
    let label = |flag, value: &String| match is_label(value) {
        true => Ok(value.clone()),
        false => Err(ConfigError::Label { flag, value: value.clone() }),
    };
    let watch = args.watch_namespaces.iter().filter(|namespace| !namespace.is_empty());
    let mut watch_namespaces: Vec<String> =
        watch.map(|namespace| label("--watch-namespaces", namespace)).collect::<Result<_, _>>()?;
    watch_namespaces.sort();
    watch_namespaces.dedup();
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let pod_name = args.pod_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(host);
    let uid = args.pod_uid.clone().filter(|uid| !uid.is_empty());
    let uid = uid.unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
    let config = KubernetesConfig {
        class_name: label("--class-name", &args.class_name)?,
        watch_namespaces,
        gateway_service: args.gateway_service.as_ref().map(|name| label("--gateway-service", name)).transpose()?,
        public_url: args.public_url.as_deref().map(public_url).transpose()?,
        lease: Duration::from_secs(args.lease_seconds.into()),
        identity: format!("{pod_name}_{uid}"),
        pod_name,
        release,
    };
    let id = format!("{}.{}", config.release.namespace(), config.release.name());
    Ok((Front::Kubernetes(config), id))
}

fn public_url(text: &str) -> Result<String, ConfigError> {
    let fault = || ConfigError::PublicUrl(text.to_owned());
    let uri: http::Uri = text.parse().map_err(|_| fault())?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    if !web || uri.authority().is_none() || uri.query().is_some() || text.len() > 1024 {
        return Err(fault());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Another directory is another owner by default: two installations that share one NATS account by accident report
/// each other's streams instead of taking or deleting them.
fn id_of(channels: &Path) -> String {
    use std::fmt::Write;
    let path = std::path::absolute(channels).unwrap_or_else(|_| channels.to_owned());
    let path = path.canonicalize().unwrap_or(path);
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(6).fold("files-".to_owned(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

fn checked_id(id: String) -> Result<String, ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if (1..=127).contains(&id.len()) && id.chars().all(plain) { Ok(id) } else { Err(ConfigError::ClusterId(id)) }
}

fn same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(args: &[&str]) -> Result<Config, ConfigError> {
        let args = Args::try_parse_from([&["tidings-operator"], args].concat()).unwrap();
        Config::try_from(args.run)
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_is_an_environment_variable_too() {
        for arg in Args::command().get_arguments().filter(|arg| arg.get_long().is_some()) {
            let long = arg.get_long().unwrap();
            let wanted = format!("TIDINGS_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(wanted.as_str()), "--{long}");
        }
    }

    #[test]
    fn the_reference_lists_every_flag_with_its_variable_and_default() {
        const REFERENCE: &str = include_str!("../../docs/reference/operator.md");
        for arg in Args::command().get_arguments().filter(|arg| arg.get_long().is_some()) {
            let long = arg.get_long().unwrap();
            let row = REFERENCE.lines().find(|line| line.starts_with(&format!("| `--{long}` |")));
            let row = row.unwrap_or_else(|| panic!("--{long} is not in the reference"));
            let env = arg.get_env().unwrap().to_str().unwrap();
            assert!(row.contains(&format!("| `{env}` |")), "{row}");
            for default in arg.get_default_values() {
                assert!(row.contains(&format!("| `{}` |", default.to_str().unwrap())), "{row}");
            }
        }
    }

    #[test]
    fn the_default_cluster_id_is_the_directory_s() {
        let id = |dir| run(&["--channels", dir, "--routes", "/r"]).unwrap().cluster;
        assert_eq!(id("/a"), id("/a"));
        assert_ne!(id("/a"), id("/b"));
        assert!(id("/a").starts_with("files-"));
    }

    #[test]
    fn unusable_settings_are_refused() {
        assert!(matches!(run(&[]), Err(ConfigError::NoFront)));
        assert!(matches!(run(&["--channels", "/a", "--routes", "/a"]), Err(ConfigError::SameDirectory)));
        let id = run(&["--channels", "/a", "--routes", "/b", "--cluster-id", "a b"]);
        assert!(matches!(id, Err(ConfigError::ClusterId(_))));
        let kubernetes = |more: &[&str]| run(&[&["--namespace", "tidings-system"], more].concat()).map(drop);
        assert!(matches!(run(&["--namespace", "a.b"]), Err(ConfigError::Release(_))));
        for faulty in [["--class-name", "A"], ["--watch-namespaces", "a,B"], ["--gateway-service", "a.b"]] {
            assert!(matches!(kubernetes(&faulty), Err(ConfigError::Label { .. })), "{faulty:?}");
        }
        for faulty in ["push.example", "ftp://push.example", "https://push.example?a=b"] {
            assert!(matches!(kubernetes(&["--public-url", faulty]), Err(ConfigError::PublicUrl(_))), "{faulty}");
        }
        Args::try_parse_from(["tidings-operator", "--namespace", "a", "--channels", "/a", "--routes", "/b"])
            .unwrap_err();
    }

    #[test]
    fn an_installation_in_kubernetes_is_named_by_its_namespace_and_release() {
        let config = run(&[
            "--namespace",
            "tidings-system",
            "--release",
            "push",
            "--watch-namespaces",
            "b,a,b",
            "--public-url",
            "https://push.example/",
            "--pod-name",
            "push-0",
            "--pod-uid",
            "u1",
        ])
        .unwrap();
        assert_eq!(config.cluster, "tidings-system.push");
        let Front::Kubernetes(kubernetes) = config.front else { panic!("{:?}", config.front) };
        assert_eq!(kubernetes.release.to_string(), "tidings-system/push");
        assert_eq!(kubernetes.watch_namespaces, ["a", "b"]);
        assert_eq!(kubernetes.public_url.as_deref(), Some("https://push.example"));
        assert_eq!(kubernetes.identity, "push-0_u1");
    }
}
