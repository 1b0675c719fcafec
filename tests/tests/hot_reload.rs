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
async fn a_change_of_how_a_stream_is_kept_open_ends_none() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let changed = channel.with("events/heartbeatSeconds", 1);
    let changed = site.channel(changed.with("cors/origins", json!(["https://shop.example"]))).await;
    let publisher = site.publisher(&changed).await;
    publisher.publish("a", "small").await;
    assert_eq!(source.next_event().await.data, "small");
    source.next("a heartbeat", |what| matches!(what, Happening::Comment(_)).then_some(())).await;
    assert!(!was_ended(&source.record()), "{}", source.tail());
    let answer = Request::get(site.url(0, &changed, &[])).header("origin", "https://shop.example").open().await;
    assert_eq!(answer.expect("an answer").headers()["access-control-allow-origin"], "https://shop.example");
}

/// One id does not stand for two contents: what was made in the old way is not mixed with what is made in the new one.
#[tokio::test]
async fn a_change_of_what_events_are_made_of_ends_all_streams() {
    for (field, value, shown) in [
        ("events/maxEventBytes", json!("10"), "tidings.oversize"),
        ("events/encoding", json!("Base64"), "dHdlbHZlIGJ5dGVz"),
    ] {
        let site = Installation::start().await;
        let channel = site.channel(Manifest::public("orders")).await;
        let mut source = site.subscribe(0, &channel, &[]).await;
        let changed = site.channel(channel.with(field, value)).await;
        let end = source.next_event().await;
        assert_eq!((end.event.as_str(), end.data.as_str()), ("tidings.end", "{\"reason\":\"channel-changed\"}"));
        source.next_open().await;
        site.publisher(&changed).await.publish("a", "twelve bytes").await;
        let event = source.next_event().await;
        assert!([&event.event, &event.data].contains(&&shown.to_owned()), "{event:?}");
    }
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

#[tokio::test]
async fn a_subject_that_is_added_loses_nothing_that_was_acknowledged_even_if_the_operator_is_killed_meanwhile() {
    let mut site = Installation::start().await;
    let subjects = |names: &[&str]| {
        let all: Vec<String> = names.iter().map(|name| format!("tidings.test.orders.{name}.>")).collect();
        Manifest::public("orders").with("subjects", all).with("events/retryMilliseconds", 500)
    };
    let channel = site.channel(subjects(&["a"])).await;
    let source = site.subscribe(0, &channel, &[]).await;
    let jetstream = site.jetstream().await;
    let publish = |topic: &'static str| {
        let jetstream = jetstream.clone();
        async move {
            let sent = jetstream.publish(format!("tidings.test.orders.{topic}.x"), topic.into()).await.ok()?;
            Some(sent.await.ok()?.sequence)
        }
    };
    site.operator.kill9();
    site.write(&subjects(&["a", "b"]));
    // It ends right after its first change of the stream: were that the new subject, no gateway would know it yet.
    site.operator.launch_with("TIDINGS_FAILPOINT", "stream-applied");
    site.operator.process().exited().await;
    let (mut acknowledged, mut of_the_new) = (Vec::new(), 0);
    let begun = std::time::Instant::now();
    for round in 0.. {
        assert!(begun.elapsed() < PATIENCE, "b is not stored");
        acknowledged.extend(publish("a").await);
        if let Some(sequence) = publish("b").await {
            of_the_new += 1;
            acknowledged.push(sequence);
        }
        if round == 50 {
            site.operator.launch();
        } else if round > 50 && of_the_new >= 100 {
            break;
        }
        // About two hundred a second.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let last = *acknowledged.last().expect("something was acknowledged");
    source.reaches(last).await;
    let seen: std::collections::BTreeSet<u64> =
        source.events().iter().filter_map(|event| sequence_of(&event.id)).collect();
    let missing: Vec<_> = acknowledged.iter().filter(|sequence| !seen.contains(sequence)).collect();
    assert!(missing.is_empty(), "{missing:?} of {}\n{}", acknowledged.len(), source.tail());
    assert_eq!(gaps(&source.record()), []);
}
