//! Tidings as a whole, without a cluster: NATS, the operator and gateways on directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_nats::jetstream;
use http::Method;
use tempfile::TempDir;
use tidings_crds::route::{Route, RouteState};

use crate::event_source::{EventSource, Settings as Client};
use crate::gateway::Gateway;
use crate::kube_authority::KubeAuthority;
use crate::manifest::Manifest;
use crate::nats::{Nats, NatsSettings};
use crate::operator::Operator;
use crate::proxy::Proxy;
use crate::publisher::Publisher;
use crate::side::Side;
use crate::tls::{TlsClient, TlsFolder};
use crate::truth::{Incarnation, Truth};
use crate::wait::{PATIENCE, eventually};
use crate::web::{Protocol, Request};

/// What is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many gateways.
    pub gateways: usize,
    /// NATS. Users called `gateway` and `operator` are who those two log in as.
    pub nats: NatsSettings,
    /// Whether the gateways reach NATS through a [`Proxy`]; with one node only.
    pub proxied: bool,
    /// How the gateways are spoken to over TLS.
    pub tls: Option<TlsClient>,
    /// What tells it to the gateways.
    pub tls_arguments: Vec<String>,
    /// How many of the gateways, from the first on, have no TLS nevertheless.
    pub plain: usize,
    /// Certificates of the gateways that are to be kept as long as they run.
    pub certificates: Option<Arc<TlsFolder>>,
    /// What [`Installation::client`] speaks.
    pub protocol: Protocol,
    /// More arguments for every gateway.
    pub gateway_arguments: Vec<String>,
    /// What stands in the environment of every gateway.
    pub gateway_environment: Vec<(String, String)>,
    /// More arguments for the operator.
    pub operator_arguments: Vec<String>,
}

/// Everything that runs. Dropping it ends everything.
#[derive(Debug)]
pub struct Installation {
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// The operator.
    pub operator: Operator,
    /// Between the gateways and NATS, if it was asked for.
    pub proxy: Option<Proxy>,
    /// NATS.
    pub nats: Nats,
    protocol: Protocol,
    directory: TempDir,
    _certificates: Option<Arc<TlsFolder>>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            gateways: 1,
            nats: NatsSettings::default(),
            proxied: false,
            tls: None,
            tls_arguments: Vec::new(),
            plain: 0,
            certificates: None,
            protocol: Protocol::default(),
            gateway_arguments: Vec::new(),
            gateway_environment: Vec::new(),
            operator_arguments: Vec::new(),
        }
    }
}

impl Settings {
    /// With gateways and clients that meet on this side.
    pub fn on(side: Side) -> Self {
        let settings = Self { protocol: side.protocol(), ..Self::default() };
        if !side.is_secured() {
            return settings;
        }
        let authority = KubeAuthority::new().expect("an authority");
        let folder = Arc::new(TlsFolder::of(&authority));
        let settings = settings.tls(&folder, TlsClient::trusting(&authority));
        Self { certificates: Some(folder), ..settings }
    }

    /// With this many gateways.
    pub fn gateways(mut self, gateways: usize) -> Self {
        self.gateways = gateways;
        self
    }

    /// With a proxy between gateways and NATS.
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// With a cluster of three NATS nodes.
    pub fn clustered(mut self) -> Self {
        self.nats.nodes = 3;
        self
    }

    /// With gateways that show the certificate in this folder, and clients that trust who signed it.
    pub fn tls(mut self, folder: &TlsFolder, client: TlsClient) -> Self {
        self.tls = Some(client);
        self.tls_arguments.extend([folder.flag("tls-cert", "tls.crt"), folder.flag("tls-key", "tls.key")]);
        self
    }

    /// Without TLS on this many of the gateways, from the first on.
    pub fn plain(mut self, plain: usize) -> Self {
        self.plain = plain;
        self
    }

    /// With one more argument for every gateway.
    pub fn gateway_arg(mut self, argument: &str) -> Self {
        self.gateway_arguments.push(argument.to_owned());
        self
    }

    /// With a variable in the environment of every gateway.
    pub fn gateway_env(mut self, name: &str, value: &str) -> Self {
        self.gateway_environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts everything and waits until the gateways are ready.
    pub async fn start(self) -> Installation {
        let installation = self.start_unready().await;
        for gateway in &installation.gateways {
            gateway.ready().await;
        }
        installation
    }

    /// Starts everything.
    pub async fn start_unready(self) -> Installation {
        let directory = tempfile::Builder::new().prefix("tidings-").tempdir().expect("a temporary directory");
        let (channels, routes) = (directory.path().join("channels"), directory.path().join("routes"));
        for folder in [&channels, &routes] {
            std::fs::create_dir(folder).expect("a folder in the temporary directory");
        }
        let nats = Nats::start_with(self.nats).await;
        let proxy = if self.proxied { Some(Proxy::start(nats.address(0)).await) } else { None };
        let url = nats.as_user("gateway", &proxy.as_ref().map_or_else(|| nats.url(), Proxy::url));
        let operator =
            Operator::start(&nats.as_user("operator", &nats.url()), &channels, &routes, &self.operator_arguments);
        let gateways = (1..=self.gateways)
            .map(|number| {
                let (tls, more) = match number > self.plain {
                    true => (self.tls.as_ref(), self.tls_arguments.as_slice()),
                    false => (None, &[][..]),
                };
                let arguments = [&self.gateway_arguments, more].concat();
                let name = format!("gateway-{number}");
                Gateway::start_with(&name, &url, &routes, &arguments, &self.gateway_environment).secured(tls)
            })
            .collect();
        let (protocol, _certificates) = (self.protocol, self.certificates);
        Installation { gateways, operator, proxy, nats, protocol, directory, _certificates }
    }
}

// === impl Installation ===

impl Installation {
    /// One NATS node, the operator, one gateway.
    pub async fn start() -> Self {
        Settings::default().start().await
    }

    /// The same, with a gateway and clients that meet on this side.
    pub async fn on(side: Side) -> Self {
        Settings::on(side).start().await
    }

    /// Where manifests are.
    pub fn channels(&self) -> PathBuf {
        self.directory.path().join("channels")
    }

    /// Where Routes are.
    pub fn routes(&self) -> PathBuf {
        self.directory.path().join("routes")
    }

    /// Writes a manifest without waiting for anything; an unfinished file is never seen.
    pub fn write(&self, manifest: &Manifest) {
        let unfinished = self.directory.path().join(manifest.file_name());
        std::fs::write(&unfinished, manifest.to_string()).expect("the directory can be written");
        std::fs::rename(unfinished, self.channels().join(manifest.file_name())).expect("the directory can be written");
    }

    /// Takes a manifest away without waiting for anything.
    pub fn remove(&self, manifest: &Manifest) {
        std::fs::remove_file(self.channels().join(manifest.file_name())).expect("the manifest was written");
    }

    /// The Routes as they are now, by `namespace/name`. Files that are no Routes are passed over.
    pub fn route_files(&self) -> BTreeMap<String, (PathBuf, Route)> {
        let entries = std::fs::read_dir(self.routes()).expect("the directory can be read").flatten();
        let routes = entries.filter_map(|entry| {
            let route = Route::from_yaml(&std::fs::read_to_string(entry.path()).ok()?).ok()?;
            Some((route.key(), (entry.path(), route)))
        });
        routes.collect()
    }

    /// Writes a manifest and waits until every running gateway serves it as it is now. Returns the manifest.
    pub async fn channel(&self, manifest: Manifest) -> Manifest {
        let mut all = self.all_channels(vec![manifest]).await;
        all.remove(0)
    }

    /// [`Installation::channel`] for many at once.
    pub async fn all_channels(&self, manifests: Vec<Manifest>) -> Vec<Manifest> {
        let before = self.route_files();
        let mut changes = Vec::new();
        for gateway in self.running() {
            // One that has just been started answers 200 to everything until it has read the Routes.
            gateway.ready().await;
            changes.push(applied(gateway).await);
        }
        manifests.iter().for_each(|manifest| self.write(manifest));
        let mut changed = 0;
        for manifest in &manifests {
            let key = manifest.key();
            let old = before.get(&key).map(|(_, route)| route.digest());
            let what = format!("the operator writes the Route of {key}");
            eventually(PATIENCE, &what, || {
                let route = self.route_files().remove(&key).filter(|(_, route)| route.state == RouteState::Active);
                std::future::ready(route.is_some_and(|(_, route)| Some(route.digest()) != old))
            })
            .await;
            changed += 1;
        }
        for (gateway, before) in self.running().zip(changes) {
            eventually(PATIENCE, "the gateway applies the Routes", || async {
                let now = applied(gateway).await;
                (now >= before + f64::from(changed)).then_some(()).ok_or((before, now))
            })
            .await;
            for manifest in manifests.iter().filter(|manifest| manifest.is_public()) {
                // HEAD asks without opening the channel.
                let request = Request::new(Method::HEAD, gateway.url() + &manifest.path()).secured(gateway.tls());
                eventually(PATIENCE, "the gateway serves the channel", || async {
                    request.try_send().await.is_ok_and(|reply| reply.status == 200)
                })
                .await;
            }
        }
        manifests
    }

    /// The gateways that were not ended.
    pub fn running(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways.iter().filter(|gateway| gateway.is_started())
    }

    /// The URL of a channel's events on a gateway.
    pub fn url(&self, gateway: usize, manifest: &Manifest, parameters: &[(&str, &str)]) -> String {
        self.gateways[gateway].url() + &manifest.path_with(parameters)
    }

    /// A client of a channel on a gateway, not yet connected.
    pub fn client(&self, gateway: usize, manifest: &Manifest, parameters: &[(&str, &str)]) -> Client {
        self.client_of(&[gateway], manifest, parameters)
    }

    /// A client that goes from gateway to gateway, not yet connected.
    pub fn client_of(&self, gateways: &[usize], manifest: &Manifest, parameters: &[(&str, &str)]) -> Client {
        let urls = gateways.iter().map(|gateway| self.url(*gateway, manifest, parameters));
        let tls = gateways.iter().find_map(|gateway| self.gateways[*gateway].tls());
        Client::any_of(urls).over(self.protocol).secured(tls)
    }

    /// A client that has connected and been told where it stands: nothing published from here on escapes it.
    pub async fn subscribe(&self, gateway: usize, manifest: &Manifest, parameters: &[(&str, &str)]) -> EventSource {
        let mut source = self.client(gateway, manifest, parameters).open();
        source.next_open().await;
        source.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
        source
    }

    /// JetStream over a connection of the test's own.
    pub async fn jetstream(&self) -> jetstream::Context {
        self.nats.jetstream().await
    }

    /// A publisher to a durable channel, over a connection of its own.
    pub async fn publisher(&self, manifest: &Manifest) -> Publisher {
        Publisher::new(&self.jetstream().await, manifest)
    }

    /// What a durable channel's stream holds now.
    pub async fn truth(&self, manifest: &Manifest) -> Truth {
        let stream = self.publisher(manifest).await.stream().await;
        Truth(vec![Incarnation::read(&stream, manifest).await])
    }

    /// Waits until a gateway has this many subscribers.
    pub async fn subscribers(&self, gateway: usize, count: u32) {
        eventually(PATIENCE, &format!("the gateway has {count} subscribers"), || async {
            let now = self.gateways[gateway].metrics().await.sum("tidings_subscribers");
            (now == f64::from(count)).then_some(()).ok_or(now)
        })
        .await;
    }
}

/// How many Route changes a gateway has applied.
async fn applied(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum_where("tidings_route_changes_total", &["change=\"applied\""])
}
