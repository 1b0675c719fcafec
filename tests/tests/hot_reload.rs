//! Changed manifests and Routes take effect while streams are open, and end only those that they concern.

use serde_json::json;
use tidings_tests::event_source::{Happening, Settings as Client, sequence_of};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::ledger::gaps;
use tidings_tests::manifest::Manifest;
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::Request;

fn was_ended(record: &[tidings_tests::event_source::Entry]) -> bool {
    record.iter().any(|entry| matches!(entry.what, Happening::End { .. }))
}

#[tokio::test]
async fn a_change_of_how_events_are_sent_ends_no_stream() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let changed = channel.with("events/heartbeatSeconds", 1).with("events/maxEventBytes", "10");
    let changed = site.channel(changed.with("cors/origins", json!(["https://shop.example"]))).await;
    let publisher = site.publisher(&changed).await;
    publisher.publish("a", "twelve bytes").await;
    publisher.publish("a", "small").await;
    assert_eq!(source.next_event().await.event, "tidings.oversize", "the new limit is in force");
    assert_eq!(source.next_event().await.data, "small");
    source.next("a heartbeat", |what| matches!(what, Happening::Comment(_)).then_some(())).await;
    assert!(!was_ended(&source.record()), "{}", source.tail());
    let answer = Request::get(site.url(0, &changed, &[])).header("origin", "https://shop.example").open().await;
    assert_eq!(answer.expect("an answer").headers()["access-control-allow-origin"], "https://shop.example");
}

#[tokio::test]
async fn a_change_of_access_ends_the_streams_that_it_concerns_and_no_others() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let other = site.channel(Manifest::public("other")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let mut unconcerned = site.subscribe(0, &other, &[]).await;
    let granted = json!({ "mode": "Public", "topics": ["open.>"] });
    let channel = site.channel(channel.with("access/subscribe", granted)).await;
    let end = source.next_event().await;
    assert_eq!((end.event.as_str(), end.data.as_str()), ("tidings.end", "{\"reason\":\"access-changed\"}"));
    source.next_open().await;
    let publisher = site.publisher(&channel).await;
    publisher.publish("closed", "x").await;
    publisher.publish("open.a", "y").await;
    assert_eq!(source.next_event().await.data, "y", "under the new rules");
    assert_eq!(gaps(&source.record()), []);
    site.publisher(&other).await.publish("a", "z").await;
    assert_eq!(unconcerned.next_event().await.data, "z");
    assert!(!was_ended(&unconcerned.record()));
}

#[tokio::test]
async fn a_channel_that_becomes_private_refuses_its_clients_for_good() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    site.channel(channel.with("access/subscribe/mode", "Disabled")).await;
    assert_eq!(source.next_event().await.event, "tidings.end");
    assert_eq!(source.refused().await, 401);
}

#[tokio::test]
async fn a_garbage_route_keeps_the_last_good_one() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let other = site.channel(Manifest::public("other")).await;
    let source = site.subscribe(0, &channel, &[]).await;
    // The operator would repair the file; it must not, for as long as this test looks.
    site.operator.process().stop().await;
    let (file, route) = site.route_files().remove("test/orders").expect("the operator wrote it");
    for garbage in
        ["", "{", "version: 99\n", "\u{0}", "- a\n- b\n", &route.to_yaml().replace("version: 1", "version: 2")]
    {
        std::fs::write(&file, garbage).expect("the directory can be written");
        eventually(PATIENCE, "the gateway refuses it", || async {
            site.gateways[0].metrics().await.sum("tidings_routes_refused") >= 1.0
        })
        .await;
        let sequence = site.publisher(&channel).await.publish("a", "served as before").await;
        source.reaches(sequence).await;
        let fresh = site.subscribe(0, &channel, &[]).await;
        assert_eq!(sequence_of(&fresh.last_id()), Some(sequence));
        std::fs::write(&file, route.to_yaml()).expect("the directory can be written");
        eventually(PATIENCE, "the gateway is content again", || async {
            site.gateways[0].metrics().await.sum("tidings_routes_refused") == 0.0
        })
        .await;
    }
    assert!(!was_ended(&source.record()), "{}", source.tail());
    site.subscribe(0, &other, &[]).await;
    site.operator.process().cont();
}

#[tokio::test]
async fn a_lost_route_file_ends_nothing_and_the_operator_brings_it_back() {
    let resync = ["--resync-seconds".to_owned(), "1".to_owned()];
    let site = Settings { operator_arguments: resync.to_vec(), ..Settings::default() }.start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let source = site.subscribe(0, &channel, &[]).await;
    let (file, _) = site.route_files().remove("test/orders").expect("the operator wrote it");
    std::fs::remove_file(&file).expect("it can be removed");
    let sequence = site.publisher(&channel).await.publish("a", "served as before").await;
    source.reaches(sequence).await;
    eventually(PATIENCE, "the operator repairs it", || std::future::ready(file.exists())).await;
    let sequence = site.publisher(&channel).await.publish("a", "and after").await;
    source.reaches(sequence).await;
    assert!(!was_ended(&source.record()), "{}", source.tail());
}

#[tokio::test]
async fn a_bad_manifest_stops_neither_its_own_channel_nor_others() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let source = site.subscribe(0, &channel, &[]).await;
    site.write(&channel.clone().with("events/retryMilliseconds", 1));
    let other = site.channel(Manifest::public("other")).await;
    let sequence = site.publisher(&channel).await.publish("a", "served as before").await;
    source.reaches(sequence).await;
    assert!(!was_ended(&source.record()), "the last good Route stays in force");
    site.subscribe(0, &other, &[]).await;
}

#[tokio::test]
async fn a_channel_created_again_goes_on_with_its_retained_stream() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    site.publisher(&channel).await.publish("a", "before").await;
    let before = source.next_event().await;
    site.remove(&channel);
    assert_eq!(source.next_event().await.event, "tidings.end");
    eventually(PATIENCE, "the Route goes", || {
        let gone = site
            .route_files()
            .get("test/orders")
            .is_none_or(|(_, route)| route.state == tidings_crds::route::RouteState::Removed);
        std::future::ready(gone)
    })
    .await;
    let channel = site.channel(channel).await;
    site.publisher(&channel).await.publish("a", "after").await;
    let mut late = Client::new(site.url(0, &channel, &[])).after(&before.id).open();
    assert_eq!(late.next_event().await.data, "after", "positions outlive the Channel, as its stream does");
    assert_eq!(gaps(&late.close()), []);
}

#[tokio::test]
async fn killed_operators_cost_no_stream_and_their_successor_goes_on() {
    let mut site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let source = site.subscribe(0, &channel, &[]).await;
    site.operator.kill9();
    let sequence = site.publisher(&channel).await.publish("a", "without an operator").await;
    source.reaches(sequence).await;
    site.write(&Manifest::public("later"));
    site.operator.launch();
    let later = Manifest::public("later");
    eventually(PATIENCE, "the new channel is served", || async {
        let answer = Request::get(site.url(0, &later, &[])).open().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    assert!(!was_ended(&source.record()), "{}", source.tail());
}
