//! One real `tidings-gateway`, on the same ports over restarts.

use std::path::Path;

use tokio::net::TcpStream;

use crate::evidence;
use crate::line::Line;
use crate::metrics::Samples;
use crate::ports::Port;
use crate::process::{Process, Program};
use crate::tls::TlsClient;
use crate::web::{Reply, Request};

/// The binary's name.
pub const BINARY: &str = "tidings-gateway";

/// A gateway, running or not.
#[derive(Debug)]
pub struct Gateway {
    program: Program,
    process: Option<Process>,
    listen: Port,
    admin: Port,
    tls: Option<TlsClient>,
}

// === impl Gateway ===

impl Gateway {
    /// Starts a gateway that reads its Routes from a directory; [`Gateway::ready`] waits for it.
    pub fn start(name: &str, nats: &str, routes: &Path, arguments: &[String]) -> Self {
        Self::start_with(name, nats, routes, arguments, &[])
    }

    /// The same with an environment of its own.
    pub fn start_with(
        name: &str,
        nats: &str,
        routes: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Self {
        let program = Program::built(BINARY).named(name).arg("--routes").arg(routes);
        let program = environment.iter().fold(program, |program, (name, value)| program.env(name, value));
        Self::of(program, nats, arguments)
    }

    /// Starts a gateway that reads its Routes from a cluster: `--namespace` is among the arguments.
    pub fn start_in_cluster(name: &str, nats: &str, kubeconfig: &Path, arguments: &[String]) -> Self {
        let kubeconfig = kubeconfig.to_str().expect("the path is plain");
        Self::of(Program::built(BINARY).named(name).env("KUBECONFIG", kubeconfig), nats, arguments)
    }

    fn of(program: Program, nats: &str, arguments: &[String]) -> Self {
        let (listen, admin) = (Port::free(), Port::free());
        let program = program
            .args(["--nats", nats, "--listen", &listen.address().to_string(), "--admin", &admin.address().to_string()])
            // A test that drains says so itself; all others must not wait for it.
            .args(["--drain-delay", "0s", "--drain-window", "1s"])
            .env(
                "TIDINGS_LOG",
                std::env::var("TIDINGS_LOG").unwrap_or_else(|_| "info,kube_client=off,kube_runtime=off".into()),
            )
            .args(arguments.iter().cloned());
        let process = Some(program.start());
        Self { program, process, listen, admin, tls: None }
    }

    /// Spoken to over TLS, if there is any; the arguments say so to the gateway itself.
    pub fn secured(mut self, tls: Option<&TlsClient>) -> Self {
        self.tls = tls.cloned();
        self
    }

    /// How it is spoken to over TLS, if it is.
    pub fn tls(&self) -> Option<&TlsClient> {
        self.tls.as_ref()
    }

    /// Waits until it is ready for subscribers.
    pub async fn ready(&self) {
        self.process().ready(|| async { self.is_ready().await }).await;
    }

    /// Whether its readiness probe succeeds.
    pub async fn is_ready(&self) -> bool {
        self.admin("/readyz").await.is_some_and(|reply| reply.status == 200)
    }

    /// Whether its liveness probe succeeds.
    pub async fn is_live(&self) -> bool {
        self.admin("/livez").await.is_some_and(|reply| reply.status == 200)
    }

    /// `http://127.0.0.1:port` of the admin port.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin.address())
    }

    /// What the admin port says; `None` if it says nothing.
    pub async fn admin(&self, path: &str) -> Option<Reply> {
        Request::get(self.admin_url() + path).try_send().await.ok()
    }

    /// Its metrics now.
    ///
    /// # Panics
    /// When the admin port does not answer.
    pub async fn metrics(&self) -> Samples {
        self.try_metrics().await.expect("the admin port serves metrics")
    }

    /// Its metrics now, if the admin port answers.
    pub async fn try_metrics(&self) -> Option<Samples> {
        self.admin("/metrics").await.filter(|reply| reply.status == 200).map(|reply| Samples::read(&reply.text()))
    }

    /// `http://127.0.0.1:port` of the public port, or `https`.
    pub fn url(&self) -> String {
        format!("http{}://{}", if self.tls.is_some() { "s" } else { "" }, self.listen.address())
    }

    /// The public port.
    pub fn address(&self) -> std::net::SocketAddr {
        self.listen.address()
    }

    /// Bytes on a connection to the public port: over TLS, if there is any, for which this protocol is offered.
    pub async fn line(&self, socket: TcpStream, protocol: &str) -> Line {
        match &self.tls {
            None => Box::new(socket),
            Some(tls) => Box::new(tls.connect(socket, protocol).await.expect("a session")),
        }
    }

    /// Its process.
    ///
    /// # Panics
    /// While it is not started.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the gateway was started")
    }

    /// Whether a process was started and has not been ended from here.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill9();
        }
    }

    /// SIGTERM and its end.
    pub async fn terminate(&mut self) -> Option<std::process::ExitStatus> {
        Some(self.process.take()?.terminate().await)
    }

    /// Starts it again on its old ports, without waiting.
    pub fn launch(&mut self) {
        self.process = Some(self.program.start());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.is_started() {
            evidence::scrape(self.admin.address());
        }
    }
}
