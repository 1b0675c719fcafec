//! From a publication to the events of every subscriber: what arrives, where it starts, and what the stream says
//! of itself.

use std::time::Duration;

use serde_json::json;
use tidings_tests::event_source::{EventSource, Happening, sequence_of};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::ledger::gaps;
use tidings_tests::manifest::Manifest;
use tidings_tests::on_every_side;
use tidings_tests::publisher::Publication;
use tidings_tests::side::Side;
use tidings_tests::sse::Event;
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::Request;

fn data(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

async fn a_publication_reaches_every_subscriber_as_an_event_with_an_id(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut first = site.subscribe(0, &channel, &[]).await;
    let mut second = site.subscribe(0, &channel, &[]).await;
    let sequence = site.publisher(&channel).await.publish("", "{\"total\": 12}").await;
    let (event, same) = (first.next_event().await, second.next_event().await);
    assert_eq!((event.event.as_str(), event.data.as_str()), ("message", "{\"total\": 12}"));
    assert_eq!(sequence_of(&event.id), Some(sequence));
    assert_eq!(event, same);
}

async fn a_typed_event_carries_its_type(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let publisher = site.publisher(&channel).await;
    publisher.send(Publication::new("", "a").event("order.created")).await;
    publisher.publish("", "b").await;
    let events = source.take(2).await;
    assert_eq!([events[0].event.as_str(), events[1].event.as_str()], ["order.created", "message"]);
}

async fn topics_filter_with_wildcards_and_the_dot_is_the_base_subject(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut all = site.subscribe(0, &channel, &[]).await;
    let mut users = site.subscribe(0, &channel, &[("topic", "user.*")]).await;
    let mut tail = site.subscribe(0, &channel, &[("topic", "user.>")]).await;
    let mut base = site.subscribe(0, &channel, &[("topic", ".")]).await;
    let mut two = site.subscribe(0, &channel, &[("topic", "user.1"), ("topic", "team.>")]).await;
    let publisher = site.publisher(&channel).await;
    for topic in ["", "user", "user.1", "user.1.x", "team.a.b", "user.2"] {
        publisher.publish(topic, if topic.is_empty() { "." } else { topic }).await;
    }
    assert_eq!(data(&all.take(6).await), [".", "user", "user.1", "user.1.x", "team.a.b", "user.2"]);
    assert_eq!(data(&users.take(2).await), ["user.1", "user.2"]);
    assert_eq!(data(&tail.take(3).await), ["user.1", "user.1.x", "user.2"]);
    assert_eq!(data(&two.take(2).await), ["user.1", "team.a.b"]);
    assert_eq!(data(&base.take(1).await), ["."]);
    publisher.publish("", "end").await;
    assert_eq!(data(&base.take(1).await), ["end"], "nothing else came before it");
}

async fn ids_are_equal_on_every_gateway(side: Side) {
    let site = Settings::on(side).gateways(2).start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut one = site.subscribe(0, &channel, &[]).await;
    site.publisher(&channel).await.fill("a", 10).await;
    let mut other = site.client(1, &channel, &[("from", "all")]).open();
    assert_eq!(one.take(10).await, other.take(10).await);
}

async fn a_client_says_where_it_starts_and_the_channel_where_others_do(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders").with("events/from", "All")).await;
    let publisher = site.publisher(&channel).await;
    for (topic, data) in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("c", "5")] {
        publisher.publish(topic, data).await;
    }
    for (from, topic, expected) in [
        (None, None, &["1", "2", "3", "4", "5", "end"][..]),
        (Some("all"), None, &["1", "2", "3", "4", "5", "end"]),
        (Some("all"), Some("b"), &["2", "4"]),
        (Some("last"), None, &["5", "end"]),
        (Some("last"), Some("a"), &["3"]),
        (Some("last-per-topic"), None, &["3", "4", "5", "end"]),
        (Some("last-per-topic"), Some("*"), &["3", "4", "5"]),
        (Some("new"), None, &["end"]),
    ] {
        let parameters: Vec<(&str, &str)> =
            [("from", from), ("topic", topic)].into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let mut source = site.subscribe(0, &channel, &parameters).await;
        if expected.contains(&"end") {
            let sequence = publisher.publish("", "end").await;
            assert_eq!(data(&source.take(expected.len()).await), expected, "{parameters:?}");
            publisher.delete(sequence).await;
        } else {
            assert_eq!(data(&source.take(expected.len()).await), expected, "{parameters:?}");
        }
    }
}

async fn a_client_can_start_at_a_time(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let publisher = site.publisher(&channel).await;
    publisher.publish("a", "before").await;
    let sequence = publisher.publish("a", "at").await;
    publisher.publish("a", "after").await;
    let stored = publisher.stream().await.get_raw_message(sequence).await.expect("it is stored").time;
    let format = &time::format_description::well_known::Rfc3339;
    let mut source = site.client(0, &channel, &[("from", &stored.format(format).expect("a time"))]).open();
    // A stored time is finer than the positions' milliseconds, so the one before may come too.
    let first = source.next_event().await;
    let second = if first.data == "before" { source.next_event().await } else { first };
    assert_eq!(second.data, "at");
    let future = time::OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let mut source = site.subscribe(0, &channel, &[("from", &future.format(format).expect("a time"))]).await;
    publisher.publish("a", "now").await;
    assert_eq!(source.next_event().await.data, "now", "a time to come is the head");
}

async fn the_header_wins_over_the_query_and_the_query_over_from(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    site.publisher(&channel).await.fill("a", 5).await;
    let ids: Vec<String> =
        site.client(0, &channel, &[("from", "all")]).open().take(5).await.into_iter().map(|event| event.id).collect();
    let mut by_query = site.client(0, &channel, &[("last_event_id", &ids[1]), ("from", "all")]).open();
    assert_eq!(by_query.next_event().await.data, "2");
    let mut by_header = site.client(0, &channel, &[("last_event_id", &ids[1])]).after(&ids[3]).open();
    assert_eq!(by_header.next_event().await.data, "4");
}

async fn a_client_that_received_nothing_resumes_exactly(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let publisher = site.publisher(&channel).await;
    publisher.publish("a", "old").await;
    let mut source = site.client(0, &channel, &[]).reconnect_after(Duration::from_millis(200)).open();
    let checkpoint = source.next_checkpoint().await;
    assert_eq!(sequence_of(&checkpoint), Some(1));
    source.interrupt();
    source.next_end().await;
    publisher.fill("a", 3).await;
    assert_eq!(data(&source.take(3).await), ["0", "1", "2"]);
}

async fn the_head_of_an_empty_stream_is_a_position_too(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let checkpoint = site.client(0, &channel, &[]).open().next_checkpoint().await;
    assert_eq!(sequence_of(&checkpoint), Some(0));
    site.publisher(&channel).await.fill("a", 2).await;
    let mut source = site.client(0, &channel, &[]).after(&checkpoint).open();
    assert_eq!(data(&source.take(2).await), ["0", "1"]);
    assert_eq!(gaps(&source.close()), []);
}

async fn heartbeats_move_the_checkpoint_past_what_was_filtered_out(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders").with("events/heartbeatSeconds", 1)).await;
    let mut source = site.subscribe(0, &channel, &[("topic", "mine")]).await;
    source.next_checkpoint().await;
    let last = site.publisher(&channel).await.fill("other", 7).await;
    assert_eq!(sequence_of(&source.next_checkpoint().await), Some(last));
    let comment = |happening: &Happening| matches!(happening, Happening::Comment(_)).then_some(());
    source.next("a comment, as there is nothing to move", comment).await;
    assert_eq!(source.events(), []);
}

async fn the_stream_announces_the_channels_retry(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders").with("events/retryMilliseconds", 1234)).await;
    let mut source = site.client(0, &channel, &[]).open();
    let retry = |happening: &Happening| match happening {
        Happening::Retry(milliseconds) => Some(*milliseconds),
        _ => None,
    };
    assert_eq!(source.next("a retry", retry).await, 1234);
}

async fn a_large_publication_becomes_an_oversize_event_and_stalls_nothing(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders").with("events/maxEventBytes", "1Ki")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let publisher = site.publisher(&channel).await;
    publisher.publish("a", vec![b'x'; 1024]).await;
    let sequence = publisher.publish("a.b", vec![b'x'; 1025]).await;
    publisher.publish("a", "small").await;
    let events = source.take(3).await;
    assert_eq!(events[0].data.len(), 1024);
    assert_eq!((events[1].event.as_str(), sequence_of(&events[1].id)), ("tidings.oversize", Some(sequence)));
    let told: serde_json::Value = serde_json::from_str(&events[1].data).expect("JSON");
    assert_eq!(told, json!({ "bytes": 1025, "limit": 1024, "topic": "a.b" }));
    assert_eq!(events[2].data, "small");
}

async fn base64_carries_any_bytes(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders").with("events/encoding", "Base64")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    site.publisher(&channel).await.publish("a", &b"a\xff\r\n\0"[..]).await;
    assert_eq!(source.next_event().await.data, "Yf8NCgA=");
}

async fn what_retention_dropped_is_one_gap_and_then_the_earliest_event(side: Side) {
    let mut site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders").with("history/maxMessages", 3)).await;
    let publisher = site.publisher(&channel).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    publisher.fill("a", 2).await;
    let seen = source.take(2).await;
    publisher.fill("b", 10).await;
    // What a gateway holds in memory it still delivers; a new process has only what the stream has.
    site.gateways[0].kill9();
    site.gateways[0].launch();
    site.gateways[0].ready().await;
    let mut late = site.client(0, &channel, &[]).after(&seen[1].id).open();
    let gap = late.next_event().await;
    assert_eq!(gap.event, "tidings.gap");
    assert_eq!(data(&late.take(3).await), ["7", "8", "9"]);
    let told = gaps(&late.close());
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].reason.as_str(), told[0].after.as_deref()), ("expired", Some(seen[1].id.as_str())));
    assert_eq!(told[0].resumed.as_deref(), Some(gap.id.as_str()));
    assert_eq!(sequence_of(&gap.id), Some(9), "the position before the next event");
}

async fn a_last_value_channel_holds_one_event_per_topic_and_calls_nothing_a_gap(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("prices").with("history/maxMessagesPerTopic", 1)).await;
    let publisher = site.publisher(&channel).await;
    let mut live = site.subscribe(0, &channel, &[]).await;
    for (topic, data) in [("x", "1"), ("y", "2"), ("x", "3"), ("x", "4"), ("z", "5")] {
        publisher.publish(topic, data).await;
    }
    let seen = live.take(5).await;
    assert_eq!(data(&seen), ["1", "2", "3", "4", "5"]);
    let mut newest = site.client(0, &channel, &[("from", "last-per-topic")]).open();
    assert_eq!(data(&newest.take(3).await), ["2", "4", "5"]);
    let late = site.client(0, &channel, &[]).after(&seen[0].id).open();
    late.reaches(5).await;
    let record = late.close();
    assert_eq!(gaps(&record), []);
    let last = tidings_tests::event_source::events(&record);
    // What the gateway still holds in memory may come as well; what exists must.
    let received: Vec<&str> = data(&last).into_iter().filter(|data| ["2", "4", "5"].contains(data)).collect();
    assert_eq!(received, ["2", "4", "5"]);
}

async fn an_expired_message_is_no_gap(side: Side) {
    let mut site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let publisher = site.publisher(&channel).await;
    publisher.publish("a", "keeps").await;
    publisher.send(Publication::new("a", "goes").header("Nats-TTL", "1s")).await;
    publisher.publish("a", "stays").await;
    let seen = site.client(0, &channel, &[("from", "all")]).open().take(3).await;
    assert_eq!(data(&seen), ["keeps", "goes", "stays"]);
    eventually(PATIENCE, "the message expires", || async { publisher.state().await.messages == 2 }).await;
    site.gateways[0].kill9();
    site.gateways[0].launch();
    site.gateways[0].ready().await;
    let mut late = site.client(0, &channel, &[]).after(&seen[0].id).open();
    assert_eq!(late.next_event().await.data, "stays");
}

async fn an_ephemeral_channel_delivers_without_ids_and_owns_up_to_unknown_positions(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("pulse").with("durability", "Ephemeral")).await;
    let client = site.nats.client().await;
    let mut source = site.client(0, &channel, &[("topic", "beat.*")]).after("1cqk2v7q3x1a-1042-k3j9yf").open();
    let gap = source.next_event().await;
    assert_eq!((gap.event.as_str(), gap.data.as_str()), ("tidings.gap", "{\"reason\":\"unknown-position\"}"));
    let published = |topic: &'static str, data: &'static str| {
        let (client, subject) = (client.clone(), channel.subject(topic));
        async move { client.publish(subject, data.into()).await.expect("sent") }
    };
    // Interest takes a moment to reach the server; at most once is what is promised.
    let first = eventually(PATIENCE, "the first event", || async {
        published("other", "x").await;
        published("beat.1", "first").await;
        source.events().get(1).cloned()
    })
    .await;
    assert_eq!((first.data.as_str(), source.events().iter().any(|event| event.data == "x")), ("first", false));
    published("beat.2", "last").await;
    let last = source.wait_for("the last event", |record| {
        tidings_tests::event_source::events(record).into_iter().find(|event| event.data == "last")
    });
    assert_eq!(last.await.id, "1cqk2v7q3x1a-1042-k3j9yf", "no event of an ephemeral channel has an id of its own");
}

async fn an_http_publication_is_an_event_and_its_id_is_a_position(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::open("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let url = site.url(0, &channel, &[("topic", "user.42"), ("event", "greeting")]);
    let post = |data| Request::post(&url, data).over(side.protocol()).secured(site.gateways[0].tls());
    let reply = post("hello").header("idempotency-key", "k1").send().await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let event = source.next_event().await;
    assert_eq!((event.event.as_str(), event.data.as_str()), ("greeting", "hello"));
    let id = reply.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!((sequence_of(&id), &reply.json()["duplicate"]), (sequence_of(&event.id), &json!(false)));
    let again = post("hello").header("idempotency-key", "k1").send().await;
    assert_eq!((&again.json()["id"], &again.json()["duplicate"]), (&json!(id), &json!(true)));
    post("next").send().await;
    let mut resumed = site.client(0, &channel, &[("last_event_id", &id)]).open();
    assert_eq!(resumed.next_event().await.data, "next");
}

async fn a_deleted_channel_ends_its_streams_with_a_reason(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let other = site.channel(Manifest::public("other")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let mut unconcerned = site.subscribe(0, &other, &[]).await;
    site.remove(&channel);
    let end = source.next_event().await;
    assert_eq!((end.event.as_str(), end.data.as_str()), ("tidings.end", "{\"reason\":\"channel-deleted\"}"));
    assert!(source.next_end().await, "the response is complete");
    site.publisher(&other).await.publish("a", "still here").await;
    assert_eq!(unconcerned.next_event().await.data, "still here");
}

/// EventSource gives up on any status but 200, and a page that has given up stays as it is until it is loaded again.
async fn a_channel_that_is_deleted_and_made_again_gets_its_clients_back(side: Side) {
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    site.publisher(&channel).await.publish("a", "before").await;
    assert_eq!(source.next_event().await.data, "before");
    site.remove(&channel);
    assert_eq!(source.next_event().await.data, "{\"reason\":\"channel-deleted\"}");
    assert!(source.next_end().await, "the response is complete");
    source.next_open().await;
    assert!(source.next_end().await, "sent away, to come back");
    let channel = site.channel(channel).await;
    site.publisher(&channel).await.publish("a", "after").await;
    assert_eq!(source.next_event().await.data, "after", "without a gap: the stream was retained");
    let away = site.gateways[0].metrics().await.sum_where("tidings_turned_away_total", &["reason=\"removed\""]);
    assert!(away >= 1.0, "{away}");
}

async fn a_gateway_that_leaves_ends_its_streams_with_a_reason_and_a_jittered_retry(side: Side) {
    let mut site = Settings::on(side).gateways(2).start().await;
    let channel = site.channel(Manifest::public("orders").with("events/retryMilliseconds", 1000)).await;
    let mut sources: Vec<EventSource> = (0..20).map(|_| site.client_of(&[0, 1], &channel, &[]).open()).collect();
    for source in &mut sources {
        source.next_checkpoint().await;
    }
    let status = site.gateways[0].terminate().await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    let mut delays = Vec::new();
    for source in &mut sources {
        let retry = |happening: &Happening| match happening {
            Happening::Retry(milliseconds) => Some(*milliseconds),
            _ => None,
        };
        delays.push(source.next("the retry at the end", retry).await);
        let end = source.next_event().await;
        assert_eq!((end.event.as_str(), end.data.as_str()), ("tidings.end", "{\"reason\":\"shutdown\"}"));
        assert_eq!(sequence_of(&end.id), Some(0), "the position to come back to");
        // On HTTP/1.1 without its last chunk: some clients take a complete response as the end of everything.
        assert_eq!(source.next_end().await, side == Side::H2, "whether the response is complete");
    }
    assert!(delays.iter().all(|delay| *delay >= 500), "{delays:?}");
    delays.dedup();
    assert!(delays.len() > 1, "twenty clients do not all come back at once: {delays:?}");
    site.publisher(&channel).await.publish("a", "on the other gateway").await;
    for source in &mut sources {
        assert_eq!(source.next_event().await.data, "on the other gateway");
    }
}

async fn last_per_topic_misses_no_topic_that_is_new_at_that_moment(side: Side) {
    const TOPICS: usize = 600;
    let site = Installation::on(side).await;
    let channel = site.channel(Manifest::public("prices")).await;
    let publisher = site.publisher(&channel).await;
    let published = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (count, feed) = (published.clone(), publisher.clone());
    let publishing = tokio::spawn(async move {
        for number in 0..TOPICS {
            feed.publish(&format!("n{number}"), number.to_string()).await;
            count.store(number, std::sync::atomic::Ordering::Relaxed);
        }
        feed.publish("end", "end").await;
    });
    let mut sources = Vec::new();
    for client in 1..12 {
        let enough =
            || std::future::ready(published.load(std::sync::atomic::Ordering::Relaxed) >= client * TOPICS / 12);
        eventually(PATIENCE, "some topics more", enough).await;
        sources.push(site.client(0, &channel, &[("from", "last-per-topic")]).open());
    }
    publishing.await.expect("all is published");
    for source in sources {
        source
            .wait_for("the end", |record| {
                tidings_tests::event_source::events(record).iter().any(|event| event.data == "end").then_some(())
            })
            .await;
        let seen = source.events();
        let mut seen: Vec<usize> = seen.iter().filter_map(|event| event.data.parse().ok()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..TOPICS).collect::<Vec<_>>());
    }
}

on_every_side! {
    last_per_topic_misses_no_topic_that_is_new_at_that_moment,
    a_channel_that_is_deleted_and_made_again_gets_its_clients_back,
    a_publication_reaches_every_subscriber_as_an_event_with_an_id,
    a_typed_event_carries_its_type,
    topics_filter_with_wildcards_and_the_dot_is_the_base_subject,
    ids_are_equal_on_every_gateway,
    a_client_says_where_it_starts_and_the_channel_where_others_do,
    a_client_can_start_at_a_time,
    the_header_wins_over_the_query_and_the_query_over_from,
    a_client_that_received_nothing_resumes_exactly,
    the_head_of_an_empty_stream_is_a_position_too,
    heartbeats_move_the_checkpoint_past_what_was_filtered_out,
    the_stream_announces_the_channels_retry,
    a_large_publication_becomes_an_oversize_event_and_stalls_nothing,
    base64_carries_any_bytes,
    what_retention_dropped_is_one_gap_and_then_the_earliest_event,
    a_last_value_channel_holds_one_event_per_topic_and_calls_nothing_a_gap,
    an_expired_message_is_no_gap,
    an_ephemeral_channel_delivers_without_ids_and_owns_up_to_unknown_positions,
    an_http_publication_is_an_event_and_its_id_is_a_position,
    a_deleted_channel_ends_its_streams_with_a_reason,
    a_gateway_that_leaves_ends_its_streams_with_a_reason_and_a_jittered_retry,
}
