//! Everything from outside: a NATS of somebody's own behind TLS and credentials, TLS on the gateway, an operator that watches
//! one namespace, and pods that subscribe and publish as who they are.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tidings_tests::chart_site::Site;
use tidings_tests::crowd::Tally;
use tidings_tests::evidence;
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::manifest::Manifest;
use tidings_tests::nats_jwt::NatsAuthority;
use tidings_tests::token_search::Tokens;
use tidings_tests::wait::eventually;

use crate::{PATIENCE, tally, told, wait_ready};

/// What a withdrawn right may still be worth.
const MINUTE: Duration = Duration::from_secs(60);
/// What is not the gateway's: the API server's own caches, and reading a pod's log on a busy machine.
const SLACK: Duration = Duration::from_secs(15);
/// What the gateway's certificate is for; not the name that pods call it by.
const PUBLIC: &str = "push.example";
/// Each pod subscribes this many times.
const CLIENTS: usize = 2;

const VALUES: &str = "
nats:
  builtIn: { enabled: false }
  url: tls://nats.bus.svc:4222
  credentials: { operatorSecret: nats-operator, gatewaySecret: nats-gateway }
  tls: { caSecret: nats-ca }
operator: { watchNamespaces: [shop] }
gateway:
  tls: { secretName: push-tls }
  config: { kubernetes: { enabled: true } }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "part of make e2e: needs root and containerd, or a cluster of one's own"]
async fn pods_have_the_rights_of_their_service_accounts_behind_tls_and_an_external_nats() -> Result<()> {
    let site = Site::start(1).await?;
    told(&site, from_outside(&site)).await
}

async fn from_outside(site: &Site) -> Result<()> {
    let authority = KubeAuthority::new()?;
    for namespace in ["bus", "secure", "shop"] {
        site.restricted_namespace(namespace).await?;
    }
    site.namespace("elsewhere").await?;
    let nats = external_nats(site, &authority).await?;
    let shown = authority.server(PUBLIC, &[])?;
    secret(site, "secure", "push-tls", json!({"tls.crt": shown.certificate, "tls.key": shown.key})).await?;
    secret(site, "shop", "authority", json!({"ca.crt": authority.certificate()})).await?;

    let values = tempfile::NamedTempFile::new()?;
    std::fs::write(values.path(), VALUES)?;
    let (release, _) = site.install("push", "secure", &[&format!("--values={}", values.path().display())]).await?;
    let said = release.test().await?;
    ensure!(said.contains("What is not allowed was refused."), "helm test --logs shows what was tried: {said}");

    let by_token = json!({"mode": "Token"});
    let of = |namespace: &str| {
        let channel = Manifest::new(namespace, "orders").with("access/subscribe", by_token.clone());
        channel.with("access/publish", by_token.clone())
    };
    for namespace in ["elsewhere", "shop"] {
        site.kubectl.run_with(&["apply", "-f", "-"], &of(namespace).to_string()).await?;
    }
    wait_ready(site, "shop").await?;
    let unwatched = site.get("tch orders -n elsewhere").await?;
    ensure!(unwatched["status"].is_null(), "nobody watches that namespace: {unwatched}");

    service_accounts(site, &of("shop").path()).await?;
    no_token_is_told(site, &nats).await?;
    release.uninstall().await
}

/// Searches what all pods have said for the visitors' tokens and the logins to NATS, right here; the run's own search finds
/// both among its evidence as well.
async fn no_token_is_told(site: &Site, nats: &[String]) -> Result<()> {
    let mut tokens = Tokens::default();
    nats.iter().flat_map(|credentials| credentials.lines()).for_each(|line| tokens.add(line));
    // The deleted account's pod is still there, and so is its token.
    for pod in ["bound", "stranger", "unbound", "deleted"] {
        let exec = ["exec", "-n", "shop", pod, "--", "/usr/local/bin/visitor", "token", "/token/token"];
        let token = site.kubectl.run(&exec).await?;
        ensure!(token.starts_with("eyJ"), "{pod} has a token");
        evidence::made(token.trim());
        tokens.add(token.trim());
    }
    for (namespace, least) in [("secure", 3), ("shop", 4), ("bus", 1)] {
        let logs = site.logs(namespace).await?;
        ensure!(logs.iter().filter(|(_, log)| !log.is_empty()).count() >= least, "the pods of {namespace} have spoken");
        for (name, log) in logs {
            for (number, line) in log.lines().enumerate() {
                // The release's own tokens for the API server are not known here; but every one begins like this.
                let told = tokens.are_in(line.as_bytes()) || line.contains("eyJ");
                ensure!(!told, "{name} tells a token in line {}", number + 1);
            }
        }
    }
    Ok(())
}

/// As somebody else would run it: every user known by a signed token, every connection over TLS.
/// Returns the logins that were given out.
async fn external_nats(site: &Site, authority: &KubeAuthority) -> Result<Vec<String>> {
    let nats = NatsAuthority::new();
    let identity = authority.server("nats.bus.svc", &[])?;
    let configuration = format!(
        "port: 4222\njetstream {{ store_dir: /data }}\n\
         tls {{ cert_file: /etc/nats/tls.crt, key_file: /etc/nats/tls.key }}\n{}",
        nats.configuration()
    );
    let files = json!({"nats.conf": configuration, "tls.crt": identity.certificate, "tls.key": identity.key});
    secret(site, "bus", "nats", files).await?;
    let container = json!({
        "image": site.images.nats_server().await?,
        "command": ["nats-server"],
        "args": ["--config", "/etc/nats/nats.conf"],
        "readinessProbe": {"tcpSocket": {"port": 4222}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": "/etc/nats"}, {"name": "data", "mountPath": "/data"}],
    });
    let volumes = json!([{"name": "files", "secret": {"secretName": "nats"}}, {"name": "data", "emptyDir": {}}]);
    site.start_pod("bus", "nats", container, json!({"volumes": volumes})).await?;
    let ports = json!([{"name": "nats", "port": 4222}]);
    let spec = json!({"selector": {"app": "nats"}, "ports": ports});
    let metadata = json!({"name": "nats", "namespace": "bus"});
    site.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})).await?;
    site.kubectl("wait pod/nats -n bus --for=condition=Ready --timeout=120s").await?;

    let mut logins = Vec::new();
    for user in ["operator", "gateway"] {
        let credentials = nats.credentials(user, None);
        secret(site, "secure", &format!("nats-{user}"), json!({"nats.creds": credentials})).await?;
        logins.push(credentials);
    }
    secret(site, "secure", "nats-ca", json!({"ca.crt": authority.certificate()})).await?;
    Ok(logins)
}

async fn secret(site: &Site, namespace: &str, name: &str, files: Value) -> Result<()> {
    let metadata = json!({"name": name, "namespace": namespace});
    site.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": files})).await
}

async fn service_accounts(site: &Site, path: &str) -> Result<()> {
    let url = format!("https://push-gateway.secure.svc:443{path}");
    for account in ["bound", "stranger", "unbound", "deleted"] {
        site.kubectl(&format!("create serviceaccount {account} -n shop")).await?;
        for role in ["subscriber", "publisher"] {
            let bind = format!("create rolebinding {account}-{role} -n shop --clusterrole=secure:push:{role}");
            if account != "stranger" {
                site.kubectl(&format!("{bind} --serviceaccount=shop:{account}")).await?;
            }
        }
        visitor(site, account, &url).await?;
    }
    let open = Tally { clients: CLIENTS, open: CLIENTS, opened: CLIENTS, ..Tally::default() };
    for account in ["bound", "unbound", "deleted"] {
        stands(site, account, &open, PATIENCE).await;
    }
    let refused = |status: u16| [(status, CLIENTS)].into();
    stands(site, "stranger", &Tally { clients: CLIENTS, refused: refused(404), ..Tally::default() }, PATIENCE).await;
    for (account, number, status) in [("bound", "0", "201"), ("stranger", "9", "404"), ("unbound", "1", "201")] {
        ensure!(post(site, account, &url, number).await?.starts_with(status), "{account} publishes");
    }
    let open = Tally { complete: 2, ..open };
    for account in ["bound", "unbound", "deleted"] {
        stands(site, account, &open, PATIENCE).await;
    }

    let withdrawn = Instant::now();
    site.kubectl("delete rolebinding unbound-subscriber unbound-publisher -n shop").await?;
    site.kubectl("delete serviceaccount deleted -n shop").await?;
    let ends = [("access-revoked".to_owned(), CLIENTS)].into();
    let ended = Tally { open: 0, ends, ..open.clone() };
    for (account, status) in [("unbound", 404), ("deleted", 401)] {
        let left = (MINUTE + SLACK).saturating_sub(withdrawn.elapsed());
        stands(site, account, &Tally { refused: refused(status), ..ended.clone() }, left).await;
        eprintln!("{account}: streams ended and refused after {:.1?}", withdrawn.elapsed());
        let what = format!("{account} may not publish any more");
        let left = (MINUTE + SLACK).saturating_sub(withdrawn.elapsed());
        eventually(left.max(SLACK), &what, || async {
            let answer = post(site, account, &url, "9").await.map_err(|error| format!("{error:#}"))?;
            if answer.starts_with(&status.to_string()) { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    // Whoever still has the right has noticed nothing.
    ensure!(post(site, "bound", &url, "2").await?.starts_with("201"), "bound still publishes");
    let last = tally(site, "shop", "bound").await?;
    ensure!(last.ends.is_empty() && last.opened == CLIENTS, "{last:?}");
    Ok(())
}

/// A pod that subscribes with the token of its service account, for the gateway's audience.
async fn visitor(site: &Site, account: &str, url: &str) -> Result<()> {
    let count = CLIENTS.to_string();
    let arguments = [&["crowd", url, count.as_str()], &credentials()[..]].concat();
    let container = json!({
        "image": site.images.visitor(),
        "args": arguments,
        "volumeMounts": [{"name": "token", "mountPath": "/token"}, {"name": "authority", "mountPath": "/authority"}],
    });
    let token = json!({"serviceAccountToken": {"path": "token", "audience": "tidings", "expirationSeconds": 3600}});
    let volumes = json!([
        {"name": "token", "projected": {"sources": [token]}},
        {"name": "authority", "secret": {"secretName": "authority"}},
    ]);
    let more = json!({"serviceAccountName": account, "automountServiceAccountToken": false, "volumes": volumes});
    site.start_pod("shop", account, container, more).await
}

fn credentials() -> [&'static str; 6] {
    ["--token", "/token/token", "--ca", "/authority/ca.crt", "--server", PUBLIC]
}

/// Publishes from within a pod; returns the status and the answer.
async fn post(site: &Site, pod: &str, url: &str, data: &str) -> Result<String> {
    let exec = ["exec", "-n", "shop", pod, "--", "/usr/local/bin/visitor", "post", url, data];
    site.kubectl.run(&[&exec[..], &credentials()].concat()).await
}

/// Waits until the clients of a pod stand exactly there.
async fn stands(site: &Site, pod: &str, expected: &Tally, deadline: Duration) {
    eventually(deadline, &format!("the clients of {pod} are where they should be"), || async {
        let tally = tally(site, "shop", pod).await.map_err(|error| format!("{error:#}"))?;
        if tally == *expected { Ok(()) } else { Err(format!("{tally:?}")) }
    })
    .await;
}
