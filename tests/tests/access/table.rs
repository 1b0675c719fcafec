//! The table: every state of a token, in every place, over every protocol, for both actions, at every kind of channel.

use serde_json::{Value, json};
use tidings_tests::installation::Settings;
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::manifest::Manifest;
use tidings_tests::tls::{TlsClient, TlsFolder};
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::web::{Protocol, Reply, Request};

use crate::house::{House, MAIN, OTHER, TICKETS, get, token_channel};

/// What is known of a token before anybody looks at a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    /// There is none.
    Nobody,
    /// It is not good.
    Bad,
    /// It is good, and of the issuer `main`.
    Main,
    /// It is good, and of another issuer.
    Other,
}

/// Where a token stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Transport {
    Header,
    Cookie,
    Query,
    /// A cookie that a page of a foreign origin makes the browser send.
    ForeignCookie,
}

pub(crate) const TRANSPORTS: [Transport; 4] =
    [Transport::Header, Transport::Cookie, Transport::Query, Transport::ForeignCookie];

/// What is done to a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Subscribe,
    Publish,
}

/// A channel and what it would grant whom.
struct Row {
    manifest: Manifest,
    exists: bool,
    /// What everybody may do.
    public: Option<Action>,
    /// What a good token gives.
    grants: fn(Standing, Transport, Action) -> bool,
}

fn tokens(house: &House) -> Vec<(&'static str, Option<String>, Standing)> {
    let ann = Draft::new(MAIN, "ann");
    let sign = |draft: &Draft| Some(house.keys.sign(draft));
    let stranger = TokenKey::rs256("a");
    let as_secret = TokenKey::shared(&house.keys.public_text());
    let tampered = house.keys.sign(&ann).replacen("ey", "eY", 1);
    vec![
        ("none", None, Standing::Nobody),
        ("valid", sign(&ann), Standing::Main),
        ("valid with another key", Some(house.old_keys.sign(&ann)), Standing::Main),
        ("valid with a list of audiences", sign(&ann.clone().with("aud", json!(["y", "tidings"]))), Standing::Main),
        ("of another issuer", Some(house.other.sign(&Draft::new(OTHER, "ann"))), Standing::Other),
        ("signed with a secret", Some(house.tickets.sign(&Draft::new(TICKETS, "ann"))), Standing::Other),
        ("expired", sign(&ann.clone().expires_in(-1)), Standing::Bad),
        ("not yet", sign(&ann.clone().with("nbf", tidings_tests::token::now() + 60)), Standing::Bad),
        ("without exp", sign(&ann.clone().with("exp", Value::Null)), Standing::Bad),
        ("without aud", sign(&ann.clone().with("aud", Value::Null)), Standing::Bad),
        ("without iss", sign(&ann.clone().with("iss", Value::Null)), Standing::Bad),
        ("wrong issuer", sign(&Draft::new("https://id.example/", "ann")), Standing::Bad),
        ("an issuer's name with another's key", Some(house.other.sign(&ann)), Standing::Bad),
        ("wrong audience", sign(&ann.clone().with("aud", "other")), Standing::Bad),
        ("algorithm that is not pinned", sign(&ann.clone().header("alg", "RS512")), Standing::Bad),
        ("algorithm of another issuer", Some(house.tickets.sign(&ann)), Standing::Bad),
        ("none-algorithm", Some(ann.unsigned()), Standing::Bad),
        ("the public key as a secret", Some(as_secret.sign(&ann.clone().header("kid", "a"))), Standing::Bad),
        ("unknown kid", sign(&ann.clone().header("kid", "zzz")), Standing::Bad),
        ("another key under a known kid", Some(stranger.sign(&ann)), Standing::Bad),
        ("a key of its own", Some(stranger.sign(&ann.clone().header("jwk", stranger.jwk().clone()))), Standing::Bad),
        ("critical extension", sign(&ann.clone().header("crit", json!(["exp"]))), Standing::Bad),
        ("a subject that is a number", sign(&ann.clone().with("sub", 42)), Standing::Bad),
        ("a subject that is a list", sign(&ann.clone().with("sub", json!(["ann"]))), Standing::Bad),
        ("an id that is a number", sign(&ann.clone().with("jti", 42)), Standing::Bad),
        ("tampered", Some(tampered), Standing::Bad),
        ("oversized", sign(&ann.clone().with("x", "x".repeat(14_000))), Standing::Bad),
        ("malformed", Some("a.b.c".to_owned()), Standing::Bad),
        ("empty", Some(String::new()), Standing::Bad),
    ]
}

/// Where a channel takes tokens from that says nothing about it.
fn is_usual(transport: Transport) -> bool {
    matches!(transport, Transport::Header | Transport::Cookie)
}

fn channels() -> Vec<Row> {
    let everywhere = json!(["Header", "Cookie", "Query"]);
    let row = |manifest: Manifest, grants| Row { manifest, exists: true, public: None, grants };
    let topics = json!(["all", "user.{sub}"]);
    let token = || json!({ "mode": "Token", "topics": topics });
    let everybody = json!({ "mode": "Public", "topics": [">"] });
    let nobody = json!({ "mode": "Disabled", "topics": [">"] });
    let shop = |credentials| json!({ "origins": ["https://shop.example"], "allowCredentials": credentials });
    let named = |name: &str| Manifest::new("test", name);
    vec![
        row(token_channel("granted", topics.clone()).with("access/tokenSources", everywhere), |_, transport, _| {
            transport != Transport::ForeignCookie
        }),
        row(token_channel("defaults", topics.clone()), |_, transport, _| is_usual(transport)),
        row(
            token_channel("query-only", topics.clone()).with("access/tokenSources", json!(["Query"])),
            |_, transport, _| transport == Transport::Query,
        ),
        row(token_channel("shop", topics.clone()).with("cors", shop(true)), |_, transport, _| {
            transport != Transport::Query
        }),
        row(token_channel("readable", topics.clone()).with("cors", shop(false)), |_, transport, _| is_usual(transport)),
        row(
            token_channel("main-only", topics.clone()).with("access/issuers", json!(["main"])),
            |standing, transport, _| standing == Standing::Main && is_usual(transport),
        ),
        row(token_channel("nothing", json!([])), |_, _, _| false),
        row(token_channel("claimless", json!(["team.{groups}"])), |_, _, _| false),
        row(named("disabled").with("access/subscribe", nobody.clone()), |_, _, _| false),
        row(named("read-only").with("access/subscribe", token()), |_, transport, action| {
            is_usual(transport) && action == Action::Subscribe
        }),
        row(
            named("write-only").with("access/subscribe", nobody.clone()).with("access/publish", token()),
            |_, transport, action| is_usual(transport) && action == Action::Publish,
        ),
        Row {
            public: Some(Action::Subscribe),
            ..row(
                named("news").with("access/subscribe", everybody.clone()).with("access/publish", token()),
                |_, transport, action| action == Action::Subscribe || is_usual(transport),
            )
        },
        Row {
            public: Some(Action::Publish),
            ..row(named("inbox").with("access/subscribe", nobody).with("access/publish", everybody), |_, _, action| {
                action == Action::Publish
            })
        },
        Row { exists: false, ..row(named("missing"), |_, _, _| false) },
        Row { exists: false, ..row(Manifest::new("nowhere", "granted"), |_, _, _| false) },
    ]
}

pub(crate) fn with_token(request: Request, token: Option<&str>, transport: Transport) -> Request {
    match (token, transport) {
        (None, _) | (Some(_), Transport::Query) => request,
        (Some(token), Transport::Header) => request.header("authorization", format!("Bearer {token}")),
        (Some(token), Transport::Cookie) => request.header("cookie", format!("a=b; tidings_token={token}")),
        (Some(token), Transport::ForeignCookie) => {
            let request = request.header("cookie", format!("tidings_token={token}"));
            request.header("origin", "https://shop.example").header("sec-fetch-site", "cross-site")
        }
    }
}

/// The answer without what differs from one to the next by itself.
fn told(reply: &Reply) -> String {
    let headers: Vec<_> = reply.headers.iter().filter(|(name, _)| *name != "date").collect();
    format!("{} {headers:?} {}", reply.status, reply.text())
}

/// The answer that the table has.
fn expected(row: &Row, standing: Standing, transport: Transport, action: Action) -> u16 {
    let good = matches!(standing, Standing::Main | Standing::Other);
    let public = row.public == Some(action);
    match (public || good, public || (row.grants)(standing, transport, action)) {
        (false, _) => 401,
        (true, false) => 404,
        (true, true) if action == Action::Publish => 201,
        (true, true) => 200,
    }
}

/// Asks for every channel with one token in one place, and holds the answers against the table and against each other.
async fn ask(
    house: &House,
    rows: &[Row],
    (state, token, standing): &(&str, Option<String>, Standing),
    (transport, action, protocol): (Transport, Action, Protocol),
) -> usize {
    let token = token.as_deref();
    let mut refusals: Vec<(String, String)> = Vec::new();
    for row in rows {
        let what = format!("{state}, {transport:?}, {action:?}, {protocol:?}, {}", row.manifest.key());
        let topic = (action == Action::Publish).then_some(("topic", "user.ann"));
        let with = token.filter(|_| transport == Transport::Query).map(|token| ("access_token", token));
        let parameters: Vec<_> = topic.into_iter().chain(with).collect();
        let url = house.url(&row.manifest, &parameters);
        let too_long = url.len() > 8 << 10;
        let request = if action == Action::Publish { Request::post(url, "x") } else { get(url) };
        let request = with_token(request, token, transport).over(protocol).secured(house.site.gateways[0].tls());
        let expected = if too_long { 414 } else { expected(row, *standing, transport, action) };
        if expected == 200 {
            let answer = request.open().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{what}");
            assert!(!answer.headers().contains_key("content-length"), "{what}: a stream goes on");
            continue;
        }
        let reply = request.send().await;
        assert_eq!(reply.status, expected, "{what}: {}", reply.text());
        if expected == 401 {
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{what}");
        }
        if expected >= 400 {
            assert_eq!(reply.header("content-type"), "application/problem+json", "{what}");
            assert!(token.is_none_or(|token| token.is_empty() || !reply.text().contains(token)), "{what}");
            refusals.push((what, told(&reply)));
        }
    }
    for (what, refusal) in &refusals {
        assert_eq!(refusal, &refusals[0].1, "{what} and {} tell channels apart", refusals[0].0);
    }
    rows.len()
}

/// Every row of the table. Returns how many there were.
async fn hold(house: &House, protocols: [Protocol; 2]) -> usize {
    let rows = channels();
    house.site.all_channels(rows.iter().filter(|row| row.exists).map(|row| row.manifest.clone()).collect()).await;
    let mut asked = 0;
    for token in tokens(house) {
        for transport in TRANSPORTS {
            for action in [Action::Subscribe, Action::Publish] {
                for protocol in protocols {
                    asked += ask(house, &rows, &token, (transport, action, protocol)).await;
                }
            }
        }
    }
    let metrics = house.site.gateways[0].metrics().await;
    for reason in [
        "malformed",
        "issuer",
        "algorithm",
        "key",
        "signature",
        "claim",
        "subject",
        "audience",
        "expired",
        "not-yet",
        "too-large",
    ] {
        let label = format!("reason=\"{reason}\"");
        assert!(metrics.sum_where("tidings_tokens_refused_total", &[&label]) > 0.0, "{reason}");
    }
    asked
}

#[tokio::test]
async fn every_token_in_every_place_gets_the_answer_that_its_channel_has_for_it() {
    let house = House::open().await;
    let asked = hold(&house, [Protocol::Http1, Protocol::H2c]).await;
    assert!(asked > 6_000, "{asked} requests");
}

#[tokio::test]
async fn over_tls_every_token_gets_the_same_answers() {
    let authority = KubeAuthority::new().expect("an authority");
    let folder = TlsFolder::of(&authority);
    let settings = Settings::default().tls(&folder, TlsClient::trusting(&authority));
    let house = House::open_with(settings, "").await;
    let asked = hold(&house, [Protocol::Http1, Protocol::H2]).await;
    assert!(asked > 6_000, "{asked} requests");
}
