//! Identities of the cluster: real tokens of service accounts, real RBAC, a real API server that also goes away.

use std::path::Path;

use anyhow::Result;
use http::Method;
use serde_json::json;
use tempfile::TempDir;
use tidings_tests::control_plane::ControlPlane;
use tidings_tests::event_source::{EventSource, Happening};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::kube_cluster::KubeCluster;
use tidings_tests::kube_namespace::KubeNamespace;
use tidings_tests::kube_release::KubeRelease;
use tidings_tests::manifest::Manifest;
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::{Protocol, Request};

const ISSUER: &str = "https://id.example";
const SECRET: &[u8] = b"thirty-two bytes that nobody can guess";

/// Where a token stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Transport {
    Header,
    Cookie,
    Query,
}

/// A gateway with the shipped rights in a cluster, which serves channels from files.
struct House {
    site: Installation,
    _directory: TempDir,
}

impl House {
    async fn open(kubeconfig: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-kube-").tempdir().expect("a directory");
        let (file, secret) = (directory.path().join("settings.yaml"), directory.path().join("secret"));
        std::fs::write(&secret, SECRET).expect("written");
        let text = format!(
            "issuers: [{{ name: main, issuer: {ISSUER}, audience: tidings, algorithms: [HS256], secret: {{ file: '{}' }} }}]\n\
             kubernetes: {{ enabled: true }}\n",
            secret.display()
        );
        std::fs::write(&file, text).expect("written");
        let settings =
            Settings::default().gateway_arg(&format!("--config={}", file.display())).gateway_arg("--log=trace");
        let site = settings.gateway_env("KUBECONFIG", kubeconfig.to_str().expect("a plain path")).start().await;
        Self { site, _directory: directory }
    }

    async fn status(&self, channel: &Manifest, token: &str, method: Method) -> u16 {
        self.status_by(channel, token, method, (Transport::Header, Protocol::Http1)).await
    }

    async fn status_by(
        &self,
        channel: &Manifest,
        token: &str,
        method: Method,
        (transport, protocol): (Transport, Protocol),
    ) -> u16 {
        let with = (transport == Transport::Query).then_some(("access_token", token));
        let parameters: Vec<_> = [("topic", "all")].into_iter().chain(with).collect();
        let url = self.site.url(0, channel, &parameters);
        let request = if method == Method::POST { Request::post(url, "x") } else { Request::new(method, url) };
        let request = match transport {
            Transport::Header => request.header("authorization", format!("Bearer {token}")),
            Transport::Cookie => request.header("cookie", format!("tidings_token={token}")),
            Transport::Query => request,
        };
        request.over(protocol).send().await.status.as_u16()
    }

    async fn subscribe(&self, channel: &Manifest, token: &str) -> EventSource {
        let mut source = self.site.client(0, channel, &[]).header("authorization", &format!("Bearer {token}")).open();
        source.next_open().await;
        source.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
        source
    }

    /// A token is in nothing that the gateway says, even when it says everything.
    async fn assert_discreet(&self, tokens: &[&str]) {
        let metrics = self.site.gateways[0].admin("/metrics").await.expect("metrics").text();
        let output = self.site.gateways[0].process().output();
        for token in tokens {
            let signature = token.rsplit('.').next().expect("a token has parts");
            for text in [&output, &metrics] {
                assert_eq!(text.lines().find(|line| line.contains(signature)), None, "a token is told");
            }
        }
    }
}

fn token_channel(namespace: &str, name: &str) -> Manifest {
    let grant = json!({ "mode": "Token" });
    Manifest::new(namespace, name).with("access/subscribe", grant.clone()).with("access/publish", grant)
}

async fn account(cluster: &KubeCluster, namespace: &KubeNamespace, name: &str) -> Result<()> {
    cluster.kubectl().run(&["create", "serviceaccount", "-n", namespace.name(), name]).await?;
    Ok(())
}

async fn bind(cluster: &KubeCluster, namespace: &KubeNamespace, name: &str, role: &str, to: &str) -> Result<()> {
    let role = format!("--clusterrole={role}");
    cluster.kubectl().run(&["create", "rolebinding", "-n", namespace.name(), name, &role, to]).await?;
    Ok(())
}

#[tokio::test]
async fn identities_of_the_cluster_get_what_rbac_gives_them_and_nothing_else() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "tidings").await?;
    let (tenant, guests) = (cluster.namespace("tenant").await?, cluster.namespace("guests").await?);
    let house = House::open(&release.gateway_kubeconfig().await?).await;
    let everywhere = json!(["Header", "Cookie", "Query"]);
    let orders =
        house.site.channel(token_channel(tenant.name(), "orders").with("access/tokenSources", everywhere)).await;
    let usual = house.site.channel(token_channel(tenant.name(), "usual")).await;
    let everybody = json!({ "mode": "Public", "topics": [">"] });
    let open = Manifest::new(tenant.name(), "open").with("access/subscribe", everybody.clone());
    let open = house.site.channel(open.with("access/publish", everybody)).await;
    let closed = Manifest::new(tenant.name(), "closed").with("access/subscribe", json!({ "mode": "Disabled" }));
    let closed = house.site.channel(closed).await;
    let narrow = token_channel(tenant.name(), "narrow");
    let narrow = narrow.with("access/subscribe/topics", json!(["of.{namespace}.{name}", "in.{groups}"]));
    let narrow = house.site.channel(narrow).await;
    let elsewhere = token_channel(tenant.name(), "elsewhere").with("access/issuers", json!(["main"]));
    let elsewhere = house.site.channel(elsewhere).await;
    let missing = token_channel(tenant.name(), "missing");

    for name in ["subscriber", "publisher", "reader", "nobody", "deleted"] {
        account(cluster, &tenant, name).await?;
    }
    account(cluster, &guests, "guest").await?;
    let of = |name: &str| format!("--serviceaccount={}:{name}", tenant.name());
    bind(cluster, &tenant, "subscribers", "tidings-subscriber", &of("subscriber")).await?;
    bind(cluster, &tenant, "publishers", "tidings-publisher", &of("publisher")).await?;
    let group = format!("--group=system:serviceaccounts:{}", guests.name());
    bind(cluster, &tenant, "guests", "tidings-subscriber", &group).await?;
    // The usual role of auditors: it may get everything, subresources too.
    let role = format!("reader-{}", tenant.name());
    cluster.kubectl().run(&["create", "clusterrole", &role, "--verb=get,list,watch", "--resource=*.*"]).await?;
    bind(cluster, &tenant, "readers", &role, &of("reader")).await?;

    let ours = ["tidings"];
    let token = async |namespace: &KubeNamespace, name: &str, audiences: &[&str]| {
        cluster.token(namespace.name(), name, audiences).await
    };
    let (subscriber, publisher) =
        (token(&tenant, "subscriber", &ours).await?, token(&tenant, "publisher", &ours).await?);
    let guest = token(&guests, "guest", &ours).await?;
    bind(cluster, &tenant, "deleted", "tidings-subscriber", &of("deleted")).await?;
    let deleted = token(&tenant, "deleted", &ours).await?;
    cluster.kubectl().run(&["delete", "serviceaccount", "-n", tenant.name(), "deleted"]).await?;
    eventually(PATIENCE, "the deleted account is noticed", || async {
        house.status(&orders, &deleted, Method::HEAD).await == 401
    })
    .await;
    let forged = TokenKey::es256("k").sign(&Draft::new("https://kubernetes.default.svc.cluster.local", "x"));
    for (what, token, subscribes, publishes) in [
        ("the right role", &subscriber, 200, 404),
        ("the right role, to publish", &publisher, 404, 201),
        ("a role through a group", &guest, 200, 404),
        ("a role that may get everything", &token(&tenant, "reader", &ours).await?, 404, 404),
        ("no role", &token(&tenant, "nobody", &ours).await?, 404, 404),
        ("the default audience", &token(&tenant, "subscriber", &[]).await?, 401, 401),
        ("another audience", &token(&tenant, "subscriber", &["vault"]).await?, 401, 401),
        ("several audiences", &token(&tenant, "subscriber", &["vault", "tidings"]).await?, 200, 404),
        ("the token of a deleted account", &deleted, 401, 401),
        ("a token of nobody", &forged, 401, 401),
    ] {
        let refused = if subscribes == 401 { 401 } else { 404 };
        for transport in [Transport::Header, Transport::Cookie, Transport::Query] {
            let query = transport == Transport::Query;
            let usually = |status| if query { refused } else { status };
            for protocol in [Protocol::Http1, Protocol::H2c] {
                for (channel, subscribes, publishes) in [
                    (&orders, subscribes, publishes),
                    (&usual, usually(subscribes), usually(publishes)),
                    (&open, 200, 201),
                    (&closed, refused, refused),
                    (&elsewhere, refused, refused),
                    (&missing, refused, refused),
                ] {
                    for (method, expected) in [(Method::HEAD, subscribes), (Method::POST, publishes)] {
                        let status = house.status_by(channel, token, method.clone(), (transport, protocol)).await;
                        let key = channel.key();
                        assert_eq!(status, expected, "{what}, {transport:?}, {protocol:?}, {method} {key}");
                    }
                }
            }
        }
    }

    // The Channel's topics narrow what RBAC grants.
    let mut source = house.subscribe(&narrow, &subscriber).await;
    let publish = house.site.publisher(&narrow).await;
    let own = format!("of.{}.subscriber", tenant.name());
    let by_group = format!("in.system%3Aserviceaccounts%3A{}", tenant.name());
    for topic in ["all", &format!("of.{}.publisher", tenant.name()), &own, &by_group] {
        publish.publish(topic, topic.to_owned()).await;
    }
    let received: Vec<String> = source.take(2).await.into_iter().map(|event| event.data).collect();
    assert_eq!(received, [own, by_group]);
    house.assert_discreet(&[&subscriber, &publisher, &guest, &forged]).await;
    Ok(())
}

/// Tokens with all the right claims, which only the API server can tell from good ones.
#[tokio::test]
async fn who_brings_tokens_of_nobody_is_not_asked_about_any_more_and_keeps_nobody_else_waiting() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "tidings").await?;
    let tenant = cluster.namespace("tenant").await?;
    let house = House::open(&release.gateway_kubeconfig().await?).await;
    let orders = house.site.channel(token_channel(tenant.name(), "orders")).await;
    let mut tokens = Vec::new();
    for name in ["first", "second"] {
        account(cluster, &tenant, name).await?;
        let of = format!("--serviceaccount={}:{name}", tenant.name());
        bind(cluster, &tenant, name, "tidings-publisher", &of).await?;
        tokens.push(cluster.token(tenant.name(), name, &["tidings"]).await?);
    }
    let key = TokenKey::es256("k");
    let forged =
        |number: usize| key.sign(&Draft::new("https://kubernetes.default.svc.cluster.local", &number.to_string()));
    let post = |token: &str, from: [u8; 4]| {
        let post = Request::post(house.site.url(0, &orders, &[("topic", "all")]), "x").from(from.into());
        post.header("authorization", format!("Bearer {token}"))
    };
    let asked = async || {
        let metrics = house.site.gateways[0].metrics().await;
        metrics.sum_where("tidings_reviews_total", &["kind=\"token\""])
    };
    let (good, bad) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    let crowd: Vec<_> = (0..400)
        .map(|number| {
            let post = post(&forged(number), bad);
            tokio::spawn(async move { post.send().await.status.as_u16() })
        })
        .collect();
    let mut refused = 0;
    for one in crowd {
        let status = one.await?;
        assert!([401, 503].contains(&status), "{status}");
        refused += usize::from(status == 401);
    }
    // A hundred, and those that were under way by then: there are sixteen places, and answers that are not counted yet.
    assert!((100..=130).contains(&refused), "{refused} were asked about");
    assert_eq!(asked().await, refused as f64);
    assert_eq!(post(&forged(400), bad).send().await.status, 503);
    assert_eq!(post(&tokens[0], bad).send().await.status, 503, "a good one that is not known yet has to wait as well");
    assert_eq!(asked().await, refused as f64, "nobody was asked");
    for (token, from, status) in [(&tokens[0], good, 201), (&tokens[0], bad, 201), (&tokens[1], good, 201)] {
        assert_eq!(post(token, from).send().await.status, status, "from {from:?}");
    }
    Ok(())
}

/// A good token without any right, used for ever more channels that may or may not exist.
#[tokio::test]
async fn one_identity_causes_a_bounded_number_of_questions_and_none_once_it_is_gone() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "tidings").await?;
    let tenant = cluster.namespace("tenant").await?;
    let house = House::open(&release.gateway_kubeconfig().await?).await;
    let orders = house.site.channel(token_channel(tenant.name(), "orders")).await;
    for name in ["curious", "subscriber"] {
        account(cluster, &tenant, name).await?;
    }
    let of = format!("--serviceaccount={}:subscriber", tenant.name());
    bind(cluster, &tenant, "subscriber", "tidings-subscriber", &of).await?;
    let curious = cluster.token(tenant.name(), "curious", &["tidings"]).await?;
    let subscriber = cluster.token(tenant.name(), "subscriber", &["tidings"]).await?;
    let asked = async || house.site.gateways[0].metrics().await.sum("tidings_reviews_total");
    let mut statuses = Vec::new();
    for part in 0..20 {
        let crowd: Vec<_> = (0..100)
            .map(|number| {
                let channel = token_channel(tenant.name(), &format!("c{part}-{number}"));
                let url = house.site.url(0, &channel, &[]);
                let head = Request::new(Method::HEAD, url).from([127, 0, 0, 2].into());
                let head =
                    head.header("accept", "application/json").header("authorization", format!("Bearer {curious}"));
                tokio::spawn(async move { head.send().await.status.as_u16() })
            })
            .collect();
        for one in crowd {
            statuses.push(one.await?);
        }
    }
    let refused = statuses.iter().filter(|status| **status == 404).count();
    let later = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!(refused + later, 2_000, "{refused} were refused, {later} sent away");
    // A thousand in half a minute; the crowd may have taken longer than that.
    assert!(later > 0 && refused >= 1_000, "{refused} were asked about");

    // Nobody else has to wait, and only what the open stream holds is asked about again.
    let mut source = house.subscribe(&orders, &subscriber).await;
    let before = asked().await;
    eventually(PATIENCE, "the stream's right was asked for again, twice", || async { asked().await >= before + 4.0 })
        .await;
    let after = asked().await;
    assert!(after <= before + 6.0, "{} questions were asked in the time of two", after - before);
    house.site.publisher(&orders).await.publish("all", "x").await;
    assert_eq!(source.next_event().await.data, "x");
    Ok(())
}

#[tokio::test]
async fn a_removed_binding_and_a_deleted_account_end_open_streams_within_a_minute() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "tidings").await?;
    let tenant = cluster.namespace("tenant").await?;
    let house = House::open(&release.gateway_kubeconfig().await?).await;
    let orders = house.site.channel(token_channel(tenant.name(), "orders")).await;
    let mut sources = Vec::new();
    for name in ["unbound", "deleted", "stays"] {
        account(cluster, &tenant, name).await?;
        bind(cluster, &tenant, name, "tidings-subscriber", &format!("--serviceaccount={}:{name}", tenant.name()))
            .await?;
        let token = cluster.token(tenant.name(), name, &["tidings"]).await?;
        sources.push(house.subscribe(&orders, &token).await);
    }
    cluster.kubectl().run(&["delete", "rolebinding", "-n", tenant.name(), "unbound"]).await?;
    cluster.kubectl().run(&["delete", "serviceaccount", "-n", tenant.name(), "deleted"]).await?;
    for (number, refused) in [(0, 404), (1, 401)] {
        let source = &mut sources[number];
        assert_eq!(source.next_event().await.data, "{\"reason\":\"access-revoked\"}");
        assert!(source.next_end().await);
        assert_eq!(source.refused().await, refused);
    }
    house.site.publisher(&orders).await.publish("all", "x").await;
    assert_eq!(sources[2].next_event().await.data, "x");
    Ok(())
}

#[tokio::test]
async fn with_the_api_server_away_nobody_new_is_let_in_and_open_streams_go_on() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    let cluster = plane.cluster().clone();
    let release = KubeRelease::install(&cluster, "tidings").await?;
    let tenant = cluster.namespace("tenant").await?;
    let house = House::open(&release.gateway_kubeconfig().await?).await;
    let orders = house.site.channel(token_channel(tenant.name(), "orders")).await;
    let mut tokens = Vec::new();
    for name in ["early", "late"] {
        account(&cluster, &tenant, name).await?;
        bind(&cluster, &tenant, name, "tidings-subscriber", &format!("--serviceaccount={}:{name}", tenant.name()))
            .await?;
        tokens.push(cluster.token(tenant.name(), name, &["tidings"]).await?);
    }
    let mut early = house.subscribe(&orders, &tokens[0]).await;
    plane.kill_api_server();
    let url = house.site.url(0, &orders, &[]);
    let get = Request::get(url).header("accept", "text/event-stream");
    let get = get.header("authorization", format!("Bearer {}", tokens[1]));
    let reply = get.send().await;
    assert!(reply.status == 200 && reply.text().starts_with("retry: "), "{}", reply.text());
    let missing = token_channel(tenant.name(), "missing");
    let reply = Request::get(house.site.url(0, &missing, &[])).header("authorization", format!("Bearer {}", tokens[1]));
    assert_eq!(reply.send().await.status, 200, "neither is anybody told what exists");
    // Other issuers are not concerned.
    let own = json!({"subscribe": [{"channels": ["*/*"], "topics": [">"]}]});
    let ann = TokenKey::shared(SECRET).sign(&Draft::new(ISSUER, "ann").with("tidings", own));
    assert_eq!(house.status(&orders, &ann, Method::HEAD).await, 200);
    let failed = || async { house.site.gateways[0].metrics().await.sum("tidings_reviews_failed_total") };
    let before = failed().await;
    eventually(PATIENCE, "the stream's right was asked for again, in vain", || async { failed().await > before }).await;
    house.site.publisher(&orders).await.publish("all", "x").await;
    assert_eq!(early.next_event().await.data, "x");
    assert!(!early.record().iter().any(|entry| matches!(entry.what, Happening::End { .. })), "it stayed open");

    plane.start_api_server().await?;
    eventually(PATIENCE, "newcomers are let in again", || async {
        let opened = get.open().await.expect("an answer");
        opened.status() == 200 && !opened.headers().contains_key("content-length")
    })
    .await;
    Ok(())
}
