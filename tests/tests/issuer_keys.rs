//! Keys behind an address: rotation, outages, floods and servers that mean no good, with every request counted.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::key_server::{Day, KeyServer};
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::manifest::Manifest;
use tidings_tests::tls::TlsFolder;
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::{Reply, Request};

const ISSUER: &str = "https://id.example";

/// A gateway with one issuer, whose keys are on a server of ours.
struct House {
    site: Installation,
    server: KeyServer,
    channel: Manifest,
    _directory: TempDir,
}

impl House {
    async fn open(day: Day) -> Self {
        Self::open_at(KeyServer::start(day).await, None, Settings::default()).await
    }

    /// With keys on this server; `ca` is what the settings name as its authority.
    async fn open_at(server: KeyServer, ca: Option<&Path>, settings: Settings) -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-keys-").tempdir().expect("a directory");
        let file = directory.path().join("settings.yaml");
        let ca = ca.map(|ca| format!(", caFile: '{}'", ca.display())).unwrap_or_default();
        let text = format!(
            "issuers: [{{ name: main, issuer: {ISSUER}, audience: tidings, algorithms: [ES256], jwks: {{ url: '{}'{ca} }} }}]\n",
            server.url()
        );
        std::fs::write(&file, text).expect("written");
        let site = settings.gateway_arg(&format!("--config={}", file.display())).start().await;
        let grant = json!({ "mode": "Token", "topics": ["all"] });
        let manifest =
            Manifest::new("test", "orders").with("access/subscribe", grant.clone()).with("access/publish", grant);
        let channel = site.channel(manifest).await;
        Self { site, server, channel, _directory: directory }
    }

    async fn get(&self, token: &str) -> Reply {
        // `HEAD` is checked like `GET`, and ends.
        let url = self.site.url(0, &self.channel, &[]);
        let request = Request::new(http::Method::HEAD, url).header("accept", "text/event-stream");
        request.header("authorization", format!("Bearer {token}")).send().await
    }

    async fn status(&self, token: &str) -> u16 {
        self.get(token).await.status.as_u16()
    }

    async fn reads(&self, outcome: &str) -> f64 {
        let label = format!("outcome=\"{outcome}\"");
        self.site.gateways[0].metrics().await.sum_where("tidings_issuer_key_reads_total", &[&label])
    }

    async fn until_read(&self, outcome: &str) {
        eventually(PATIENCE, "the keys were read", || async { self.reads(outcome).await > 0.0 }).await;
    }
}

fn token(key: &TokenKey) -> String {
    key.sign(&Draft::new(ISSUER, "ann"))
}

#[tokio::test]
async fn a_new_key_counts_when_it_is_first_used_and_a_withdrawn_one_no_longer() {
    let (old, new) = (TokenKey::es256("old"), TokenKey::es256("new"));
    let house = House::open(Day::keys(&[&old])).await;
    assert_eq!(house.status(&token(&old)).await, 200);
    assert_eq!(house.status(&token(&new)).await, 401);
    house.server.set(Day::keys(&[&new]));
    eventually(PATIENCE, "the new key counts", || async { house.status(&token(&new)).await == 200 }).await;
    assert_eq!(house.status(&token(&old)).await, 401);
}

#[tokio::test]
async fn many_who_miss_a_key_at_once_ask_for_it_once() {
    let (old, new) = (TokenKey::es256("old"), TokenKey::es256("new"));
    let house = House::open(Day::keys(&[&old])).await;
    house.until_read("taken").await;
    let before = house.server.requests();
    house.server.set(Day::keys(&[&old, &new]));
    let token = token(&new);
    let all = || futures_util::future::join_all((0..50).map(|_| house.status(&token)));
    let mut answers = 0;
    eventually(PATIENCE, "the new key counts for all of them", || {
        answers += 50;
        async { all().await.iter().all(|status| *status == 200) }
    })
    .await;
    let asked = house.server.requests() - before;
    assert_eq!(asked, 1, "{answers} requests missed the key");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_hardly_reaches_the_issuer() {
    let (key, mine) = (TokenKey::es256("good"), TokenKey::es256("mine"));
    let house = House::open(Day::keys(&[&key])).await;
    house.until_read("taken").await;
    let (before, start) = (house.server.requests(), std::time::Instant::now());
    for round in 0..20 {
        let tokens: Vec<String> = (0..50)
            .map(|number| mine.sign(&Draft::new(ISSUER, "mallory").header("kid", format!("{round}-{number}"))))
            .collect();
        let answers = futures_util::future::join_all(tokens.iter().map(|token| house.status(token))).await;
        assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
        assert_eq!(house.status(&token(&key)).await, 200, "others are not concerned");
    }
    let asked = house.server.requests() - before;
    // One at once, and no more than one in five seconds from then on.
    let allowed = 2 + start.elapsed().as_secs() as usize / 5;
    assert!(asked <= allowed, "{asked} requests for a thousand unknown keys in {:?}", start.elapsed());
}

#[tokio::test]
async fn through_an_outage_the_last_good_keys_stay_and_unknown_ones_may_come_back_later() {
    let (key, new) = (TokenKey::es256("good"), TokenKey::es256("new"));
    let house = House::open(Day::keys(&[&key])).await;
    house.until_read("taken").await;
    for day in [Day::Status(503), Day::Good("<html>".into())] {
        let (failed, what) = (house.reads("failed").await, format!("{day:?}"));
        house.server.set(day);
        // A key that the issuer does not have now, but may have: who knows.
        let reply = eventually(PATIENCE, "the outage is noticed", || async {
            let reply = house.get(&token(&new)).await;
            (house.reads("failed").await > failed).then_some(reply)
        })
        .await;
        assert_eq!(house.status(&token(&key)).await, 200, "{what}");
        assert_eq!(
            reply.header("content-type"),
            "text/event-stream; charset=utf-8",
            "{what}: EventSource comes back by itself"
        );
        let url = house.site.url(0, &house.channel, &[("topic", "all")]);
        let post = Request::post(url, "x").header("authorization", format!("Bearer {}", token(&new)));
        let post = post.send().await;
        assert_eq!((post.status.as_u16(), post.headers.contains_key("retry-after")), (503, true), "{what}");
    }
    house.server.set(Day::keys(&[&key, &new]));
    eventually(PATIENCE, "the new key counts", || async {
        house.get(&token(&new)).await.status == 200 && {
            let post = Request::post(house.site.url(0, &house.channel, &[("topic", "all")]), "x");
            post.header("authorization", format!("Bearer {}", token(&new))).send().await.status == 201
        }
    })
    .await;
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_turns_nobody_away_for_good_and_nobody_in() {
    let key = TokenKey::es256("good");
    for day in [Day::Huge(1 << 20), Day::Silent] {
        let (house, what) = (House::open(day.clone()).await, format!("{day:?}"));
        let url = |channel: &Manifest| house.site.url(0, channel, &[]);
        for channel in [house.channel.clone(), Manifest::new("test", "missing")] {
            let get = Request::get(url(&channel)).header("accept", "text/event-stream");
            let reply = get.header("authorization", format!("Bearer {}", token(&key))).send().await;
            assert_eq!(reply.status, 200, "{what}");
            assert!(reply.text().starts_with("retry: "), "{what}: {}", reply.text());
        }
        house.server.set(Day::keys(&[&key]));
        let opened = || async {
            let get = Request::get(url(&house.channel)).header("accept", "text/event-stream");
            let get = get.header("authorization", format!("Bearer {}", token(&key)));
            let opened = get.open().await.expect("an answer");
            // A stream goes on; being sent away has a length.
            opened.status() == 200 && !opened.headers().contains_key("content-length")
        };
        eventually(PATIENCE, "the keys are there", opened).await;
    }
}

#[tokio::test]
async fn a_redirect_to_another_address_is_not_followed() {
    let key = TokenKey::es256("good");
    let elsewhere = KeyServer::start(Day::keys(&[&key])).await;
    let house = House::open(Day::Redirect(elsewhere.url())).await;
    house.until_read("failed").await;
    assert_eq!(house.status(&token(&key)).await, 200, "retry later");
    assert!(house.get(&token(&key)).await.header("content-type").starts_with("text/event-stream"));
    assert_eq!(elsewhere.requests(), 0, "the other address was never asked");
    let output = house.site.gateways[0].process().output();
    assert!(output.contains("redirects to another place"), "{output}");
}

#[tokio::test]
async fn keys_come_over_tls_from_whom_the_named_authority_or_the_systems_vouches_for() {
    let key = TokenKey::es256("good");
    let authority = KubeAuthority::new().expect("an authority");
    let folder = TlsFolder::of(&authority);
    let shown = authority.server("keys", &[]).expect("a certificate");
    let ca = folder.path("ca.crt");
    let system = || Settings::default().gateway_env("SSL_CERT_FILE", ca.to_str().expect("a plain path"));
    for (named, settings) in [(Some(ca.as_path()), Settings::default()), (None, system())] {
        let server = KeyServer::start_tls(Day::keys(&[&key]), &shown).await;
        let house = House::open_at(server, named, settings).await;
        house.until_read("taken").await;
        assert_eq!(house.status(&token(&key)).await, 200, "{named:?}");
        assert_eq!(house.status(&token(&TokenKey::es256("good"))).await, 401, "{named:?}");
    }
}

#[tokio::test]
async fn keys_are_not_taken_from_a_server_that_nobody_vouches_for() {
    let key = TokenKey::es256("good");
    let (authority, other) = (KubeAuthority::new().expect("an authority"), KubeAuthority::new().expect("another"));
    let folder = TlsFolder::of(&authority);
    let ca = folder.path("ca.crt");
    let for_nobody = other.server("keys", &[]).expect("a certificate");
    let expired = authority.expired_server().expect("a certificate");
    for (what, shown, named) in [
        ("another authority's", &for_nobody, Some(ca.as_path())),
        ("none of the system's", &authority.server("keys", &[]).expect("a certificate"), None),
        ("expired", &expired, Some(ca.as_path())),
    ] {
        let server = KeyServer::start_tls(Day::keys(&[&key]), shown).await;
        let house = House::open_at(server, named, Settings::default()).await;
        house.until_read("failed").await;
        assert_eq!(house.server.requests(), 0, "{what}: it was not even asked");
        assert_eq!(
            house.get(&token(&key)).await.header("content-type"),
            "text/event-stream; charset=utf-8",
            "{what}: retry later"
        );
        assert_eq!(house.reads("taken").await, 0.0, "{what}");
        let output = house.site.gateways[0].process().output();
        assert!(output.contains("Failed to read the keys of an issuer"), "{what}: {output}");
    }
}

#[tokio::test]
async fn over_tls_a_redirect_to_another_address_is_not_followed_either() {
    let key = TokenKey::es256("good");
    let authority = KubeAuthority::new().expect("an authority");
    let folder = TlsFolder::of(&authority);
    let shown = authority.server("keys", &[]).expect("a certificate");
    let elsewhere = KeyServer::start_tls(Day::keys(&[&key]), &shown).await;
    let in_the_clear = KeyServer::start(Day::keys(&[&key])).await;
    for target in [&elsewhere, &in_the_clear] {
        let server = KeyServer::start_tls(Day::Redirect(target.url()), &shown).await;
        let house = House::open_at(server, Some(&folder.path("ca.crt")), Settings::default()).await;
        house.until_read("failed").await;
        assert!(house.server.requests() > 0);
        assert_eq!(target.requests(), 0, "{} was never asked", target.url());
        assert_eq!(
            house.get(&token(&key)).await.header("content-type"),
            "text/event-stream; charset=utf-8",
            "retry later"
        );
        let output = house.site.gateways[0].process().output();
        assert!(output.contains("redirects to another place"), "{output}");
    }
}

/// What providers such as Cognito and Keycloak have: an address, a client's id in another claim, a claim that tells access tokens from
/// others, roles below a name with dots.
#[tokio::test]
async fn an_issuer_is_found_by_its_address_alone_and_its_tokens_by_their_own_claims() {
    let (key, second) = (TokenKey::rs256("k1"), TokenKey::rs256("k2"));
    let server = KeyServer::start(Day::Status(503)).await;
    let issuer = server.issuer();
    let directory = tempfile::Builder::new().prefix("tidings-provider-").tempdir().expect("a directory");
    let file = directory.path().join("settings.yaml");
    let text = format!(
        "issuers:\n- {{ name: main, issuer: '{issuer}', audience: shop, audienceClaim: client_id, require: {{ token_use: access }} }}\n"
    );
    std::fs::write(&file, text).expect("written");
    let settings = Settings::default().gateway_arg(&format!("--config={}", file.display())).gateway_arg("--log=debug");
    let site = settings.start().await;
    let grant = json!({ "mode": "Token", "topics": ["role.{resource_access.my\\.app.roles}"] });
    let channel = site.channel(Manifest::new("test", "orders").with("access/subscribe", grant)).await;
    let get = async |topic: &str, token: &str| {
        let url = site.url(0, &channel, &[("topic", topic)]);
        let head = Request::new(http::Method::HEAD, url).header("accept", "text/event-stream");
        head.header("authorization", format!("Bearer {token}")).send().await.status.as_u16()
    };
    let draft = Draft::new(&issuer, "ann").with("aud", serde_json::Value::Null).with("client_id", "shop");
    let draft = draft.with("token_use", "access").with("resource_access", json!({"my.app": {"roles": ["clerk"]}}));
    let draft = draft.with("padding", "x".repeat(9_000));
    let token = key.sign(&draft);

    // Of another issuer, to the last slash: then nothing that it names is used.
    server.set_provider(&format!("{issuer}/"), &[&key, &second]);
    let output = || site.gateways[0].process().output();
    eventually(PATIENCE, "the other issuer is told", || async { output().contains("differs by a final slash") }).await;
    server.set_provider(&issuer, &[&key, &second]);
    let granted = || async { get("role.clerk", &token).await == 200 && get("role.boss", &token).await == 404 };
    eventually(PATIENCE, "the keys are found", granted).await;
    assert_eq!(get("role.clerk", &second.sign(&draft.clone().header("kid", serde_json::Value::Null))).await, 200);
    for (claim, value) in [("client_id", "other"), ("token_use", "id"), ("iss", &format!("{issuer}/"))] {
        assert_eq!(get("role.clerk", &key.sign(&draft.clone().with(claim, value))).await, 401, "{claim}");
    }
    let told = output();
    for part in ["required", "audience", "with another end"] {
        assert!(told.lines().any(|line| line.contains("Refused a token.") && line.contains(part)), "{part}");
    }
}
