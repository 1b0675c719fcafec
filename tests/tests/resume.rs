//! The seam between what is replayed and what is live: every kind of position a client can come back with, while
//! publications go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use tidings_crds::position::{Epoch, Position, Stamp};
use tidings_tests::event_source::{EventSource, events, sequence_of};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::ledger::{self, assert_faultless, gaps};
use tidings_tests::manifest::Manifest;
use tidings_tests::on_every_side;
use tidings_tests::proxy::Fate;
use tidings_tests::publisher::Publisher;
use tidings_tests::seed::Seed;
use tidings_tests::side::Side;
use tidings_tests::truth::Removal;
use tidings_tests::wait::{PATIENCE, eventually, within};
use tokio::sync::Notify;

/// More than the 4,096 events that a gateway keeps of a channel in memory.
const BEHIND: u64 = 5_000;

/// A channel with `count` events, whose data are their sequences less one.
async fn filled(site: &Installation, count: u64) -> (Manifest, Publisher, Position) {
    let channel = site.channel(Manifest::public("seam").with("events/heartbeatSeconds", 1)).await;
    let publisher = site.publisher(&channel).await;
    let last = publisher.fill("a", count).await;
    assert_eq!(last, count);
    let head: Position = site.client(0, &channel, &[]).open().next_checkpoint().await.parse().expect("a position");
    (channel, publisher, head)
}

/// The position of a stored event, with its true stamp.
async fn position(publisher: &Publisher, epoch: Epoch, sequence: u64) -> Position {
    let stored = publisher.stream().await.get_raw_message(sequence).await.expect("it is stored").time;
    let millis = u64::try_from(stored.unix_timestamp_nanos() / 1_000_000).expect("after 1970");
    Position { epoch, sequence, stamp: Some(Stamp::from_millis(millis)) }
}

/// Resumes at `id`, publishes one more, and returns what came: data of events, and gaps.
async fn resumed(
    site: &Installation,
    channel: &Manifest,
    publisher: &Publisher,
    id: &str,
) -> (Vec<String>, Vec<ledger::Gap>) {
    let source = site.client(0, channel, &[]).after(id).open();
    source.wait_for("the opening", |record| (record.len() > 2).then_some(())).await;
    let last = publisher.publish("a", "live").await;
    source.reaches(last).await;
    let record = source.close();
    let data = events(&record).into_iter().filter(|event| event.event == "message").map(|event| event.data);
    (data.collect(), gaps(&record))
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).chain(["live".to_owned()]).collect()
}

async fn positions_in_the_log_at_the_head_and_without_a_stamp_go_on_behind_themselves(side: Side) {
    let site = Installation::on(side).await;
    let (channel, publisher, head) = filled(&site, 20).await;
    let inside = position(&publisher, head.epoch, 10).await;
    assert_eq!(resumed(&site, &channel, &publisher, &inside.to_string()).await, (numbers(10..20), vec![]));
    publisher.delete(21).await;
    let unstamped = Position { stamp: None, ..inside };
    let (data, told) = resumed(&site, &channel, &publisher, &unstamped.to_string()).await;
    assert_eq!(
        (data.first().map(String::as_str), data.last().map(String::as_str), told),
        (Some("10"), Some("live"), vec![])
    );
    let at_head = site.client(0, &channel, &[]).open().next_checkpoint().await;
    assert_eq!(resumed(&site, &channel, &publisher, &at_head).await, (vec!["live".to_owned()], vec![]));
}

async fn a_position_behind_the_log_is_read_from_the_stream_without_a_seam(side: Side) {
    let site = Installation::on(side).await;
    let (channel, publisher, head) = filled(&site, BEHIND).await;
    for sequence in [1, 100, BEHIND - 4097, BEHIND - 4096, BEHIND - 4095] {
        let behind = position(&publisher, head.epoch, sequence).await;
        let (data, told) = resumed(&site, &channel, &publisher, &behind.to_string()).await;
        let expected: Vec<String> = (sequence..BEHIND).map(|n| n.to_string()).collect();
        assert_eq!((&data[..expected.len()], told), (&expected[..], vec![]), "behind {sequence}");
        assert!(data[expected.len()..].iter().all(|data| data == "live"));
    }
    let from_zero = Position { epoch: head.epoch, sequence: 0, stamp: None };
    let (data, told) = resumed(&site, &channel, &publisher, &from_zero.to_string()).await;
    assert_eq!((data.first().map(String::as_str), told), (Some("0"), vec![]));
}

async fn a_position_in_the_future_of_another_epoch_or_with_another_stamp_is_a_reset(side: Side) {
    let site = Installation::on(side).await;
    let (channel, publisher, head) = filled(&site, 20).await;
    let inside = position(&publisher, head.epoch, 10).await;
    let stamp = |millis| Some(Stamp::from_millis(millis));
    let cases = [
        ("future", Position { sequence: 1000, stamp: None, ..inside }),
        ("future with a stamp", Position { sequence: 1000, ..inside }),
        ("another epoch", Position { epoch: Epoch::from_nanos(1), ..inside }),
        ("another epoch at 0", Position { epoch: Epoch::from_nanos(1), sequence: 0, stamp: None }),
        ("another stamp", Position { stamp: stamp(12345), ..inside }),
    ];
    for (name, wrong) in cases {
        let (data, told) = resumed(&site, &channel, &publisher, &wrong.to_string()).await;
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert_eq!((told[0].reason.as_str(), told[0].after.clone()), ("reset", Some(wrong.to_string())), "{name}");
        assert_eq!(told[0].resumed.as_deref().and_then(sequence_of), Some(0), "{name}: before the earliest event");
        assert_eq!(data[..20], numbers(0..20)[..20], "{name}");
    }
}

async fn another_stamp_behind_the_log_is_a_reset_too(side: Side) {
    let site = Installation::on(side).await;
    let (channel, publisher, head) = filled(&site, BEHIND).await;
    let inside = position(&publisher, head.epoch, 10).await;
    let wrong = Position { stamp: Some(Stamp::from_millis(12345)), ..inside };
    let (data, told) = resumed(&site, &channel, &publisher, &wrong.to_string()).await;
    assert_eq!(told.iter().map(|gap| gap.reason.as_str()).collect::<Vec<_>>(), ["reset"]);
    assert_eq!(data.len() as u64, BEHIND + 1);
}

async fn a_malformed_position_is_an_unknown_one_and_the_client_starts_like_one_without(side: Side) {
    let site = Installation::on(side).await;
    let (channel, publisher, _) = filled(&site, 5).await;
    let long = "x".repeat(4000);
    for malformed in ["garbage", "1-2-3-4", "A-1", "é", "1cqk2v7q3x1a-99999999999999999999-k3j9yf", "-", long.as_str()]
    {
        let (data, told) = resumed(&site, &channel, &publisher, malformed).await;
        assert_eq!(told.len(), 1, "{malformed}: {told:?}");
        assert_eq!(told[0].reason, "unknown-position", "{malformed}");
        assert_eq!(data, ["live"], "{malformed}: the channel's default is New");
    }
}

async fn a_position_whose_event_was_deleted_goes_on_behind_it(side: Side) {
    let site = Installation::on(side).await;
    let (channel, publisher, head) = filled(&site, 20).await;
    let gone = position(&publisher, head.epoch, 10).await;
    publisher.delete(10).await;
    publisher.delete(11).await;
    let (data, told) = resumed(&site, &channel, &publisher, &gone.to_string()).await;
    assert_eq!((data.last().map(String::as_str), told), (Some("live"), vec![]));
    let expected = numbers(11..20);
    assert!(data.ends_with(&expected), "{data:?}");
}

async fn a_position_before_a_purge_is_one_gap(side: Side) {
    let mut site = Installation::on(side).await;
    let (channel, publisher, head) = filled(&site, 20).await;
    let old = position(&publisher, head.epoch, 5).await;
    let kept = position(&publisher, head.epoch, 12).await;
    publisher.purge_below(12).await;
    site.gateways[0].kill9();
    site.gateways[0].launch();
    site.gateways[0].ready().await;
    let (data, told) = resumed(&site, &channel, &publisher, &old.to_string()).await;
    assert_eq!((data, told.len()), (numbers(11..20), 1));
    assert_eq!((told[0].reason.as_str(), told[0].after.clone()), ("expired", Some(old.to_string())));
    assert_eq!(told[0].resumed.as_deref().and_then(sequence_of), Some(11));
    let (data, told) = resumed(&site, &channel, &publisher, &kept.to_string()).await;
    assert_eq!(
        (data.first().map(String::as_str), told),
        (Some("12"), vec![]),
        "a purge costs nothing to who is past it"
    );
}

async fn many_clients_that_come_and_go_under_publications_lose_and_repeat_nothing(side: Side) {
    let seed = Seed::from_environment();
    let site = Settings::on(side).gateways(2).start().await;
    let channel = site.channel(Manifest::public("seam").with("events/heartbeatSeconds", 1)).await;
    let publisher = site.publisher(&channel).await;
    // Some of the past lies behind the Log from the start.
    publisher.fill("past", BEHIND).await;
    let filters: [&[&str]; 5] = [&[], &["a"], &["*"], &["b", "past"], &["c.>"]];
    let clients: Vec<(EventSource, ledger::Request)> = (0..40)
        .map(|index| {
            let topics = filters[index % filters.len()];
            let mut parameters: Vec<(&str, &str)> = topics.iter().map(|topic| ("topic", *topic)).collect();
            let request = if index % 2 == 0 { ledger::Request::all() } else { ledger::Request::new() };
            parameters.extend((index % 2 == 0).then_some(("from", "all")));
            let source = site.client_of(&[index % 2, (index + 1) % 2], &channel, &parameters);
            (source.reconnect_after(Duration::from_millis(10)).open(), request.topics(topics))
        })
        .collect();
    let mut rng = seed.rng();
    let mut last = 0;
    for round in 0..30 {
        for _ in 0..20 {
            let topic = ["a", "b", "c.d", "c.d.e", ""][rng.random_range(0..5)];
            last = publisher.publish(topic, rng.random::<u32>().to_string()).await;
        }
        for (source, _) in clients.iter().skip(round % 3).step_by(3) {
            source.interrupt();
        }
    }
    let truth = site.truth(&channel).await;
    for (source, request) in clients {
        source.reaches(last).await;
        let record = source.close();
        assert_faultless(&truth, &request, &record);
        assert_eq!(gaps(&record), []);
    }
}

async fn a_purge_while_a_new_client_reads_the_stream_message_by_message_is_no_loss_without_a_word(side: Side) {
    let site = Settings::on(side).proxied().start().await;
    let channel = site.channel(Manifest::public("seam").with("events/heartbeatSeconds", 1)).await;
    let publisher = site.publisher(&channel).await;
    publisher.fill("a", 20).await;
    let mut truth = site.truth(&channel).await;
    // The connection breaks before the stream's answer is there, so it is read from the leader one by one; the fifth
    // message takes its time.
    let (broken, reading) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let proxy = site.proxy.as_ref().expect("it was asked for");
    proxy.tamper({
        let (broken, reading) = (Arc::clone(&broken), Arc::clone(&reading));
        // What the gateway reads for itself when it opens the channel begins later in the stream.
        let begun = AtomicBool::new(false);
        move |message| {
            let is_batch =
                !message.subject.starts_with("tidings-live.") && message.header("Nats-Last-Sequence").is_some();
            if is_batch && (message.header("Nats-Sequence").is_some_and(|n| n == "1") || begun.load(Ordering::Relaxed))
            {
                begun.store(true, Ordering::Relaxed);
                broken.notify_one();
                return Fate::Drop;
            }
            if !String::from_utf8_lossy(&message.payload).contains("\"seq\":5,") {
                return Fate::Pass;
            }
            reading.notify_one();
            Fate::Delay(Duration::from_secs(1))
        }
    });
    let source = site.client(0, &channel, &[("from", "all")]).open();
    within(PATIENCE, "the stream is read", broken.notified()).await;
    proxy.disconnect();
    eventually(PATIENCE, "the gateway notices", || async { !site.gateways[0].is_ready().await }).await;
    proxy.heal();
    within(PATIENCE, "it is read one by one", reading.notified()).await;
    let since = Instant::now();
    publisher.purge_below(15).await;
    proxy.behave();
    let last = publisher.publish("a", "end").await;
    source.reaches(last).await;
    truth.0[0].facts.range_mut(..15).for_each(|(_, fact)| fact.removed = Some((Removal::Front, since)));
    truth.0[0].facts.extend(site.truth(&channel).await.0.remove(0).facts.split_off(&last));
    assert_faultless(&truth, &ledger::Request::all(), &source.close());
}

on_every_side! {
    positions_in_the_log_at_the_head_and_without_a_stamp_go_on_behind_themselves,
    a_position_behind_the_log_is_read_from_the_stream_without_a_seam,
    a_position_in_the_future_of_another_epoch_or_with_another_stamp_is_a_reset,
    another_stamp_behind_the_log_is_a_reset_too,
    a_malformed_position_is_an_unknown_one_and_the_client_starts_like_one_without,
    a_position_whose_event_was_deleted_goes_on_behind_it,
    a_position_before_a_purge_is_one_gap,
    many_clients_that_come_and_go_under_publications_lose_and_repeat_nothing,
    a_purge_while_a_new_client_reads_the_stream_message_by_message_is_no_loss_without_a_word,
}
