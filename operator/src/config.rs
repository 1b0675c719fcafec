//! Command line and environment, and the validated settings made from them.
//!
//! [`Args`] is what clap reads; [`Config`] is what the rest of the operator works with. Nothing else looks at the
//! command line or the environment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use sha2::{Digest, Sha256};

/// Reconciles Channels (channels.tidings.dev) into NATS streams and gateway Routes.
///
/// With --channels and --routes it reads Channel manifests from a directory and writes Route files for
/// `tidings-gateway --routes`. A manifest is what `kubectl apply` takes: YAML, several documents a file.
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
}

/// What to do with the CustomResourceDefinition.
#[derive(Debug, Subcommand)]
pub enum CrdArgs {
    /// Prints it as YAML.
    Print,
}

/// Settings for running; each is also an environment variable.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Where NATS is: one URL or several, separated by commas.
    #[arg(long, env = "TIDINGS_NATS", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub nats: String,
    /// A NATS credentials file (JWT and nkey seed).
    #[arg(long, env = "TIDINGS_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// Certificates (PEM) of the authority that signed the NATS server's.
    #[arg(long, env = "TIDINGS_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Where to answer /livez, /readyz and /metrics.
    #[arg(long, env = "TIDINGS_ADMIN", value_name = "ADDR", default_value = ":9091")]
    pub admin: Listen,
    /// The directory of Channel manifests (*.yaml, *.yml, *.json; not its subdirectories).
    #[arg(long, env = "TIDINGS_CHANNELS", value_name = "DIR", requires = "routes")]
    pub channels: Option<PathBuf>,
    /// The directory for Route files, one for each Channel. It is created if it is missing.
    #[arg(long, env = "TIDINGS_ROUTES", value_name = "DIR", requires = "channels")]
    pub routes: Option<PathBuf>,
    /// What streams carry as their owner; a stream of another owner is never touched. [default: made from the path of
    /// --channels]
    #[arg(long, env = "TIDINGS_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,
    /// Settings that are lists (subject grants), as one YAML file.
    #[arg(long, env = "TIDINGS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How often everything is compared again even though nothing seems to have changed.
    #[arg(long, env = "TIDINGS_RESYNC_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub resync_seconds: u32,
    /// How long a manifest must be gone before its Channel counts as removed.
    #[arg(long, env = "TIDINGS_REMOVAL_DELAY_SECONDS", value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub removal_delay_seconds: u32,
    /// How logs are written.
    #[command(flatten)]
    pub logs: Logs,
}

/// How logs are written.
#[derive(Clone, Debug, ClapArgs)]
pub struct Logs {
    /// What is logged: a level, or levels by module (`info,async_nats=debug`).
    #[arg(
        id = "log",
        long = "log",
        env = "TIDINGS_LOG",
        value_name = "FILTER",
        default_value = "info,async_nats=error"
    )]
    pub filter: String,
    /// As text or as JSON lines.
    #[arg(id = "log_format", long = "log-format", env = "TIDINGS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub format: LogFormat,
}

/// Text for people, JSON for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// An address to listen on; `:9091` means every address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    host: Option<IpAddr>,
    port: u16,
}

/// Settings for running, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// The NATS side.
    pub nats: NatsConfig,
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

/// How to reach NATS.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// One URL or several, separated by commas.
    pub url: String,
    /// A credentials file.
    pub credentials: Option<PathBuf>,
    /// Certificates of the authority that signed the server's.
    pub ca: Option<PathBuf>,
}

/// Where Channels come from and Routes go to.
#[derive(Clone, Debug)]
pub enum Front {
    /// Manifests in a directory, Route files in another.
    Files(FilesConfig),
}

/// The file front end.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    /// The directory of manifests.
    pub channels: PathBuf,
    /// The directory of Route files.
    pub routes: PathBuf,
    /// How long a manifest must be gone before its Channel counts as removed.
    pub removal_delay: Duration,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither front end was chosen.
    #[error("say where Channels come from: --channels DIR --routes DIR")]
    NoFront,
    /// Empty, too long, or with characters that NATS tools show badly.
    #[error("--cluster-id {0:?}: write 1 to 63 letters, digits, '-', '_', '.' or ':'")]
    ClusterId(String),
    /// The same directory for both.
    #[error("--channels and --routes need to be two directories")]
    SameDirectory,
}

// === impl Listen ===

impl Listen {
    /// The addresses to try in order: both protocols at once where the machine has IPv6, else IPv4.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        match self.host {
            Some(host) => vec![SocketAddr::new(host, self.port)],
            None => vec![
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || format!("{text:?} is not an address: write :9091, 127.0.0.1:9091 or [::1]:9091");
        if let Some(port) = text.strip_prefix(':') {
            return Ok(Self { host: None, port: port.parse().map_err(|_| fault())? });
        }
        let address: SocketAddr = text.parse().map_err(|_| fault())?;
        Ok(Self { host: Some(address.ip()), port: address.port() })
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host {
            Some(host) => SocketAddr::new(host, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

// === impl Config ===

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, Self::Error> {
        let (Some(channels), Some(routes)) = (args.channels, args.routes) else { return Err(ConfigError::NoFront) };
        if same(&channels, &routes) {
            return Err(ConfigError::SameDirectory);
        }
        let cluster = match args.cluster_id {
            Some(id) => checked_id(id)?,
            None => id_of(&channels),
        };
        let removal_delay = Duration::from_secs(args.removal_delay_seconds.into());
        Ok(Self {
            nats: NatsConfig { url: args.nats, credentials: args.nats_credentials, ca: args.nats_ca },
            admin: args.admin,
            cluster,
            settings: args.config,
            resync: Duration::from_secs(args.resync_seconds.into()),
            front: Front::Files(FilesConfig { channels, routes, removal_delay }),
        })
    }
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
    if (1..=63).contains(&id.len()) && id.chars().all(plain) { Ok(id) } else { Err(ConfigError::ClusterId(id)) }
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
    fn a_leading_colon_means_every_address() {
        let every: Listen = ":9091".parse().unwrap();
        assert_eq!(every.candidates(), ["[::]:9091".parse().unwrap(), "0.0.0.0:9091".parse().unwrap()]);
        let one: Listen = "127.0.0.1:0".parse().unwrap();
        assert_eq!(one.candidates(), ["127.0.0.1:0".parse().unwrap()]);
        assert!("localhost".parse::<Listen>().is_err());
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
    }
}
