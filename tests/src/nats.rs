//! A real nats-server with JetStream, in a directory of its own: one node or a cluster of several.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use async_nats::{ConnectOptions, jetstream};
use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Process, Program, repository};
use crate::wait::{PATIENCE, eventually};
use crate::web::Request;

/// A user and what it may do. Without users everybody may do everything.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// Its name, and its password.
    pub name: String,
    /// Subjects it may publish to; absent means all.
    pub publish: Option<Vec<String>>,
    /// Subjects it may subscribe to; absent means all.
    pub subscribe: Option<Vec<String>>,
    /// Whether it may answer what it is asked, wherever the answer goes.
    pub responses: bool,
}

/// How the servers are set up. What streams reserve (1 GiB each by default) is never short.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// 1, or 3 for a cluster.
    pub nodes: usize,
    /// Users, the test's own first; empty means no authorisation.
    pub users: Vec<User>,
    /// More lines of configuration.
    pub more: String,
    /// What the test's own connections are made with.
    pub options: ConnectOptions,
}

/// One server, or a cluster of them.
#[derive(Debug)]
pub struct Nats {
    nodes: Vec<Node>,
    users: Vec<User>,
    options: ConnectOptions,
    directory: TempDir,
}

#[derive(Debug)]
struct Node {
    program: Program,
    /// Where its configuration stands, and how that begins.
    file: (PathBuf, String),
    process: Option<Process>,
    client: Port,
    monitor: Port,
    _route: Port,
}

// === impl User ===

impl User {
    /// Who may do everything.
    pub fn administrator() -> Self {
        Self { name: "admin".to_owned(), publish: None, subscribe: None, responses: false }
    }

    /// Who may do what the documentation's configuration says, `gateway` or `operator`.
    ///
    /// # Panics
    /// When the documentation has no such user.
    pub fn documented(name: &str) -> Self {
        let text = std::fs::read_to_string(repository().join("docs/reference/nats-permissions.md")).expect("the page");
        let block =
            text.split("```").find(|block| block.contains(&format!("user: {name},"))).expect("the user's block");
        let side = |side: &str| {
            let list = block.split_once(&format!("{side}:"));
            let list = list.and_then(|(_, rest)| rest.split_once(']')?.0.split_once('['));
            let (_, list) = list.expect("a list in brackets");
            list.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        };
        let responses = block.contains("allow_responses: true");
        Self { name: name.to_owned(), publish: Some(side("publish")), subscribe: Some(side("subscribe")), responses }
    }
}

// === impl NatsSettings ===

impl Default for NatsSettings {
    fn default() -> Self {
        Self { nodes: 1, users: Vec::new(), more: String::new(), options: ConnectOptions::new() }
    }
}

// === impl Nats ===

impl Nats {
    /// One node, open to everybody.
    pub async fn start() -> Self {
        Self::start_with(NatsSettings::default()).await
    }

    /// Starts servers and waits until JetStream is healthy on all of them.
    pub async fn start_with(settings: NatsSettings) -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-nats-").tempdir().expect("a temporary directory");
        let ports: Vec<[Port; 3]> = (0..settings.nodes).map(|_| std::array::from_fn(|_| Port::free())).collect();
        let routes: Vec<u16> = ports.iter().map(|[_, _, route]| route.number()).collect();
        let nodes = ports.into_iter().enumerate().map(|(index, [client, monitor, route])| {
            let name = format!("n{}", index + 1);
            let file = directory.path().join(format!("{name}.conf"));
            let text = configuration(&name, directory.path(), &client, &monitor, &route, &routes, &settings.users);
            std::fs::write(&file, text.clone() + &settings.more).expect("the directory can be written");
            let program = Program::new(format!("nats-{name}"), server_path()).arg("--config").arg(&file);
            Node { program, file: (file, text), process: None, client, monitor, _route: route }
        });
        let mut nats = Self { nodes: nodes.collect(), users: settings.users, options: settings.options, directory };
        for node in 0..settings.nodes {
            nats.launch(node);
        }
        nats.ready().await;
        nats
    }

    /// What the servers refused somebody for want of permission.
    pub fn refusals(&self) -> Vec<String> {
        let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let lines = running.map(Process::output).collect::<String>();
        lines.lines().filter(|line| line.contains("iolation")).map(str::to_owned).collect()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The URL of a node's client port.
    pub fn node_url(&self, node: usize) -> String {
        format!("nats://{}", self.nodes[node].client.address())
    }

    /// The URLs of all nodes, joined by commas.
    pub fn url(&self) -> String {
        (0..self.nodes()).map(|node| self.node_url(node)).collect::<Vec<_>>().join(",")
    }

    /// [`Nats::url`] with the credentials of a user.
    pub fn url_of(&self, user: &str) -> String {
        self.as_user(user, &self.url())
    }

    /// A URL with the credentials of a user, if there is one of that name.
    pub fn as_user(&self, user: &str, url: &str) -> String {
        let known = self.users.iter().any(|known| known.name == user);
        if known { url.replace("nats://", &format!("nats://{user}:{user}@")) } else { url.to_owned() }
    }

    /// The host and port of a node, as a proxy needs it.
    pub fn address(&self, node: usize) -> std::net::SocketAddr {
        self.nodes[node].client.address()
    }

    /// A connection of the test's own, as the first user; it reconnects for ever.
    pub async fn client(&self) -> async_nats::Client {
        let options = self
            .options
            .clone()
            .name("test")
            .max_reconnects(None)
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .request_timeout(Some(Duration::from_secs(5)));
        // The client library ignores credentials in a URL.
        let options = match self.users.first() {
            Some(User { name, .. }) => options.user_and_password(name.clone(), name.clone()),
            None => options,
        };
        let urls: Vec<String> = (0..self.nodes()).map(|node| self.node_url(node)).collect();
        eventually(PATIENCE, "a NATS connection", || options.clone().connect(urls.clone())).await
    }

    /// JetStream over a connection of the test's own.
    pub async fn jetstream(&self) -> jetstream::Context {
        let mut context = jetstream::new(self.client().await);
        context.set_timeout(Duration::from_secs(5));
        context
    }

    /// The process of a node.
    ///
    /// # Panics
    /// While it is not started.
    pub fn node(&self, node: usize) -> &Process {
        self.nodes[node].process.as_ref().expect("the node was started")
    }

    /// `kill -9` of a node; its store stays.
    pub fn kill9(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].process.take() {
            process.kill9();
        }
    }

    /// SIGTERM to a node, and its end.
    pub async fn terminate(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].process.take() {
            process.terminate().await;
        }
    }

    /// Starts a node that was ended, on its old ports and its old store, without waiting.
    pub fn launch(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.process = Some(node.program.start());
    }

    /// Lets every node read `more` in place of what stood in its configuration before, and waits until it has.
    pub async fn reload(&self, more: &str) {
        const DONE: &str = "Reloaded server configuration";
        for Node { file: (file, text), process, .. } in &self.nodes {
            let Some(process) = process else { continue };
            let before = process.output().matches(DONE).count();
            std::fs::write(file, text.clone() + more).expect("the directory can be written");
            process.hang_up();
            process.ready(|| std::future::ready(process.output().matches(DONE).count() > before)).await;
        }
    }

    /// Waits until every started node is healthy.
    pub async fn ready(&self) {
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            let health = Request::get(format!("http://{}/healthz", node.monitor.address()));
            process.ready(|| async { health.try_send().await.is_ok_and(|reply| reply.status == 200) }).await;
        }
    }

    /// Ends all nodes with SIGTERM and starts them again.
    pub async fn restart(&mut self) {
        for node in 0..self.nodes() {
            self.terminate(node).await;
        }
        for node in 0..self.nodes() {
            self.launch(node);
        }
        self.ready().await;
    }

    /// Where a node keeps its streams.
    pub fn store(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("n{}", node + 1))
    }

    /// Copies the store of a node that does not run, as a volume snapshot would.
    pub fn snapshot_store(&self, node: usize) -> TempDir {
        assert!(self.nodes[node].process.is_none(), "a running node's store is not consistent");
        let copy = tempfile::tempdir().expect("a temporary directory");
        copy_folder(&self.store(node), copy.path());
        copy
    }

    /// Puts a copied store back in place of a stopped node's own.
    pub fn restore_store(&self, node: usize, copy: &Path) {
        assert!(self.nodes[node].process.is_none(), "a running node would not notice");
        let store = self.store(node);
        std::fs::remove_dir_all(&store).expect("the store can be removed");
        copy_folder(copy, &store);
    }

    /// The node that leads a stream.
    pub async fn leader(&self, stream: &str) -> usize {
        let jetstream = self.jetstream().await;
        let name = eventually(PATIENCE, "the stream has a leader", || async {
            let info = jetstream.get_stream(stream).await.ok()?;
            info.cached_info().cluster.as_ref()?.leader.clone()
        })
        .await;
        let number: usize = name.trim_start_matches('n').parse().expect("nodes are called n1, n2, …");
        number - 1
    }
}

/// The path of nats-server, found or built by `scripts/nats-server.sh`.
fn server_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let script = repository().join("scripts/nats-server.sh");
        let output = std::process::Command::new(&script).output().expect("the script can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} failed:\n{said}", script.display());
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

fn configuration(
    name: &str,
    directory: &Path,
    client: &Port,
    monitor: &Port,
    route: &Port,
    routes: &[u16],
    users: &[User],
) -> String {
    let store = directory.join(name);
    let mut text = format!(
        "server_name: {name}\n\
         listen: {}\n\
         http: {}\n\
         max_payload: 8MB\n\
         jetstream {{ store_dir: {:?}, max_memory_store: 64GB, max_file_store: 4TB }}\n",
        client.address(),
        monitor.address(),
        store
    );
    if routes.len() > 1 {
        let urls: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let (listen, urls) = (route.address(), urls.join(", "));
        let _ = writeln!(text, "cluster {{ name: tests, listen: {listen}, routes: [{urls}] }}");
    }
    if !users.is_empty() {
        let _ = writeln!(text, "authorization {{ users: [");
        for User { name, publish, subscribe, responses } in users {
            let _ = write!(text, "  {{ user: {name}, password: {name}");
            if publish.is_some() || subscribe.is_some() {
                let side = |subjects: &Option<Vec<String>>| match subjects {
                    Some(subjects) => format!("{subjects:?}"),
                    None => "[\">\"]".to_owned(),
                };
                let (publish, subscribe) = (side(publish), side(subscribe));
                let _ = write!(text, ", permissions: {{ publish: {publish}, subscribe: {subscribe}");
                let _ = write!(text, ", allow_responses: {responses} }}");
            }
            let _ = writeln!(text, " }}");
        }
        let _ = writeln!(text, "] }}");
    }
    text
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the copy can be written");
    for entry in std::fs::read_dir(from).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the copy can be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(jetstream: &jetstream::Context, data: &'static str) -> u64 {
        eventually(PATIENCE, "a publication is stored", || async {
            jetstream.publish("s", data.into()).await.map_err(|e| e.to_string())?.await.map_err(|e| e.to_string())
        })
        .await
        .sequence
    }

    fn stream(replicas: usize) -> jetstream::stream::Config {
        jetstream::stream::Config {
            name: "S".into(),
            subjects: vec!["s".into()],
            num_replicas: replicas,
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn a_killed_server_comes_back_with_its_store() {
        let mut nats = Nats::start().await;
        let jetstream = nats.jetstream().await;
        jetstream.create_stream(stream(1)).await.expect("a stream");
        assert_eq!(store(&jetstream, "a").await, 1);
        nats.kill9(0);
        nats.launch(0);
        nats.ready().await;
        assert_eq!(store(&jetstream, "b").await, 2);
    }

    #[tokio::test]
    async fn a_store_can_go_back_in_time() {
        let mut nats = Nats::start().await;
        let jetstream = nats.jetstream().await;
        jetstream.create_stream(stream(1)).await.expect("a stream");
        store(&jetstream, "a").await;
        nats.terminate(0).await;
        let copy = nats.snapshot_store(0);
        nats.launch(0);
        assert_eq!(store(&jetstream, "b").await, 2);
        nats.terminate(0).await;
        nats.restore_store(0, copy.path());
        nats.launch(0);
        assert_eq!(store(&jetstream, "c").await, 2);
    }

    #[tokio::test]
    async fn a_cluster_survives_the_loss_of_a_streams_leader() {
        let mut nats = Nats::start_with(NatsSettings { nodes: 3, ..Default::default() }).await;
        let jetstream = nats.jetstream().await;
        eventually(PATIENCE, "a stream", || jetstream.create_stream(stream(3))).await;
        store(&jetstream, "a").await;
        let leader = nats.leader("S").await;
        nats.kill9(leader);
        assert_eq!(store(&jetstream, "b").await, 2);
    }

    #[tokio::test]
    async fn users_have_only_their_permissions() {
        let admin = User { name: "admin".into(), ..User::default() };
        let guest = User {
            name: "guest".into(),
            publish: Some(vec!["open.>".into()]),
            subscribe: Some(vec![]),
            ..User::default()
        };
        let nats = Nats::start_with(NatsSettings { users: vec![admin, guest], ..Default::default() }).await;
        let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
        let options = async_nats::ConnectOptions::new().event_callback(move |event| {
            let _ = told.send(event.to_string());
            std::future::ready(())
        });
        let options = options.user_and_password("guest".into(), "guest".into());
        let guest = options.connect(nats.url()).await.expect("a guest may connect");
        guest.publish("closed", "x".into()).await.expect("sent");
        eventually(PATIENCE, "a refusal", || {
            let refused = telling.try_recv().is_ok_and(|event| event.to_lowercase().contains("permissions violation"));
            std::future::ready(refused)
        })
        .await;
    }
}
