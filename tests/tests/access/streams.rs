//! Open streams, when a token expires, a channel changes, or somebody is denied.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_tests::event_source::Happening;
use tidings_tests::token::Draft;
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::Request;

use crate::house::{House, MAIN, OTHER, get, token_channel};

#[tokio::test]
async fn a_stream_ends_with_its_token_and_its_client_is_refused_once() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["all"]))).await;
    let short = house.keys.sign(&Draft::new(MAIN, "ann").expires_in(2));
    let mut brief = house.client(&channel, &[], &short).reconnect_after(Duration::from_millis(10)).open();
    let long = house.subscribe(&channel, &[], &house.ann()).await;
    let end = brief.next_event().await;
    assert_eq!((end.event.as_str(), end.data.as_str()), ("tidings.end", "{\"reason\":\"token-expired\"}"));
    assert!(brief.next_end().await, "a clean end");
    assert_eq!(brief.refused().await, 401);
    let opened = brief.record().iter().filter(|entry| matches!(entry.what, Happening::Open(_))).count();
    assert_eq!(opened, 1, "one that is about to expire does not go round in circles");
    let metrics = house.site.gateways[0].metrics().await;
    assert_eq!(metrics.sum_where("tidings_streams_closed_total", &["reason=\"token-expired\""]), 1.0);
    assert!(!long.record().iter().any(|entry| matches!(entry.what, Happening::End { .. })));
}

#[tokio::test]
async fn changed_access_ends_the_streams_that_it_concerns_and_no_others() {
    let house = House::open().await;
    let manifest = |topics: Value| token_channel("orders", topics);
    let channel = house.site.channel(manifest(json!(["all", "user.{sub}", "vip.{groups}"]))).await;
    let vip = house.keys.sign(&Draft::new(MAIN, "vip").with("groups", json!(["gold"])));
    let mut ann = house.subscribe(&channel, &[], &house.ann()).await;
    let mut vip = house.subscribe(&channel, &[], &vip).await;
    let mut only = house
        .subscribe(&channel, &[("topic", "vip.*")], &house.keys.sign(&Draft::new(MAIN, "x").with("groups", "gold")))
        .await;
    house.site.channel(manifest(json!(["all", "user.{sub}"]))).await;
    let end = vip.next_event().await;
    assert_eq!(end.data, "{\"reason\":\"access-changed\"}", "it comes back, for what is left");
    assert_eq!(only.next_event().await.data, "{\"reason\":\"access-revoked\"}");
    assert_eq!(only.refused().await, 404);
    vip.next_open().await;
    let publisher = house.site.publisher(&channel).await;
    eventually(PATIENCE, "both are here", || async {
        house.site.gateways[0].metrics().await.sum("tidings_subscribers") == 2.0
    })
    .await;
    publisher.publish("vip.gold", "secret").await;
    publisher.publish("all", "open").await;
    assert_eq!((vip.next_event().await.data, ann.next_event().await.data), ("open".into(), "open".into()));
    assert!(!ann.record().iter().any(|entry| matches!(entry.what, Happening::End { .. })), "{}", ann.tail());
}

#[tokio::test]
async fn a_removed_channel_invites_back_those_it_let_in_and_tells_the_others_nothing() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["vip.{groups}"]))).await;
    let vip = house.keys.sign(&Draft::new(MAIN, "vip").with("groups", json!(["gold"])));
    let mut source = house.subscribe(&channel, &[], &vip).await;
    house.site.remove(&channel);
    assert_eq!(source.next_event().await.data, "{\"reason\":\"channel-deleted\"}");
    source.next_open().await;
    assert!(source.next_end().await, "sent away, to come back");
    let never = token_channel("never", json!(["vip.{groups}"]));
    let other = house.other.sign(&Draft::new(OTHER, "bob"));
    for (token, status) in [(None, 401), (Some("a.b.c"), 401), (Some(&*house.ann()), 404), (Some(&*other), 404)] {
        let ask = async |channel| {
            let mut request = get(house.url(channel, &[])).header("origin", "https://shop.example");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let mut reply = request.send().await;
            reply.headers.remove("date");
            (reply.status.as_u16(), reply.headers.clone(), reply.text())
        };
        let answer = ask(&channel).await;
        assert_eq!((answer.0, &answer), (status, &ask(&never).await), "as if it had never been there: {token:?}");
    }
    let request = Request::get(house.url(&channel, &[])).header("accept", "application/json");
    let reply = request.header("authorization", format!("Bearer {vip}")).send().await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after").is_empty()), (503, false), "{}", reply.text());
    let channel = house.site.channel(channel).await;
    house.site.publisher(&channel).await.publish("vip.gold", "after").await;
    assert_eq!(source.next_event().await.data, "after");
}

/// What docs/reference/settings.md promises of the deny list.
const DENIED_WITHIN: Duration = Duration::from_secs(5);

/// A machine that has other work to do may stop everything for seconds; it does not do so every time.
const ATTEMPTS: usize = 5;

#[tokio::test]
async fn the_deny_list_ends_matching_streams_within_five_seconds_and_keeps_them_away() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["all"]))).await;
    let of = |subject: &str, id: &str| house.keys.sign(&Draft::new(MAIN, subject).with("jti", id));
    let mut ann = house.subscribe(&channel, &[], &of("ann", "2")).await;
    let mut other = house.subscribe(&channel, &[], &house.other.sign(&Draft::new(OTHER, "mallory"))).await;
    let mut took = Vec::new();
    while !took.iter().any(|took| *took < DENIED_WITHIN) {
        assert!(took.len() < ATTEMPTS, "denied streams ended after {took:?}");
        let mut mallory = house.subscribe(&channel, &[], &of("mallory", "1")).await;
        let mut stolen = house.subscribe(&channel, &[], &of("ann", "stolen")).await;
        let written = Instant::now();
        house.set("denied: [{ subject: mallory, issuer: main }, { token: stolen }]\n");
        let mut last = Duration::ZERO;
        for source in [&mut mallory, &mut stolen] {
            assert_eq!(source.next_event().await.data, "{\"reason\":\"access-revoked\"}");
            assert!(source.next_end().await);
            assert_eq!(source.refused().await, 401);
            let ended = source.record().into_iter().find(|entry| matches!(entry.what, Happening::End { .. }));
            last = last.max(ended.expect("it has ended").at.duration_since(written));
        }
        took.push(last);
        house.set("");
        eventually(PATIENCE, "mallory is forgiven", || async { house.get(&channel, &of("mallory", "1")).await == 200 })
            .await;
    }
    house.site.publisher(&channel).await.publish("all", "x").await;
    assert_eq!((ann.next_event().await.data, other.next_event().await.data), ("x".into(), "x".into()));
}
