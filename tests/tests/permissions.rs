//! Everything works with exactly the NATS permissions that `docs/reference/nats-permissions.md` gives out, and NATS never
//! had to refuse anything.

use serde_json::json;
use tidings_tests::installation::Settings;
use tidings_tests::manifest::Manifest;
use tidings_tests::nats::{NatsSettings, User};
use tidings_tests::proxy::Fate;
use tidings_tests::publisher::Publisher;
use tidings_tests::raw::{MALFORMED, RawNats};
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::Request;

#[tokio::test]
async fn the_documented_permissions_are_enough_for_everything() {
    let users = vec![User::administrator(), User::documented("gateway"), User::documented("operator")];
    let nats = NatsSettings { users, ..NatsSettings::default() };
    let mut site = Settings { nats, ..Settings::default() }.proxied().start().await;
    let durable = Manifest::open("durable").with("events/heartbeatSeconds", 1);
    let ephemeral = Manifest::open("ephemeral").with("durability", "Ephemeral");
    let values = Manifest::public("values").with("history/maxMessagesPerTopic", 1);
    let gone = Manifest::public("gone").with("history/reclaimPolicy", "Delete");
    let all = site.all_channels(vec![durable, ephemeral, values, gone]).await;
    let [durable, ephemeral, values, gone] = &all[..] else { unreachable!("four were written") };

    // Live, lost and repaired, and published over HTTP.
    let mut source = site.subscribe(0, durable, &[]).await;
    let proxy = site.proxy.as_ref().expect("it was asked for");
    let mut count = 0u32;
    proxy.tamper(move |message| {
        count += u32::from(message.subject.starts_with("tidings-live."));
        if message.subject.starts_with("tidings-live.") && count.is_multiple_of(3) { Fate::Drop } else { Fate::Pass }
    });
    let publisher = Publisher::new(&site.jetstream().await, durable);
    publisher.fill("a", 30).await;
    let posted = Request::post(site.url(0, durable, &[("topic", "b")]), "posted").send().await;
    assert_eq!(posted.status, 201, "{}", posted.text());
    assert_eq!(source.take(31).await.last().map(|event| event.data.clone()).as_deref(), Some("posted"));
    proxy.behave();

    // Core NATS.
    let mut pulse = site.subscribe(0, ephemeral, &[]).await;
    let post = Request::post(site.url(0, ephemeral, &[]), "beat");
    eventually(PATIENCE, "an ephemeral event", || async {
        let reply = post.send().await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        !pulse.events().is_empty()
    })
    .await;
    assert_eq!(pulse.next_event().await.data, "beat");

    // Every way to start, and a resume by a process that has nothing in memory.
    Publisher::new(&site.jetstream().await, values).fill("x", 3).await;
    for (channel, from) in
        [(durable, "all"), (durable, "last"), (durable, "last-per-topic"), (values, "last-per-topic")]
    {
        let mut source = site.client(0, channel, &[("from", from)]).open();
        source.next_event().await;
    }
    let position = source.events()[9].id.clone();
    site.gateways[0].kill9();
    site.gateways[0].launch();
    site.gateways[0].ready().await;
    let mut back = site.client(0, durable, &[]).after(&position).open();
    assert_eq!(back.take(21).await[0].data, "10");

    // What only the leader's JSON can bring.
    let mut raw = RawNats::connect_as(site.nats.address(0), "admin").await;
    for (what, block) in MALFORMED {
        raw.publish(&durable.subject("a"), block, what.as_bytes()).await;
        raw.flush().await;
        assert_eq!(back.next_event().await.data, what);
    }

    // Whoever asks `nats micro` is answered.
    let client = site.nats.client().await;
    for subject in ["$SRV.PING", "$SRV.INFO.tidings-gateway", "$SRV.STATS.tidings-gateway", "tidings-gateway.status"] {
        eventually(PATIENCE, subject, || client.request(subject, "".into())).await;
    }

    // The operator creates, changes and deletes streams.
    site.channel(values.clone().with("history/maxMessages", 500).with("cors/origins", json!(["https://a.example"])))
        .await;
    site.remove(gone);
    let jetstream = site.jetstream().await;
    eventually(PATIENCE, "the stream is deleted", || async { jetstream.get_stream(gone.stream()).await.is_err() })
        .await;

    assert_eq!(site.nats.refusals(), Vec::<String>::new(), "NATS had to refuse something");
}
