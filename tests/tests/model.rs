//! The model-checked test: random publications, purges, deletions, topic filters and reconnections while gateways and NATS
//! are killed and restarted and live messages are lost and reordered. Every client's record is checked offline.
//!
//! The same on three NATS servers with streams of three replicas (`chaos`): servers, gateways and the operator are killed, ended,
//! stopped and continued while leaders step down.
//!
//! `TIDINGS_SEED` repeats a run, with `TIDINGS_MODEL_SEEDS=1` (`TIDINGS_CHAOS_SEEDS=1`) its first seed alone. A seed decides what is
//! published, removed and interrupted; in which order things meet is up to the machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tidings_tests::event_source::{EventSource, Settings as Client};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::ledger::{self, check};
use tidings_tests::manifest::Manifest;
use tidings_tests::proxy::Fate;
use tidings_tests::publisher::{Publication, Publisher};
use tidings_tests::seed::{Seed, VARIABLE};
use tidings_tests::side::Side;
use tidings_tests::tls::TlsClient;
use tidings_tests::transcript::{explained, told};
use tidings_tests::truth::{Fact, Incarnation, Removal, Truth};
use tidings_tests::wait::{PATIENCE, eventually};
use tidings_tests::web::Protocol;

/// How many seeds one run goes through, unless `TIDINGS_MODEL_SEEDS` says otherwise.
const SEEDS: u64 = 200;

/// How many run at the same time, on one NATS and two gateways, of which the second has TLS.
const TOGETHER: u64 = 50;

/// The same on three servers, unless `TIDINGS_CHAOS_SEEDS` says otherwise. Not with the others yet: some 2 of 100 seeds still end in a
/// reset of a stream that is the same (docs/testing.md).
const CHAOS_SEEDS: u64 = 20;

/// How many of these run at the same time.
const CHAOS_TOGETHER: u64 = 20;

/// What happens to a channel.
const OPERATIONS: u64 = 80;

const TOPICS: [&str; 6] = ["", "a", "b", "a.x", "b.x.y", "c"];

/// What a channel keeps.
#[derive(Clone, Copy, Debug)]
enum Keeps {
    Everything,
    Newest(usize),
    NewestOfEachTopic,
}

/// What a channel's stream went through, as its only publisher knows it.
struct Model {
    keeps: Keeps,
    facts: BTreeMap<u64, Fact>,
}

impl Model {
    fn publish(&mut self, sequence: u64, fact: Fact, since: Instant) {
        if let Keeps::NewestOfEachTopic = self.keeps {
            self.remove(Removal::Single, since, |_, old| old.topic == fact.topic);
        }
        self.facts.insert(sequence, fact);
        if let Keeps::Newest(count) = self.keeps {
            let kept: Vec<u64> = self.kept().collect();
            let end = kept.len().saturating_sub(count);
            self.remove(Removal::Front, since, |sequence, _| kept[..end].contains(&sequence));
        }
    }

    fn remove(&mut self, removal: Removal, since: Instant, gone: impl Fn(u64, &Fact) -> bool) {
        for (sequence, fact) in &mut self.facts {
            if fact.removed.is_none() && gone(*sequence, fact) {
                fact.removed = Some((removal, since));
            }
        }
    }

    fn kept(&self) -> impl Iterator<Item = u64> {
        self.facts.iter().filter(|(_, fact)| fact.removed.is_none()).map(|(sequence, _)| *sequence)
    }
}

fn keeps(rng: &mut StdRng) -> Keeps {
    match rng.random_range(0..4) {
        0 => Keeps::Newest(rng.random_range(5..30)),
        1 => Keeps::NewestOfEachTopic,
        _ => Keeps::Everything,
    }
}

fn manifest(seed: Seed, replicas: u64) -> Manifest {
    let manifest = Manifest::public(&format!("m{:x}", seed.number())).with("events/heartbeatSeconds", 1);
    let manifest = if replicas > 1 { manifest.with("history/replicas", replicas) } else { manifest };
    match keeps(&mut seed.rng()) {
        Keeps::Everything => manifest,
        Keeps::Newest(count) => manifest.with("history/maxMessages", count),
        Keeps::NewestOfEachTopic => manifest.with("history/maxMessagesPerTopic", 1),
    }
}

/// Where the clients connect, and how.
#[derive(Clone)]
struct Gateways {
    urls: Vec<String>,
    tls: Option<TlsClient>,
}

struct Subscriber {
    source: EventSource,
    request: ledger::Request,
}

fn subscriber(rng: &mut StdRng, gateways: &Gateways, channel: &Manifest) -> Subscriber {
    let filters: &[&str] =
        [&[][..], &[], &["a"], &["*"], &["a.>", "b"], &["."], &[">"], &["nobody"]].choose(rng).expect("there are some");
    let all = rng.random_bool(0.5);
    let mut parameters: Vec<(&str, &str)> = filters.iter().map(|filter| ("topic", *filter)).collect();
    parameters.push(("from", if all { "all" } else { "new" }));
    let mut urls: Vec<String> =
        gateways.urls.iter().map(|gateway| gateway.clone() + &channel.path_with(&parameters)).collect();
    if rng.random() {
        urls.reverse();
    }
    let request = if all { ledger::Request::all() } else { ledger::Request::new() };
    // With every connection it goes from TLS to none or back, and takes its position along.
    let protocol = if rng.random_bool(0.4) { Protocol::H2 } else { Protocol::Http1 };
    let client = Client::any_of(urls).over(protocol).secured(gateways.tls.as_ref());
    let source = client.reconnect_after(Duration::from_millis(rng.random_range(1..50))).open();
    Subscriber { source, request: request.topics(filters) }
}

/// What a client has to complain about, readable.
struct Complaint {
    what: String,
    record: String,
}

/// Everything that a run found; printed at its end, as the beginning of a long output may not be kept.
struct Complaints {
    seed: Seed,
    seeds: u64,
    found: Vec<Complaint>,
}

// === impl Complaints ===

/// As the test's harness prints it: the first few records, then everything in one line each.
impl std::fmt::Debug for Complaints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Complaint { what, record } in self.found.iter().filter(|found| !found.record.is_empty()).take(3) {
            writeln!(f, "{what}\n{record}")?;
        }
        for Complaint { what, .. } in self.found.iter().take(20) {
            writeln!(f, "{what}")?;
        }
        let (count, seed) = (self.found.len(), self.seed.number());
        write!(f, "{count} complaints in {} seeds; run again with {VARIABLE}={seed}", self.seeds)
    }
}

/// One seed: its script, and what its clients have to say.
async fn run(
    seed: Seed,
    replicas: u64,
    jetstream: jetstream::Context,
    gateways: Gateways,
    progress: Arc<AtomicU64>,
) -> Vec<Complaint> {
    let mut rng = seed.rng();
    let channel = manifest(seed, replicas);
    let publisher = Publisher::new(&jetstream, &channel);
    let stream = publisher.stream().await;
    let mut model = Model { keeps: keeps(&mut rng), facts: BTreeMap::new() };
    let mut subscribers: Vec<Subscriber> = Vec::new();
    for number in 0..OPERATIONS {
        let since = Instant::now();
        match rng.random_range(0..100) {
            _ if number < 2 => subscribers.push(subscriber(&mut rng, &gateways, &channel)),
            0..8 if subscribers.len() < 6 => subscribers.push(subscriber(&mut rng, &gateways, &channel)),
            0..20 => subscribers[rng.random_range(0..subscribers.len())].source.interrupt(),
            20..24 => {
                publisher.purge().await;
                model.remove(Removal::Front, since, |_, _| true);
            }
            24..28 => {
                let kept: Vec<u64> = model.kept().collect();
                let Some(below) = kept.choose(&mut rng).copied() else { continue };
                publisher.purge_below(below).await;
                model.remove(Removal::Front, since, |sequence, _| sequence < below);
            }
            28..31 => {
                let topic = TOPICS.choose(&mut rng).expect("there are some");
                eventually(PATIENCE, "a purge", || async { stream.purge().filter(channel.subject(topic)).await }).await;
                model.remove(Removal::Single, since, |_, fact| fact.topic == *topic);
            }
            31..40 => {
                let kept: Vec<u64> = model.kept().collect();
                let Some(gone) = kept.choose(&mut rng).copied() else { continue };
                publisher.delete(gone).await;
                model.remove(Removal::Single, since, |sequence, _| sequence == gone);
            }
            _ => publish(&mut rng, &publisher, &mut model, number).await,
        }
        progress.fetch_add(1, Ordering::Relaxed);
        if replicas > 1 {
            // Not for a condition: the script is to last as long as some faults do.
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
        }
    }
    let since = Instant::now();
    let last = publisher.publish("end", "end").await;
    let fact = Fact { topic: "end".into(), event: "message".into(), data: "end".into(), ..Fact::default() };
    model.publish(last, fact, since);
    judge(&channel, Incarnation::read(&stream, &channel).await, model, subscribers, last).await
}

async fn publish(rng: &mut StdRng, publisher: &Publisher, model: &mut Model, number: u64) {
    for part in 0..rng.random_range(1..4) {
        let since = Instant::now();
        let topic = *TOPICS.choose(rng).expect("there are some");
        let data = format!("{number}.{part} {}", "x".repeat(rng.random_range(0..200)));
        let event = if rng.random_bool(0.3) { "typed" } else { "message" };
        let publication = Publication::new(topic, data.clone());
        let publication = if event == "typed" { publication.event(event) } else { publication };
        let sequence = publisher.send(publication).await;
        let fact = Fact { topic: topic.into(), event: event.into(), data, ..Fact::default() };
        model.publish(sequence, fact, since);
    }
}

/// Waits until every client has had its due, and checks the records.
async fn judge(
    channel: &Manifest,
    stored: Incarnation,
    mut model: Model,
    subscribers: Vec<Subscriber>,
    last: u64,
) -> Vec<Complaint> {
    let (kept, held): (Vec<u64>, Vec<u64>) = (model.kept().collect(), stored.facts.keys().copied().collect());
    assert_eq!(kept, held, "{}: the model knows what the stream holds", channel.key());
    for (sequence, fact) in &stored.facts {
        model.facts.entry(*sequence).and_modify(|known| known.stamp = fact.stamp);
    }
    let keeps_all = !matches!(model.keeps, Keeps::NewestOfEachTopic);
    let truth = Truth(vec![Incarnation { epoch: stored.epoch, keeps_all, facts: model.facts }]);
    let mut complaints = Vec::new();
    for (number, Subscriber { source, request }) in subscribers.into_iter().enumerate() {
        source.reaches(last).await;
        let record = source.close();
        let found = check(&truth, &request, &record);
        if !found.is_empty() {
            let found = explained(&found, &truth, &record);
            let what = format!("{}, {:?}, client {number}, {request:?}: {found}", channel.key(), model.keeps);
            complaints.push(Complaint { what, record: told(&record) });
        }
    }
    complaints
}

/// Kills and restarts things as the scripts go on.
async fn disturb(site: &mut Installation, rng: &mut StdRng, progress: &AtomicU64, total: u64) {
    const TIMES: u64 = 8;
    for time in 1..TIMES {
        eventually(PATIENCE * 3, "the scripts go on", || {
            std::future::ready(progress.load(Ordering::Relaxed) >= total * time / TIMES)
        })
        .await;
        let gateway = rng.random_range(0..site.gateways.len());
        let proxy = site.proxy.as_ref().expect("the gateways are proxied");
        match rng.random_range(0..8) {
            0..2 => {
                site.gateways[gateway].kill9();
                site.gateways[gateway].launch();
            }
            2 => {
                site.gateways[gateway].terminate().await;
                site.gateways[gateway].launch();
            }
            // Not by SIGKILL: a killed nats-server may bring back what it had removed, and then nobody can say any more what a
            // subscriber was owed. The fault suites kill it.
            3..6 => {
                site.nats.terminate(0).await;
                site.nats.launch(0);
                site.nats.ready().await;
            }
            6 => {
                proxy.disconnect();
                eventually(PATIENCE, "the gateways notice", || async { !site.gateways[gateway].is_ready().await })
                    .await;
                site.proxy.as_ref().expect("as above").heal();
            }
            _ => {
                proxy.silence();
                let before = progress.load(Ordering::Relaxed);
                eventually(PATIENCE, "something is missed", || {
                    let now = progress.load(Ordering::Relaxed);
                    std::future::ready(now >= (before + 100).min(total))
                })
                .await;
                site.proxy.as_ref().expect("as above").heal();
            }
        }
    }
}

/// Two gateways, one without and one with TLS, and a way to NATS on which live messages are lost, late and repeated.
async fn installation(seed: Seed) -> Installation {
    let site = Settings::on(Side::Tls).gateways(2).plain(1).proxied().start().await;
    let mut noise = seed.rng();
    site.proxy.as_ref().expect("it was asked for").tamper(move |message| {
        if !message.subject.starts_with("tidings-live.") {
            return Fate::Pass;
        }
        match noise.random_range(0..100) {
            0..2 => Fate::Drop,
            2..5 => Fate::Delay(Duration::from_millis(noise.random_range(1..300))),
            5 => Fate::Replace(vec![message.clone(), message.clone()]),
            _ => Fate::Pass,
        }
    });
    site
}

/// Seeds that are gone through together, on one installation.
struct Round {
    seeds: Vec<Seed>,
    replicas: u64,
    jetstream: jetstream::Context,
    gateways: Gateways,
    progress: Arc<AtomicU64>,
}

impl Round {
    async fn prepare(site: &Installation, seeds: Vec<Seed>, replicas: u64) -> Self {
        site.all_channels(seeds.iter().map(|seed| manifest(*seed, replicas)).collect()).await;
        let mut jetstream = site.jetstream().await;
        jetstream.set_timeout(Duration::from_secs(1));
        let urls = site.gateways.iter().map(|gateway| gateway.url()).collect();
        let gateways = Gateways { urls, tls: site.gateways[1].tls().cloned() };
        Self { seeds, replicas, jetstream, gateways, progress: Arc::default() }
    }

    fn start(&self) -> Vec<tokio::task::JoinHandle<Vec<Complaint>>> {
        let script = |seed: &Seed| {
            let (jetstream, gateways) = (self.jetstream.clone(), self.gateways.clone());
            tokio::spawn(run(*seed, self.replicas, jetstream, gateways, Arc::clone(&self.progress)))
        };
        self.seeds.iter().map(script).collect()
    }

    /// `continue` in a script leaves its operation uncounted, so the last tenth is not waited for.
    fn total(&self) -> u64 {
        OPERATIONS * self.seeds.len() as u64 * 9 / 10
    }

    async fn complaints(&self, scripts: Vec<tokio::task::JoinHandle<Vec<Complaint>>>) -> Vec<Complaint> {
        let mut all = Vec::new();
        for (seed, script) in self.seeds.iter().zip(scripts) {
            let found = script.await.unwrap_or_else(|error| {
                vec![Complaint { what: format!("m{:x}: {error}", seed.number()), record: String::new() }]
            });
            all.extend(found);
        }
        all
    }
}

/// Disturbs a cluster until the scripts are through: one server at a time, so that two of three go on. Counts what it did.
async fn disturb_cluster(
    site: &mut Installation,
    rng: &mut StdRng,
    round: &Round,
    done: &mut BTreeMap<&'static str, u64>,
) {
    while round.progress.load(Ordering::Relaxed) < round.total() {
        let (node, gateway) = (rng.random_range(0..3), rng.random_range(0..site.gateways.len()));
        let pause = Duration::from_millis(rng.random_range(50..3000));
        let fault = match rng.random_range(0..12) {
            0..2 => {
                site.nats.kill9(node);
                site.nats.launch(node);
                "server killed"
            }
            2 => {
                site.nats.terminate(node).await;
                tokio::time::sleep(pause).await;
                site.nats.launch(node);
                "server ended"
            }
            3..6 => {
                // Up to longer than it takes the others to elect another leader, which this one learns of late.
                site.nats.node(node).stop().await;
                tokio::time::sleep(pause * 3).await;
                site.nats.node(node).cont();
                "server stopped"
            }
            6..8 => {
                let channel = manifest(*round.seeds.choose(rng).expect("there are some"), round.replicas);
                let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{}", channel.stream());
                let _ = site.nats.client().await.request(subject, "".into()).await;
                "leader stepped down"
            }
            8 => {
                site.gateways[gateway].kill9();
                site.gateways[gateway].launch();
                "gateway killed"
            }
            9 => {
                site.gateways[gateway].terminate().await;
                site.gateways[gateway].launch();
                "gateway ended"
            }
            10 => {
                site.gateways[gateway].process().stop().await;
                tokio::time::sleep(pause).await;
                site.gateways[gateway].process().cont();
                "gateway stopped"
            }
            _ => {
                site.operator.kill9();
                site.operator.launch();
                "operator killed"
            }
        };
        *done.entry(fault).or_default() += 1;
        site.nats.ready().await;
        // Not for a condition: what is disturbed again at once is never seen at work.
        tokio::time::sleep(pause / 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_every_client_gets_its_events_in_order_once_and_is_told_of_every_gap() -> Result<(), Complaints>
{
    let seed = Seed::from_environment();
    let seeds = std::env::var("TIDINGS_MODEL_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let mut complaints = Complaints { seed, seeds, found: Vec::new() };
    let numbers: Vec<u64> = (0..seeds).collect();
    for batch in numbers.chunks(TOGETHER as usize) {
        let mut site = installation(seed.nth(batch[0])).await;
        let round = Round::prepare(&site, batch.iter().map(|number| seed.nth(*number)).collect(), 1).await;
        let start = Instant::now();
        let scripts = round.start();
        let mut rng = seed.nth(batch[0] + batch.len() as u64).rng();
        disturb(&mut site, &mut rng, &round.progress, round.total()).await;
        complaints.found.extend(round.complaints(scripts).await);
        eprintln!("{} seeds in {:.1?}, {} complaints so far", batch.len(), start.elapsed(), complaints.found.len());
    }
    if complaints.found.is_empty() { Ok(()) } else { Err(complaints) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make chaos starts it"]
async fn chaos_on_three_servers_loses_nothing_and_resets_nobody() -> Result<(), Complaints> {
    let seed = Seed::from_environment();
    let seeds = std::env::var("TIDINGS_CHAOS_SEEDS").map_or(CHAOS_SEEDS, |text| text.parse().expect("a number"));
    let mut complaints = Complaints { seed, seeds, found: Vec::new() };
    let mut done = BTreeMap::new();
    let numbers: Vec<u64> = (0..seeds).collect();
    for batch in numbers.chunks(CHAOS_TOGETHER as usize) {
        let mut site = Settings::on(Side::Tls).gateways(2).plain(1).clustered().start().await;
        let round = Round::prepare(&site, batch.iter().map(|number| seed.nth(*number)).collect(), 3).await;
        let start = Instant::now();
        let scripts = round.start();
        disturb_cluster(&mut site, &mut seed.nth(batch[0]).rng(), &round, &mut done).await;
        complaints.found.extend(round.complaints(scripts).await);
        let found = complaints.found.len();
        eprintln!("{} seeds in {:.1?}, {found} complaints so far; faults: {done:?}", batch.len(), start.elapsed());
    }
    if complaints.found.is_empty() { Ok(()) } else { Err(complaints) }
}
