//! A cluster under test, as those see it who only talk to its API: kubeconfigs, clients, namespaces, manifests.
//!
//! Where it comes from is no concern of a test: a control plane of our own ([`ControlPlane`]), or a cluster that the user
//! offers by naming one of its contexts in `TIDINGS_TEST_CLUSTER` beside `KUBECONFIG`. `KUBECONFIG` alone offers nothing:
//! it stands in too many shells, and these tests create namespaces and cluster-wide roles.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{AuthInfo, Context as KubeContext, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedContext};
use kube::{Client, Config};
use tokio::sync::OnceCell;

use crate::control_plane::ControlPlane;
use crate::evidence;
use crate::kube_namespace::KubeNamespace;
use crate::kubectl::Kubectl;
use crate::reaper::Reaper;

/// A cluster with administrator's rights. A clone speaks of the same cluster, for as long as that runs.
#[derive(Clone, Debug)]
pub struct KubeCluster {
    kubeconfig: PathBuf,
    config: Kubeconfig,
    directory: PathBuf,
    kubectl: PathBuf,
    /// Of a user's cluster: what removes our files about it, credentials among them.
    given: Option<Arc<Reaper>>,
}

/// The cluster that the tests of one binary share.
#[derive(Debug)]
enum Shared {
    Started(Box<ControlPlane>),
    Given(Box<KubeCluster>),
}

static SHARED: OnceCell<Shared> = OnceCell::const_new();

impl KubeCluster {
    /// The cluster of this test binary: the user's, if one is offered, else a control plane started by the first test
    /// that asks. Tests keep out of each other's way by [namespaces](Self::namespace) of their own.
    pub async fn shared() -> Result<&'static KubeCluster> {
        let shared = SHARED.get_or_try_init(|| async {
            anyhow::Ok(match KubeCluster::offered()? {
                Some(cluster) => Shared::Given(Box::new(cluster)),
                None => Shared::Started(Box::new(ControlPlane::start().await?)),
            })
        });
        Ok(match shared.await? {
            Shared::Started(control_plane) => control_plane.cluster(),
            Shared::Given(cluster) => cluster,
        })
    }

    /// The cluster that the user offers for tests, if there is one.
    pub fn offered() -> Result<Option<KubeCluster>> {
        context_offered()?.map(|(config, context)| KubeCluster::given(config, &context)).transpose()
    }

    /// The cluster behind an administrator's kubeconfig that is ours; its files go to `directory`.
    pub(crate) fn started(kubeconfig: PathBuf, directory: &Path, kubectl: PathBuf) -> Result<KubeCluster> {
        let config = Kubeconfig::read_from(&kubeconfig)?;
        Ok(KubeCluster { kubeconfig, config, directory: directory.to_owned(), kubectl, given: None })
    }

    fn given(mut config: Kubeconfig, context: &str) -> Result<KubeCluster> {
        let directory = tempfile::Builder::new().prefix("tidings-cluster-").tempdir()?.keep();
        let files = Reaper::start(&directory)?;
        config.current_context = Some(context.to_owned());
        let kubeconfig = directory.join("admin.kubeconfig");
        write_private(&kubeconfig, &serde_yaml::to_string(&config)?)?;
        Ok(KubeCluster {
            kubeconfig,
            config,
            directory,
            kubectl: PathBuf::from("kubectl"),
            given: Some(Arc::new(files)),
        })
    }

    /// Whether this is the user's cluster, where a test cleans up after itself and can stop nothing.
    pub fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// An administrator's client. It belongs to the runtime that calls this, as every test has its own.
    pub async fn client(&self) -> Result<Client> {
        client_of(self.config.clone()).await
    }

    /// An administrator's kubectl.
    pub fn kubectl(&self) -> Kubectl {
        self.kubectl_with(&self.kubeconfig)
    }

    /// A kubectl for the user of another kubeconfig.
    pub fn kubectl_with(&self, kubeconfig: &Path) -> Kubectl {
        Kubectl::new(self.kubectl.clone(), kubeconfig.to_owned(), self.directory.join("kubectl-cache"))
    }

    /// A new namespace `<prefix>-<random>`.
    pub async fn namespace(&self, prefix: &str) -> Result<KubeNamespace> {
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let wanted = Namespace { metadata, ..Namespace::default() };
        let namespaces: Api<Namespace> = Api::all(self.client().await?);
        let created =
            namespaces.create(&PostParams::default(), &wanted).await.context("failed to create a namespace")?;
        let name = created.metadata.name.context("the namespace has no name")?;
        Ok(KubeNamespace::new(name, self.is_given().then(|| self.kubectl())))
    }

    /// The kubeconfig of a service account, with a real token of one hour. The service account must exist.
    pub async fn kubeconfig_for(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        self.kubeconfig_through(None, namespace, account).await
    }

    /// Like [`kubeconfig_for`](Self::kubeconfig_for), but reaching the API server through `server`
    /// (`https://127.0.0.1:<port>`): a proxy that a test cuts to part one client from the API server.
    pub async fn kubeconfig_through(&self, server: Option<&str>, namespace: &str, account: &str) -> Result<PathBuf> {
        let mut config = self.config_for(namespace, account).await?;
        for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            if let Some(server) = server {
                cluster.server = Some(server.to_owned());
            }
        }
        let suffix = if server.is_some() { "-proxied" } else { "" };
        let path = self.directory.join(format!("{namespace}.{account}{suffix}.kubeconfig"));
        write_private(&path, &serde_yaml::to_string(&config)?)?;
        Ok(path)
    }

    /// A client with the rights of a service account.
    pub async fn client_for(&self, namespace: &str, account: &str) -> Result<Client> {
        client_of(self.config_for(namespace, account).await?).await
    }

    /// A token of one hour for a service account; no audience means the API server's own.
    pub async fn token(&self, namespace: &str, account: &str, audiences: &[&str]) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let spec = TokenRequestSpec { audiences, expiration_seconds: Some(3600), bound_object_ref: None };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("failed to get a token for {namespace}/{account}"))?;
        let token = answer.status.context("the token request was not answered")?.token;
        evidence::made(&token);
        Ok(token)
    }

    async fn config_for(&self, namespace: &str, account: &str) -> Result<Kubeconfig> {
        let token = self.token(namespace, account, &[]).await?;
        let mut config = self.config.clone();
        let current = config.current_context.clone().context("the kubeconfig has no current context")?;
        let context = config.contexts.iter().find(|named| named.name == current);
        let context = context.and_then(|named| named.context.clone()).context("the current context does not exist")?;
        let user = format!("{namespace}/{account}");
        let auth = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        config.auth_infos =
            vec![NamedAuthInfo { name: user.clone(), auth_info: Some(auth), ..NamedAuthInfo::default() }];
        config.clusters.retain(|named| named.name == context.cluster);
        let context = KubeContext { user: Some(user), namespace: Some(namespace.to_owned()), ..context };
        config.contexts = vec![NamedContext { name: current, context: Some(context), ..NamedContext::default() }];
        Ok(config)
    }
}

/// The user's kubeconfig and the name of the context that is offered for tests.
fn context_offered() -> Result<Option<(Kubeconfig, String)>> {
    let Some(context) = std::env::var("TIDINGS_TEST_CLUSTER").ok().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let config = Kubeconfig::from_env()?.context("TIDINGS_TEST_CLUSTER is set, but KUBECONFIG is not")?;
    let known = config.contexts.iter().any(|named| named.name == context);
    anyhow::ensure!(known, "TIDINGS_TEST_CLUSTER names the context {context:?}, which KUBECONFIG does not have");
    Ok(Some((config, context)))
}

async fn client_of(config: Kubeconfig) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Writes a file that nobody else may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("failed to write {}", path.display()))
}
