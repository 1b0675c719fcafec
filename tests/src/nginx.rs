//! A real nginx with the recipe from the documentation in front of gateways.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Process, Program, repository};
use crate::tls::TlsFolder;

/// Where the recipe stands: the one block of this language.
const DOCUMENT: &str = "docs/install.md";

/// The recipe as it is documented, or with something changed.
#[derive(Clone, Debug)]
pub struct Recipe(String);

/// A running nginx. Dropping it ends it.
#[derive(Debug)]
pub struct Nginx {
    port: Port,
    _process: Process,
    _folder: TempDir,
}

// === impl Recipe ===

impl Recipe {
    /// As it is documented.
    ///
    /// # Panics
    /// When it is not there.
    pub fn documented() -> Self {
        let text = std::fs::read_to_string(repository().join(DOCUMENT)).expect("the document is there");
        let mut blocks = text.split("```nginx\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()));
        match (blocks.next(), blocks.next()) {
            (Some(recipe), None) => Self(recipe),
            _ => panic!("{DOCUMENT} has one block of nginx's language"),
        }
    }

    /// With one place of it changed.
    ///
    /// # Panics
    /// When the recipe does not have exactly one such place.
    pub fn with(self, place: &str, change: &str) -> Self {
        assert_eq!(self.0.matches(place).count(), 1, "{place:?} stands once in the recipe:\n{}", self.0);
        Self(self.0.replace(place, change))
    }

    /// In front of these gateways, with the certificate in this folder.
    pub async fn start(self, gateways: &[SocketAddr], tls: &TlsFolder) -> Nginx {
        let port = Port::free();
        let servers: Vec<String> = gateways.iter().map(|address| format!("server {address} max_fails=0;")).collect();
        let recipe = self
            .with("server tidings-1.example:8080 max_fails=0;", &servers.join(" "))
            .with("server tidings-2.example:8080 max_fails=0;", "")
            .with("listen 443 ", &format!("listen {} ", port.address()))
            .with("/etc/nginx/push.example.crt", &tls.path("tls.crt").display().to_string())
            .with("/etc/nginx/push.example.key", &tls.path("tls.key").display().to_string());
        let folder = tempfile::Builder::new().prefix("tidings-nginx-").tempdir().expect("a temporary directory");
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, around(&recipe, &folder)).expect("the directory can be written");
        let process = Program::new("nginx", program()).args(["-e", "stderr", "-c"]).arg(file).start();
        process.ready(|| async { tokio::net::TcpStream::connect(port.address()).await.is_ok() }).await;
        Nginx { port, _process: process, _folder: folder }
    }
}

// === impl Nginx ===

impl Nginx {
    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.port.address())
    }
}

/// What surrounds the recipe: one process, as anybody, that compresses whatever it can.
fn around(Recipe(recipe): &Recipe, folder: &TempDir) -> String {
    let folder = folder.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off;
{temporary}    gzip on;
    gzip_types text/event-stream;
    gzip_min_length 0;
    gzip_proxied any;
{recipe}}}
"
    )
}

/// The path of nginx, found or fetched by `scripts/nginx.sh`.
fn program() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let script = repository().join("scripts/nginx.sh");
        let output = std::process::Command::new(&script).output().expect("the script can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} failed:\n{said}", script.display());
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
    .clone()
}
