//! What a POST is answered, whatever answers on the channel's subject, and whatever NATS says.

use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use serde_json::json;
use tidings_tests::event_source::{Entry, Happening, sequence_of};
use tidings_tests::gateway::Gateway;
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::ledger::gaps;
use tidings_tests::manifest::Manifest;
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::{Reply, Request};

/// Answers everything that is published to a channel, until it is dropped.
struct Responder(tokio::task::JoinHandle<()>);

impl Responder {
    async fn start(site: &Installation, channel: &Manifest, answers: &[&str]) -> Self {
        let client = site.nats.client().await;
        let mut heard = client.subscribe(channel.subject(">")).await.expect("subscribed");
        client.flush().await.expect("flushed");
        // A round trip: the server has the subscription.
        let _ = client.request("nobody.listens", "".into()).await;
        let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
        Self(tokio::spawn(async move {
            while let Some(message) = heard.next().await {
                let Some(reply) = message.reply else { continue };
                for answer in &answers {
                    let _ = client.publish(reply.clone(), answer.clone().into()).await;
                }
                let _ = client.flush().await;
            }
        }))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn post(site: &Installation, channel: &Manifest, body: impl Into<bytes::Bytes>) -> Reply {
    Request::post(site.url(0, channel, &[("topic", "a")]), body).send().await
}

fn id_of(reply: &Reply) -> String {
    reply.json()["id"].as_str().map(str::to_owned).unwrap_or_else(|| panic!("an id in {}", reply.text()))
}

#[tokio::test]
async fn only_the_channels_own_stream_acknowledges() {
    let mut site = Installation::start().await;
    let channel = site.channel(Manifest::open("orders")).await;
    let publisher = site.publisher(&channel).await;
    assert_eq!(sequence_of(&id_of(&post(&site, &channel, "1").await)), Some(1));
    let foreign = [r#"{"ok":true}"#, "+OK", "", r#"{"stream":"TIDINGS_test_other","seq":99}"#, r#"{"seq":99}"#];
    let responder = Responder::start(&site, &channel, &foreign).await;
    for expected in 2..12 {
        let reply = post(&site, &channel, "x").await;
        assert_eq!((reply.status.as_u16(), sequence_of(&id_of(&reply))), (201, Some(expected)), "{}", reply.text());
        assert_eq!(publisher.state().await.last_sequence, expected);
    }
    // Without the stream nothing acknowledges, whatever answers.
    site.operator.kill9();
    site.jetstream().await.delete_stream(channel.stream()).await.expect("deleted");
    let reply = post(&site, &channel, "x").await;
    assert_eq!(reply.status, 504, "{}", reply.text());
    drop(responder);
    let reply = eventually(PATIENCE, "nothing answers any more", || async {
        let reply = post(&site, &channel, "x").await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert!(reply.text().contains("no stream") && reply.headers.contains_key("retry-after"), "{}", reply.text());
}

#[tokio::test]
async fn an_id_never_has_the_epoch_of_a_stream_that_did_not_acknowledge() {
    let mut site = Installation::start().await;
    let channel = site.channel(Manifest::open("orders")).await;
    let old = id_of(&post(&site, &channel, "1").await);
    let (old, _) = old.split_once('-').expect("an epoch and a sequence");
    site.operator.kill9();
    let (jetstream, name) = (site.jetstream().await, channel.stream());
    let config = publisher_config(&jetstream, &name).await;
    for round in 1..=5 {
        let made_again = || async {
            jetstream.delete_stream(&name).await.expect("deleted");
            let made = jetstream.create_stream(config.clone()).await.expect("created");
            made.cached_info().state.last_sequence == 0
        };
        eventually(PATIENCE, "the stream is another one", made_again).await;
        let at_once = post(&site, &channel, "2").await;
        assert_eq!(at_once.status, 201, "{}", at_once.text());
        let named = at_once.json()["id"].as_str().map(str::to_owned);
        assert!(named.is_none_or(|id| !id.starts_with(&format!("{old}-"))), "round {round}: {}", at_once.text());
        let after = id_of(&post(&site, &channel, "3").await);
        assert_eq!(sequence_of(&after), Some(2));
        // Whoever resumes from it is told nothing but what comes behind it.
        let source = site.client(0, &channel, &[("last_event_id", &after)]).open();
        let last = post(&site, &channel, "4").await;
        let is_last = |entry: &Entry| matches!(&entry.what, Happening::Event(event) if event.data == "4");
        source.wait_for("the next event", |record| record.iter().any(is_last).then_some(())).await;
        assert_eq!(gaps(&source.record()).len(), 0, "round {round}: {:?} after {}", source.record(), last.text());
    }
}

async fn publisher_config(jetstream: &jetstream::Context, name: &str) -> jetstream::stream::Config {
    jetstream.get_stream(name).await.expect("the stream").cached_info().config.clone()
}

#[tokio::test]
async fn a_full_stream_is_told_apart_from_nats_that_is_away() {
    let mut site = Installation::start().await;
    let channel = site.channel(Manifest::open("orders")).await;
    assert_eq!(post(&site, &channel, "1").await.status, 201);
    site.operator.kill9();
    let jetstream = site.jetstream().await;
    let mut config = publisher_config(&jetstream, &channel.stream()).await;
    config.max_messages = 1;
    config.discard = jetstream::stream::DiscardPolicy::New;
    jetstream.update_stream(config.clone()).await.expect("updated");
    let full = post(&site, &channel, "2").await;
    assert_eq!((full.status.as_u16(), full.json()["type"].clone()), (507, json!("urn:tidings:problem:storage-full")));
    assert!(full.headers.contains_key("retry-after") && full.text().contains("maximum messages"), "{}", full.text());
    config.max_messages = 100;
    config.sealed = false;
    config.max_message_size = 512;
    jetstream.update_stream(config).await.expect("updated");
    let large = post(&site, &channel, "x".repeat(600)).await;
    assert_eq!(large.status, 413, "{}", large.text());
    site.nats.kill9(0);
    let away = eventually(PATIENCE, "NATS is away", || async {
        let reply = post(&site, &channel, "3").await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert!(away.text().contains("not connected"), "{}", away.text());
    let metrics = site.gateways[0].metrics().await;
    let posts = |outcome: &str| metrics.sum_where("tidings_posts_total", &[&format!("outcome=\"{outcome}\"")]);
    assert_eq!((posts("full"), posts("stored"), posts("invalid")), (1.0, 1.0, 1.0));
    assert!(posts("unavailable") >= 1.0);
}

#[tokio::test]
async fn a_changed_max_payload_counts_for_the_next_publication() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::open("orders")).await;
    let ephemeral = site.channel(Manifest::open("signals").with("durability", "Ephemeral")).await;
    let source = site.subscribe(0, &channel, &[]).await;
    assert_eq!(post(&site, &channel, "x".repeat(8 << 10)).await.status, 201);
    for (channel, taken) in [(&channel, 201), (&ephemeral, 202)] {
        site.nats.reload("max_payload: 4096\n").await;
        let refused = post(&site, channel, "x".repeat(8 << 10)).await;
        assert_eq!(refused.status, 413, "{}", refused.text());
        assert!(refused.text().contains("at most 4096 bytes"), "{}", refused.text());
        let again = post(&site, channel, "x".repeat(8 << 10)).await;
        assert_eq!(again.status, 413, "{}", again.text());
        assert_eq!(post(&site, channel, "x".repeat(1 << 10)).await.status, taken, "the connection is back");
        site.nats.reload("max_payload: 1048576\n").await;
        let larger = eventually(PATIENCE, "the limit is known to be higher", || async {
            let reply = post(&site, channel, "x".repeat(8 << 10)).await;
            (reply.status == taken).then_some(()).ok_or(reply.status)
        });
        larger.await;
    }
    let last = sequence_of(&id_of(&post(&site, &channel, "the end").await)).expect("a sequence");
    source.reaches(last).await;
    assert!(!source.record().iter().any(|entry| matches!(entry.what, Happening::End { .. })), "no stream was cut");
    assert_eq!(gaps(&source.record()).len(), 0);
}

#[tokio::test]
async fn a_repetition_while_the_first_is_still_being_stored_is_asked_to_come_back() {
    let site = Settings::default().clustered().start().await;
    let channel = site.channel(Manifest::open("orders").with("history/replicas", 3)).await;
    let leader = site.nats.leader(&channel.stream()).await;
    // Connected to the leader: the others are to stand still.
    let gateway = Gateway::start("by-the-leader", &site.nats.node_url(leader), &site.routes(), &[]);
    gateway.ready().await;
    let url = gateway.url() + &channel.path_with(&[("topic", "a")]);
    let post = Request::post(url, "x").header("idempotency-key", "k1");
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    for node in &others {
        site.nats.node(*node).stop().await;
    }
    let first = post.send().await;
    assert_eq!(first.status, 504, "{}", first.text());
    let second = post.send().await;
    assert_eq!(second.status, 503, "{}", second.text());
    assert!(second.text().contains("10158") && second.headers.contains_key("retry-after"), "{}", second.text());
    for node in &others {
        site.nats.node(*node).cont();
    }
    let stored = eventually(Duration::from_secs(120), "the cluster is well again", || async {
        let reply = post.send().await;
        (reply.status == 201).then_some(reply).ok_or("not yet")
    })
    .await;
    assert!(stored.json()["id"].is_string());
    assert_eq!(site.publisher(&channel).await.state().await.messages, 1, "stored once");
}
