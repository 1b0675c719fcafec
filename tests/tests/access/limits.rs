//! Limits for each client and each request.

use serde_json::json;
use tidings_tests::installation::Settings;
use tidings_tests::manifest::Manifest;
use tidings_tests::token::Draft;
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::Request;

use crate::house::{House, MAIN, get, token_channel};

/// A client is the subject of its token, whatever address it comes from and however many tokens it has.
#[tokio::test]
async fn a_subject_is_limited_over_all_channels_and_others_are_not_concerned() {
    let limits = "limits: { client: { connections: 2, publishPerSecond: 1, publishBytesPerSecond: 1000 }, topicsPerRequest: 2 }\n";
    let house = House::open_with(Settings::default(), limits).await;
    let one = house.site.channel(token_channel("one", json!(["all"]))).await;
    let two = house.site.channel(token_channel("two", json!(["all"]))).await;
    let of = |subject: &str, id: &str| house.keys.sign(&Draft::new(MAIN, subject).with("jti", id));
    let first = house.subscribe(&one, &[], &of("ann", "1")).await;
    let _second = house.subscribe(&two, &[], &of("ann", "2")).await;
    let third = || async {
        let get = get(house.url(&one, &[])).header("authorization", format!("Bearer {}", of("ann", "3")));
        let opened = get.open().await.expect("an answer");
        assert_eq!(opened.status(), 200, "EventSource comes back by itself");
        // A stream goes on; being sent away has a length.
        !opened.headers().contains_key("content-length")
    };
    assert!(!third().await);
    let _bob = house.subscribe(&one, &[], &of("bob", "1")).await;
    let metrics = house.site.gateways[0].metrics().await;
    assert_eq!(metrics.sum_where("tidings_turned_away_total", &["reason=\"client\""]), 1.0);
    drop(first);
    eventually(PATIENCE, "there is room again", third).await;

    let post = |subject: &str, bytes: usize| {
        let url = house.url(&one, &[("topic", "all")]);
        Request::post(url, "x".repeat(bytes)).header("authorization", format!("Bearer {}", of(subject, "1")))
    };
    let limited = eventually(PATIENCE, "a limit", || async {
        let reply = post("ann", 1).send().await;
        (reply.status != 201).then_some(reply)
    })
    .await;
    assert_eq!((limited.status.as_u16(), limited.headers.contains_key("retry-after")), (429, true));
    assert_eq!(post("bob", 5_000).send().await.status, 201, "more than a second's worth passes once");
    let again = eventually(PATIENCE, "the next second", || async {
        let reply = post("bob", 1).send().await;
        // One a second passes; five seconds' worth of bytes has to be paid for.
        (reply.status == 201).then_some(())
    });
    again.await;
    let metrics = house.site.gateways[0].metrics().await;
    assert!(metrics.sum_where("tidings_posts_total", &["outcome=\"limited\""]) >= 2.0);

    let topics = [("topic", "all"), ("topic", "a"), ("topic", "b")];
    let many = get(house.url(&one, &topics)).header("authorization", format!("Bearer {}", of("carl", "1")));
    assert_eq!(many.send().await.status, 400);
}

/// What a client writes into a header that a proxy passes on, or copies into a quoted string, moves nobody to another address.
#[tokio::test]
async fn an_address_is_limited_whatever_its_requests_say_about_others() {
    let behind_proxy = ["--trusted-proxies=127.0.0.0/8", "--forwarded-header=forwarded"];
    let settings = behind_proxy.iter().fold(Settings::default(), |settings, arg| settings.gateway_arg(arg));
    let house = House::open_with(settings, "limits: { client: { connections: 2 } }\n").await;
    let channel = house.site.channel(Manifest::public("open")).await;
    let open = |forwarded: &str| {
        house.site.client(0, &channel, &[]).header("forwarded", forwarded).header("accept", "text/event-stream").open()
    };
    let mut kept = Vec::new();
    for forwarded in ["for=203.0.113.9", "for=203.0.113.9;host=\"h\""] {
        let mut source = open(forwarded);
        source.next_open().await;
        source.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
        kept.push(source);
    }
    for forwarded in [
        "for=203.0.113.9;host=\"x,for=6.6.6.6\";proto=https",
        "for=203.0.113.9;host=\"x;for=6.6.6.6\"",
        "for=203.0.113.9;host=\"\\\",for=6.6.6.6\"",
        "for=6.6.6.6, for=203.0.113.9",
        "for=6.6.6.6;host=\"x, for=203.0.113.9",
    ] {
        let request = get(house.url(&channel, &[])).header("forwarded", forwarded);
        let opened = request.open().await.expect("an answer");
        let limited = opened.headers().contains_key("content-length");
        // A line with a fault says nothing: then it is the proxy that is counted.
        assert_eq!(limited, !forwarded.contains("\"x, for"), "{forwarded}");
    }
}

/// Whoever waits for its turn gets everything all the same.
#[tokio::test]
async fn ranges_behind_the_logs_are_read_as_many_at_a_time_as_is_set() {
    const CHANNELS: usize = 8;
    let house = House::open_with(Settings::default(), "limits: { backfills: 1 }\n").await;
    let channels = (0..CHANNELS).map(|n| Manifest::public(&format!("public-{n}"))).collect();
    let channels = house.site.all_channels(channels).await;
    for channel in &channels {
        house.site.publisher(channel).await.fill("a", 2_000).await;
    }
    let all = [("from", "all")];
    let mut sources: Vec<_> = channels.iter().map(|channel| house.site.client(0, channel, &all).open()).collect();
    for source in &mut sources {
        assert_eq!(source.take(2_000).await.len(), 2_000);
    }
    let limit = async || {
        let metrics = house.site.gateways[0].metrics().await;
        metrics.sum_where("tidings_limit", &["kind=\"backfills\""])
    };
    let metrics = house.site.gateways[0].metrics().await;
    assert!(metrics.sum("tidings_backfill_waits_total") > 0.0, "nobody had to wait");
    assert_eq!((metrics.sum("tidings_backfills_running"), limit().await), (0.0, 1.0));
    house.set("limits: { backfills: 4 }\n");
    eventually(PATIENCE, "the new limit is in force", || async { limit().await == 4.0 }).await;
}
