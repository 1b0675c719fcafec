//! The nginx recipe of docs/install.md, in front of two gateways, over TLS. Requests go to the gateways in turn.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tidings_tests::event_source::{EventSource, Happening, Settings as Client};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::manifest::Manifest;
use tidings_tests::nginx::{Nginx, Recipe};
use tidings_tests::sse::{Item, Parser};
use tidings_tests::tls::{TlsClient, TlsFolder};
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::wait::{PATIENCE, eventually, within};
use tidings_tests::web::{Protocol, Request};

const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::H2];

/// Gateways, nginx in front of them, and who trusts its certificate.
struct Front {
    site: Installation,
    nginx: Nginx,
    client: TlsClient,
    _tls: TlsFolder,
}

// === impl Front ===

impl Front {
    async fn start(settings: Settings, recipe: Recipe) -> Self {
        let site = settings.start().await;
        let authority = KubeAuthority::new().expect("an authority");
        let tls = TlsFolder::of(&authority);
        let gateways: Vec<_> = site.gateways.iter().map(|gateway| gateway.address()).collect();
        let nginx = recipe.start(&gateways, &tls).await;
        Self { site, nginx, client: TlsClient::trusting(&authority), _tls: tls }
    }

    fn url(&self, channel: &Manifest) -> String {
        self.nginx.url() + &channel.path()
    }

    /// A client that would take a compressed answer, as browsers do.
    async fn subscribe(&self, channel: &Manifest, protocol: Protocol) -> EventSource {
        let client = Client::new(self.url(channel)).over(protocol).secured(Some(&self.client));
        let client = client.header("accept-encoding", "gzip, deflate, br");
        let mut source = client.reconnect_after(Duration::from_millis(500)).open();
        source.next_checkpoint().await;
        source
    }

    fn request(&self, request: Request, from: u8) -> Request {
        request.secured(Some(&self.client)).from(IpAddr::from(Ipv4Addr::new(127, 0, 0, from)))
    }

    /// How many subscribers each gateway has.
    async fn subscribers(&self) -> Vec<f64> {
        let mut all = Vec::new();
        for gateway in self.site.running() {
            all.push(gateway.metrics().await.sum("tidings_subscribers"));
        }
        all
    }
}

/// How often a client has opened a stream.
fn opened(source: &EventSource) -> usize {
    source.record().iter().filter(|entry| matches!(entry.what, Happening::Open(_))).count()
}

fn data(source: &EventSource) -> Vec<String> {
    source.events().into_iter().map(|event| event.data).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A publication is an event before the next is published: nothing waits until a buffer is full.
#[tokio::test]
async fn events_pass_at_once_by_the_recipe_or_by_the_gateways_headers_alone() {
    let documented = Recipe::documented();
    let recipes = [
        ("as it stands", documented.clone()),
        (
            "without the header",
            documented.clone().with("gzip off;", "gzip off; proxy_ignore_headers X-Accel-Buffering;"),
        ),
        ("without the recipe's word", documented.clone().with("proxy_buffering off;", "")),
        (
            "HTTP/1.0 to the gateways",
            documented.with("proxy_http_version 1.1;", "").with(r#"proxy_set_header Connection "";"#, ""),
        ),
    ];
    for (name, recipe) in recipes {
        let front = Front::start(Settings::default().gateways(2), recipe).await;
        let channel = front.site.channel(Manifest::public("orders")).await;
        let publisher = front.site.publisher(&channel).await;
        let mut sources = Vec::new();
        for protocol in PROTOCOLS {
            sources.extend([front.subscribe(&channel, protocol).await, front.subscribe(&channel, protocol).await]);
        }
        assert_eq!(front.subscribers().await, [2.0, 2.0], "{name}: in turn");
        for number in numbers(0..20) {
            publisher.publish("a", number.clone()).await;
            for source in &mut sources {
                assert_eq!(source.next_event().await.data, number, "{name}");
            }
        }
        // Who leaves nginx leaves the gateway.
        drop(sources);
        eventually(PATIENCE, name, || async { front.subscribers().await == [0.0, 0.0] }).await;
    }
}

#[tokio::test]
async fn heartbeats_keep_idle_streams_open_and_a_gateway_that_stands_still_is_left() {
    let recipe = Recipe::documented().with("proxy_read_timeout 60s;", "proxy_read_timeout 4s;");
    let front = Front::start(Settings::default().gateways(2), recipe).await;
    let channel = front.site.channel(Manifest::public("quiet").with("events/heartbeatSeconds", 1)).await;
    let mut sources = [front.subscribe(&channel, Protocol::Http1).await, front.subscribe(&channel, Protocol::H2).await];
    for source in &mut sources {
        // Longer than the timeout by half.
        for _ in 0..6 {
            source.next("a heartbeat", |what| matches!(what, Happening::Comment(_)).then_some(())).await;
        }
        assert_eq!(opened(source), 1);
    }
    front.site.gateways[0].process().stop().await;
    eventually(PATIENCE, "all are with the other", || async {
        front.site.gateways[1].metrics().await.sum("tidings_subscribers") == 2.0
    })
    .await;
    front.site.publisher(&channel).await.publish("a", "still here").await;
    for source in &mut sources {
        assert_eq!(source.next_event().await.data, "still here");
    }
    front.site.gateways[0].process().cont();
}

#[tokio::test]
async fn subscribers_of_killed_gateways_lose_nothing_and_come_back_by_themselves() {
    let mut front = Front::start(Settings::default().gateways(2), Recipe::documented()).await;
    let channel = front.site.channel(Manifest::public("orders")).await;
    let publisher = front.site.publisher(&channel).await;
    let mut sources = Vec::new();
    for protocol in PROTOCOLS.repeat(4) {
        sources.push(front.subscribe(&channel, protocol).await);
    }
    assert_eq!(front.subscribers().await, [4.0, 4.0]);
    let all = numbers(0..400);
    publisher.fill_with("a", all[..100].to_vec()).await;
    // One is killed under load, then the other one too.
    let (_, ()) = tokio::join!(publisher.fill_with("a", all[100..200].to_vec()), async {
        front.site.gateways[0].kill9();
    });
    eventually(PATIENCE, "all are with the other", || async { front.subscribers().await == [8.0] }).await;
    front.site.gateways[1].kill9();
    publisher.fill_with("a", all[200..300].to_vec()).await;
    for source in &mut sources {
        // The gateway would forbid transformations as well.
        let by_nginx = |what: &Happening| match what {
            Happening::Open(headers) => (headers.get("cache-control")? == "no-store").then_some(()),
            _ => None,
        };
        source.next("nginx' own answer", by_nginx).await;
        let later = |what: &Happening| matches!(what, Happening::Retry(1_000..=9_999)).then_some(());
        source.next("when to come back", later).await;
    }
    let url = front.url(&channel);
    let post = front.request(Request::post(url, "x"), 1).send().await;
    assert_eq!(post.status, 503, "who publishes is told");
    for gateway in &mut front.site.gateways {
        gateway.launch();
    }
    publisher.fill_with("a", all[300..].to_vec()).await;
    for source in &sources {
        source.wait_for("every event", |_| (data(source).len() >= all.len()).then_some(())).await;
        assert_eq!(data(source), all, "nothing lost, repeated or out of order");
    }
}

/// What a client gets from the moment its stream is open: a checkpoint, or nothing but when to come back.
async fn is_served(request: Request) -> Option<hyper::body::Incoming> {
    let mut body = request.header("accept", "text/event-stream").open().await.expect("an answer").into_body();
    let mut parser = Parser::new(String::new());
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let items = parser.feed(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
            if items.iter().any(|item| matches!(item, Item::Checkpoint(_))) {
                return true;
            }
        }
        false
    };
    within(PATIENCE, "a checkpoint or an end", reading).await.then_some(body)
}

#[tokio::test]
async fn limits_per_client_see_the_clients_address_and_no_invented_one() {
    for trusted in [true, false] {
        let settings = Settings::default();
        let settings = if trusted { settings.gateway_arg("--trusted-proxies=127.0.0.1") } else { settings };
        let front = Front::start(settings, Recipe::documented()).await;
        let channel = front.site.channel(Manifest::public("orders").with("limits/connectionsPerClient", 1)).await;
        let get = |from: u8| front.request(Request::get(front.url(&channel)), from);
        let first = is_served(get(2)).await;
        assert!(first.is_some());
        assert!(is_served(get(2)).await.is_none(), "one of each client");
        let invented = get(2).header("x-forwarded-for", "192.0.2.7").header("forwarded", "for=192.0.2.8");
        assert!(is_served(invented).await.is_none(), "what a client says of itself does not count");
        assert_eq!(is_served(get(3)).await.is_some(), trusted, "untrusted, nginx is the client");
    }
}

#[tokio::test]
async fn a_page_of_the_same_host_publishes_with_its_cookie() {
    let secret = b"thirty-two bytes that nobody can guess";
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::write(folder.path().join("secret"), secret).expect("written");
    let (issuer, file) = ("https://login.example", folder.path().join("secret"));
    let config = json!({
        "issuers": [{ "name": "main", "issuer": issuer, "audience": "tidings", "algorithms": ["HS256"],
                      "secret": { "file": file } }],
        "cookie": "session",
    });
    std::fs::write(folder.path().join("config.yaml"), config.to_string()).expect("written");
    let settings =
        Settings::default().gateway_arg(&format!("--config={}", folder.path().join("config.yaml").display()));
    let front = Front::start(settings, Recipe::documented()).await;
    let manifest = Manifest::public("orders").with("access/publish", json!({ "mode": "Token", "topics": [">"] }));
    let channel = front.site.channel(manifest).await;
    let token = TokenKey::shared(secret).sign(&Draft::new(issuer, "ann"));
    for protocol in PROTOCOLS {
        for (origin, status) in [(front.nginx.url(), 201), ("https://evil.example".to_owned(), 404)] {
            let post =
                Request::post(front.url(&channel), "x").over(protocol).header("cookie", format!("session={token}"));
            let reply = front.request(post.header("origin", &origin), 1).send().await;
            assert_eq!(reply.status.as_u16(), status, "{origin}: {}", reply.text());
        }
    }
}
