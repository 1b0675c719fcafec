//! Which topics a subscriber receives.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tidings_crds::position::{Epoch, Position};
use tidings_tests::event_source::{Entry, EventSource, Happening};
use tidings_tests::manifest::Manifest;
use tidings_tests::seed::Seed;
use tidings_tests::token::Draft;
use tidings_tests::truth::Incarnation;
use tidings_tests::web::Request;

use crate::house::{House, MAIN, TICKETS, get, token_channel};

#[tokio::test]
async fn a_subscriber_receives_what_it_is_granted_of_what_it_asks_for() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["all", "user.{sub}", "team.{groups}.>"]))).await;
    let ann = house.keys.sign(&Draft::new(MAIN, "ann@shop.example").with("groups", json!(["red", "*"])));
    let mut everything = house.subscribe(&channel, &[], &ann).await;
    let mut some = house.subscribe(&channel, &[("topic", "user.*"), ("topic", "team.red.x")], &ann).await;
    let publisher = house.site.publisher(&channel).await;
    let topics = [
        "user.bob",
        "",
        "user.ann@shop",
        "team.blue.x",
        "team.red",
        "more",
        "user.ann%40shop%2Eexample",
        "team.red.x",
        "team.%2A.y",
        "all",
    ];
    for topic in topics {
        publisher.publish(topic, topic).await;
    }
    let received =
        |events: Vec<tidings_tests::sse::Event>| events.into_iter().map(|event| event.data).collect::<Vec<_>>();
    let expected = ["user.ann%40shop%2Eexample", "team.red.x", "team.%2A.y", "all"];
    assert_eq!(received(everything.take(4).await), expected);
    assert_eq!(received(some.take(2).await), ["user.ann%40shop%2Eexample", "team.red.x"]);
    let refused = get(house.url(&channel, &[("topic", "team.blue.*"), ("topic", "user.bob")]));
    assert_eq!(refused.header("authorization", format!("Bearer {ann}")).send().await.status, 404);
}

#[tokio::test]
async fn a_token_grants_topics_by_itself_and_a_ticket_needs_nothing_else() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!([]))).await;
    let other = house.site.channel(token_channel("other", json!([]))).await;
    let grants = json!({
        "subscribe": [{"channels": ["test/orders"], "topics": ["user.42", "news.>"]}],
        "publish": [{"channels": ["*/orders"], "topics": ["user.42"]}],
    });
    let ticket = house.tickets.sign(&Draft::new(TICKETS, "42").expires_in(30).with("tidings", grants));
    let mut source = house.subscribe(&channel, &[], &ticket).await;
    let post = |channel: &Manifest, topic: &str| {
        Request::post(house.url(channel, &[("topic", topic)]), topic.to_owned())
            .header("authorization", format!("Bearer {ticket}"))
    };
    assert_eq!(post(&channel, "user.43").send().await.status, 404);
    assert_eq!(post(&channel, "news.x").send().await.status, 404);
    assert_eq!(post(&channel, "user.42").send().await.status, 201);
    assert_eq!(post(&other, "user.42").send().await.status, 404);
    assert_eq!(house.get(&other, &ticket).await, 404);
    assert_eq!(source.next_event().await.data, "user.42");
}

const TOPICS: [&str; 9] = ["all", "user.a", "user.b", "user.a.x", "team.r.x", "team.s.x", "team.r", "", "deep.a.b.c"];

const FILTERS: [&str; 9] = ["all", "user.*", "team.*.x", "team.r.>", "deep.>", "*", "*.r", "user.a.x", "."];

/// Where the stream begins when the subscribers come.
const FIRST: u64 = 60;

/// A subscriber and what it may see.
struct Watcher {
    source: EventSource,
    granted: Vec<String>,
    /// Empty is everything.
    asked: Vec<&'static str>,
    start: Start,
}

/// Where a subscriber begins.
#[derive(Clone, Debug)]
enum Start {
    From(&'static str),
    /// At a position, which it knows.
    At(String),
    /// Where the stream begins, because its position says nothing or lies before that.
    Beginning(String),
}

impl Start {
    fn random(random: &mut StdRng, truth: &Incarnation) -> Self {
        match random.random_range(0..8) {
            0 => Self::From("all"),
            1 => Self::From("last"),
            2 => Self::From("last-per-topic"),
            3 => Self::From("new"),
            4 => Self::At(truth.position(random.random_range(FIRST..200)).to_string()),
            5 => Self::Beginning(truth.position(random.random_range(1..FIRST - 2)).to_string()),
            6 => Self::Beginning(Position { epoch: Epoch::from_nanos(36), ..truth.position(5) }.to_string()),
            _ => Self::At("no position".to_owned()),
        }
    }

    /// The position that it sends.
    fn position(&self) -> Option<&str> {
        match self {
            Self::From(_) => None,
            Self::At(position) | Self::Beginning(position) => Some(position),
        }
    }

    /// From which sequence on everything has to come, if that is known.
    fn first(&self) -> Option<u64> {
        match self {
            Self::From("all") | Self::Beginning(_) => Some(FIRST),
            Self::At(position) => position.parse::<Position>().ok().map(|position| position.sequence + 1),
            Self::From(_) => None,
        }
    }
}

impl Watcher {
    /// With random grants, which always include the topic `all`.
    async fn random(house: &House, channel: &Manifest, random: &mut StdRng, truth: &Incarnation) -> Self {
        let mut some = |most: usize| -> Vec<&'static str> {
            (0..random.random_range(0..most)).filter_map(|_| FILTERS.choose(random).copied()).collect()
        };
        let (own, mut asked) = (some(3), some(3));
        if !asked.is_empty() {
            asked.push("all");
        }
        let subject = *["a", "b", "*", ">"].choose(random).expect("one");
        let grants = json!({"subscribe": [{"channels": ["test/*"], "topics": own}]});
        let token = house.keys.sign(&Draft::new(MAIN, subject).with("tidings", grants));
        let mut granted: Vec<String> = own.iter().map(ToString::to_string).collect();
        granted.extend(["all".to_owned(), format!("user.{}", subject.replace('*', "%2A").replace('>', "%3E"))]);
        let start = Start::random(random, truth);
        let from = if let Start::From(from) = start { Some(("from", from)) } else { None };
        let parameters: Vec<_> = asked.iter().map(|topic| ("topic", *topic)).chain(from).collect();
        let mut client = house.client(channel, &parameters, &token);
        if let Some(position) = start.position() {
            client = client.after(position);
        }
        let mut source = client.open();
        source.next_open().await;
        source.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
        Self { source, granted, asked, start }
    }

    fn may_see(&self, topic: &str) -> bool {
        let asked = self.asked.is_empty() || self.asked.iter().any(|filter| matches(filter, topic));
        asked && self.granted.iter().any(|filter| matches(filter, topic))
    }

    /// Holds what it has received against what was stored, up to `last`.
    fn check(&self, facts: &BTreeMap<u64, String>, last: u64) {
        let Self { source, granted, asked, start } = self;
        let who = format!("granted {granted:?}, asking for {asked:?} from {start:?}");
        let visible = |sequence: u64| facts.get(&sequence).is_some_and(|topic| self.may_see(topic));
        let mut received = BTreeSet::new();
        for event in source.events().iter().filter(|event| event.event == "message") {
            assert!(self.may_see(&event.data), "{:?} reached one {who}", event.data);
            let sequence = event.id.parse::<Position>().expect("a position").sequence;
            assert_eq!(facts.get(&sequence), Some(&event.data), "{who}: another event's id");
            received.insert(sequence);
        }
        if let Some(first) = start.first() {
            let missing: Vec<_> = (first..=last).filter(|n| visible(*n) && !received.contains(n)).collect();
            assert!(missing.is_empty(), "{who} misses {missing:?}");
        }
        for id in ids(&source.record()).filter(|id| Some(id.as_str()) != start.position()) {
            let Ok(position) = id.parse::<Position>() else { continue };
            let hidden = position.sequence > 0 && !visible(position.sequence);
            assert!(!(hidden && position.stamp.is_some()), "{id} tells one {who} when something hidden was stored");
        }
    }
}

/// Every id that a client was told, of events and checkpoints, and in what gaps say.
fn ids(record: &[Entry]) -> impl Iterator<Item = String> {
    record.iter().flat_map(|entry| match &entry.what {
        Happening::Checkpoint(id) => vec![id.clone()],
        Happening::Event(event) if event.event == "tidings.gap" => {
            let data: Value = serde_json::from_str(&event.data).expect("JSON");
            let told = ["after", "resumed"].map(|field| data[field].as_str().unwrap_or_default().to_owned());
            told.into_iter().chain([event.id.clone()]).collect()
        }
        Happening::Event(event) => vec![event.id.clone()],
        _ => Vec::new(),
    })
}

/// Random grants, requests and publications, against everything that can reach a subscriber: live, behind the log, the newest
/// of each topic, checkpoints and gaps. An id tells the sequence of what was filtered, and nothing else about it.
#[tokio::test]
async fn no_subscriber_ever_receives_a_topic_outside_its_grants() {
    let house = House::open().await;
    let seed = Seed::from_environment();
    for round in 0..3 {
        let mut random = seed.nth(round).rng();
        let channel = token_channel(&format!("orders-{round}"), json!(["all", "user.{sub}"]));
        let channel = house.site.channel(channel.with("events/heartbeatSeconds", 1)).await;
        let publisher = house.site.publisher(&channel).await;
        let mut publish = async |count: usize| {
            for _ in 0..count {
                let topic = *TOPICS.choose(&mut random).expect("one");
                publisher.publish(topic, topic).await;
            }
        };
        publish(220).await;
        let before = house.site.truth(&channel).await;
        publisher.purge_below(FIRST).await;
        // Half of them find a channel that nobody has opened, or whose log begins where the first one came.
        let mut watchers = Vec::new();
        for _ in 0..16 {
            let mut random = seed.nth(1_000 * round + watchers.len() as u64).rng();
            watchers.push(Watcher::random(&house, &channel, &mut random, &before.0[0]).await);
        }
        publish(60).await;
        // One that everybody may have, so that all have reached the end.
        let last = publisher.publish("all", "all").await;
        let after = house.site.truth(&channel).await;
        let facts = before.0[0].facts.iter().chain(&after.0[0].facts);
        let facts: BTreeMap<u64, String> = facts.map(|(sequence, fact)| (*sequence, fact.topic.clone())).collect();
        for watcher in &watchers {
            watcher.source.reaches(last).await;
            watcher.check(&facts, last);
        }
    }
    // All of it was there: what lies behind the log came from the stream.
    let metrics = house.site.gateways[0].metrics().await;
    for kind in ["direct", "last-per-topic"] {
        let count = metrics.sum_where("tidings_backfilled_messages_total", &[&format!("kind=\"{kind}\"")]);
        assert!(count > 0.0, "nothing was read as {kind}");
    }
    for reason in ["expired", "reset", "unknown-position"] {
        let count = metrics.sum_where("tidings_gaps_total", &[&format!("reason=\"{reason}\"")]);
        assert!(count > 0.0, "nobody was told of a gap: {reason}");
    }
}

fn matches(filter: &str, topic: &str) -> bool {
    let filter: tidings_crds::topic::TopicFilter = filter.parse().expect("a filter");
    filter.matches(topic)
}

/// 64 topics and 256 groups combine to 16,384 filters: that is refused, at once, and nothing else waits for it.
#[tokio::test]
async fn topics_that_combine_to_too_many_are_refused() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("teams", json!(["team.{groups}.>"]))).await;
    let asked: Vec<String> = (0..64).map(|n| format!("*.*.x{n}")).collect();
    let parameters: Vec<(&str, &str)> = asked.iter().map(|topic| ("topic", topic.as_str())).collect();
    let of = |groups: usize| {
        let groups: Vec<String> = (0..groups).map(|n| format!("g{n}")).collect();
        house.keys.sign(&Draft::new(MAIN, "ann").with("groups", json!(groups)))
    };
    let get = async |groups: usize| {
        let get = get(house.url(&channel, &parameters)).header("authorization", format!("Bearer {}", of(groups)));
        get.send().await
    };
    let reply = get(256).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("combine to more than 512 filters"), "{}", reply.text());
    let mut source = house.subscribe(&channel, &parameters, &of(8)).await;
    let publish = house.site.publisher(&channel).await;
    for topic in ["team.g8.x1", "team.g7.x64", "team.g7.x63"] {
        publish.publish(topic, topic.to_owned()).await;
    }
    assert_eq!(source.next_event().await.data, "team.g7.x63");
}
