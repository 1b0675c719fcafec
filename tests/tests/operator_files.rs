//! The operator with its file front end, as a real process against a real NATS server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Source, StorageType};
use tempfile::TempDir;
use tidings_crds::route::{Route, RouteState};
use tidings_crds::topic::TopicSpace;
use tidings_tests::manifest::Manifest;
use tidings_tests::nats::{Nats, NatsSettings, User};
use tidings_tests::operator::BINARY;
use tidings_tests::ports::Port;
use tidings_tests::process::{Process, Program};
use tidings_tests::wait::{PATIENCE, eventually, throughout};
use tidings_tests::web::Request;

/// Longer than the removal delay and two resyncs together: what was not done by then is not done.
const SEVERAL_PASSES: Duration = Duration::from_secs(4);

/// Directories, and NATS.
struct Rig {
    nats: Nats,
    jetstream: Context,
    directory: TempDir,
}

/// A running operator.
struct Running {
    process: Process,
    admin: Port,
}

// === impl Rig ===

impl Rig {
    async fn start() -> Self {
        Self::start_with(NatsSettings::default()).await
    }

    async fn start_with(settings: NatsSettings) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for folder in ["channels", "routes"] {
            fs::create_dir(directory.path().join(folder)).expect("the directory can be written");
        }
        let nats = Nats::start_with(settings).await;
        let jetstream = nats.jetstream().await;
        Self { nats, jetstream, directory }
    }

    fn program_at(&self, nats: &str, admin: &Port) -> Program {
        Program::built(BINARY)
            .named("operator")
            .args(["--nats", nats, "--admin", &admin.address().to_string()])
            .args(["--removal-delay-seconds", "1", "--resync-seconds", "1"])
            .arg("--channels")
            .arg(self.channels())
            .arg("--routes")
            .arg(self.routes())
    }

    /// Starts an operator without waiting.
    fn operator(&self) -> Running {
        self.operator_with(|program| program)
    }

    fn operator_with(&self, with: impl FnOnce(Program) -> Program) -> Running {
        let admin = Port::free();
        Running { process: with(self.program_at(&self.nats.url(), &admin)).start(), admin }
    }

    fn channels(&self) -> PathBuf {
        self.directory.path().join("channels")
    }

    fn routes(&self) -> PathBuf {
        self.directory.path().join("routes")
    }

    fn file(&self, manifest: &Manifest) -> PathBuf {
        self.channels().join(manifest.file_name())
    }

    fn write(&self, manifest: &Manifest) {
        fs::write(self.file(manifest), manifest.to_string()).expect("the directory can be written");
    }

    fn remove(&self, manifest: &Manifest) {
        fs::remove_file(self.file(manifest)).expect("the manifest was written");
    }

    fn route_file(&self, manifest: &Manifest) -> PathBuf {
        self.routes().join(manifest.file_name())
    }

    fn route(&self, manifest: &Manifest) -> Option<Route> {
        let text = fs::read_to_string(self.route_file(manifest)).ok()?;
        Some(Route::from_yaml(&text).expect("a Route is whole at every moment"))
    }

    fn serves(&self, manifest: &Manifest) -> bool {
        self.route(manifest).is_some_and(|route| route.state == RouteState::Active)
    }

    async fn stream(&self, manifest: &Manifest) -> Option<Info> {
        let stream = self.jetstream.get_stream(manifest.stream()).await.ok()?;
        Some(stream.cached_info().clone())
    }

    /// Waits until the Channel has its Route, and its stream if it keeps one.
    async fn served(&self, manifest: &Manifest) {
        eventually(PATIENCE, &format!("{} is served", manifest.key()), || async {
            self.serves(manifest) && (!manifest.is_durable() || self.stream(manifest).await.is_some())
        })
        .await;
    }

    async fn gone(&self, manifest: &Manifest) {
        eventually(PATIENCE, "the stream is gone", || async { self.stream(manifest).await.is_none() }).await;
    }

    /// The same manifests and the same NATS, with settings.
    fn settings(&self, text: &str) -> PathBuf {
        let file = self.directory.path().join("settings.yaml");
        fs::write(&file, text).expect("the directory can be written");
        file
    }
}

// === impl Running ===

impl Running {
    async fn says(&self, words: &str) {
        eventually(PATIENCE, &format!("the operator says {words:?}"), || async {
            self.process.output().contains(words)
        })
        .await;
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let reply = Request::get(format!("http://{}{path}", self.admin.address())).try_send().await.ok()?;
        Some((reply.status.as_u16(), reply.text()))
    }
}

fn delete(name: &str) -> Manifest {
    Manifest::new("test", name).with("history/reclaimPolicy", "Delete")
}

/// A file that is written in place and left alone at once.
fn overwrite(file: &Path, text: &str) {
    fs::write(file, text).expect("the file can be written");
}

#[tokio::test]
async fn a_manifest_becomes_a_stream_and_a_route() {
    let rig = Rig::start().await;
    let manifest = Manifest::new("test", "orders").with("history/maxAgeSeconds", 60).with("history/maxMessages", 5);
    rig.write(&manifest);
    let ephemeral = Manifest::new("test", "pulse").with("durability", "Ephemeral");
    rig.write(&ephemeral);
    let operator = rig.operator();
    rig.served(&manifest).await;
    rig.served(&ephemeral).await;
    let config = rig.stream(&manifest).await.expect("a stream").config;
    assert_eq!(config.subjects, ["tidings.test.orders", "tidings.test.orders.>"]);
    assert_eq!((config.max_age, config.max_messages, config.max_bytes), (Duration::from_secs(60), 5, -1));
    assert!(config.allow_direct && config.allow_message_ttl);
    let republish = config.republish.expect("live messages");
    assert_eq!(
        (republish.source.as_str(), republish.destination.as_str()),
        (">", "tidings-live.TIDINGS_test_orders.>")
    );
    assert!(rig.stream(&ephemeral).await.is_none());
    operator.says("test/orders   Programmed   TIDINGS_test_orders").await;

    let ready = eventually(PATIENCE, "readiness", || operator.get("/readyz")).await;
    assert_eq!(ready, (200, "ok\n".to_owned()));
    let (_, metrics) = operator.get("/metrics").await.expect("metrics");
    assert!(metrics.contains("tidings_operator_channels{state=\"Programmed\"} 2"), "{metrics}");
    assert!(operator.process.terminate().await.success());
}

#[tokio::test]
async fn a_changed_manifest_changes_stream_and_route_in_place() {
    let rig = Rig::start().await;
    let manifest = Manifest::new("test", "orders");
    rig.write(&manifest);
    let _operator = rig.operator();
    rig.served(&manifest).await;
    let created = rig.stream(&manifest).await.expect("a stream").created;
    let changed = manifest.with("history/maxMessages", 7).with("events/heartbeatSeconds", 3);
    rig.write(&changed);
    eventually(PATIENCE, "the change", || async {
        let stream = rig.stream(&changed).await?;
        let same = stream.created == created && stream.config.max_messages == 7;
        (same && rig.route(&changed)?.events.heartbeat_seconds == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn drift_is_repaired_and_what_is_not_ours_is_kept() {
    let rig = Rig::start().await;
    let manifest = Manifest::new("test", "orders");
    rig.write(&manifest);
    let operator = rig.operator();
    rig.served(&manifest).await;
    let good = rig.stream(&manifest).await.expect("a stream").config;
    let mut bad = Config { max_messages: 1, republish: None, allow_direct: false, ..good.clone() };
    bad.metadata.insert("team".into(), "shop".into());
    bad.description = Some("by hand".into());
    rig.jetstream.update_stream(&bad).await.expect("an update");
    eventually(PATIENCE, "the repair", || async {
        let now = rig.stream(&manifest).await?.config;
        let repaired = now.max_messages == good.max_messages && now.republish == good.republish && now.allow_direct;
        let kept = now.metadata.get("team").is_some_and(|team| team == "shop")
            && now.description.as_deref() == Some("by hand");
        (repaired && kept && rig.serves(&manifest)).then_some(())
    })
    .await;
    operator.says("test/orders   StreamRepaired").await;
    rig.jetstream.delete_stream(manifest.stream()).await.expect("deleted");
    rig.served(&manifest).await;
    operator.says("test/orders   StreamRecreated").await;
    // What the manifest itself asks for is no correction.
    rig.write(&manifest.clone().with("history/maxMessages", 9));
    eventually(PATIENCE, "the change", || async {
        rig.stream(&manifest).await.is_some_and(|stream| stream.config.max_messages == 9)
    })
    .await;
    let (_, metrics) = operator.get("/metrics").await.expect("metrics");
    for kind in ["recreated", "repaired"] {
        let counted = format!("tidings_operator_stream_corrections_total{{kind=\"{kind}\"}} 1");
        assert!(metrics.contains(&counted), "{metrics}");
    }
    fs::remove_file(rig.route_file(&manifest)).expect("a Route");
    rig.served(&manifest).await;
}

#[tokio::test]
async fn a_stream_of_somebody_else_is_never_touched() {
    let rig = Rig::start().await;
    let manifest = delete("orders");
    let config = Config { name: manifest.stream(), subjects: vec!["theirs".into()], ..Config::default() };
    rig.jetstream.create_stream(config).await.expect("a stream");
    let before = rig.stream(&manifest).await.expect("a stream");
    rig.write(&manifest);
    let other = Manifest::new("test", "other");
    rig.write(&other);
    let operator = rig.operator();
    operator.says("ForeignStream").await;
    rig.served(&other).await;
    rig.remove(&manifest);
    operator.says("\ntest/other   Programmed").await;
    throughout(SEVERAL_PASSES, "there is no Route", || rig.route(&manifest).is_none()).await;
    let after = rig.stream(&manifest).await.expect("it is still there");
    assert_eq!((after.created, after.config), (before.created, before.config));
}

#[tokio::test]
async fn another_installation_on_the_same_nats_is_foreign() {
    let rig = Rig::start().await;
    let manifest = delete("orders");
    rig.write(&manifest);
    let first = rig.operator_with(|program| program.args(["--cluster-id", "one"]));
    rig.served(&manifest).await;
    drop(first);
    fs::remove_file(rig.route_file(&manifest)).expect("a Route");
    let second = rig.operator_with(|program| program.args(["--cluster-id", "two"]));
    second.says("an operator started with --cluster-id one goes on with it").await;
    rig.remove(&manifest);
    second.says("No Channels.").await;
    throughout(SEVERAL_PASSES, "there is no Route", || rig.route(&manifest).is_none()).await;
    assert!(rig.stream(&manifest).await.is_some());
}

#[tokio::test]
async fn an_immutable_difference_is_told_and_the_last_good_route_stays() {
    let rig = Rig::start().await;
    let manifest = Manifest::new("test", "orders");
    rig.write(&manifest);
    let operator = rig.operator();
    rig.served(&manifest).await;
    let created = rig.stream(&manifest).await.expect("a stream").created;
    let route = rig.route(&manifest);
    rig.write(&manifest.clone().with("history/storage", "Memory").with("events/heartbeatSeconds", 3));
    operator.says("storage is File and should be Memory").await;
    let stream = rig.stream(&manifest).await.expect("a stream");
    assert_eq!((stream.created, stream.config.storage), (created, StorageType::File));
    assert_eq!(rig.route(&manifest), route);
}

#[tokio::test]
async fn the_reclaim_policy_decides_what_stays_of_a_removed_channel() {
    let rig = Rig::start().await;
    let (retained, deleted) = (Manifest::new("test", "retained"), delete("deleted"));
    rig.write(&retained);
    rig.write(&deleted);
    let operator = rig.operator();
    rig.served(&retained).await;
    rig.served(&deleted).await;
    rig.remove(&retained);
    rig.remove(&deleted);
    rig.gone(&deleted).await;
    // Marked first, so that gateways end its streams; then the file goes.
    let state = |manifest| rig.route(manifest).map(|route| route.state);
    for manifest in [&retained, &deleted] {
        eventually(PATIENCE, "the Route is marked", || async { state(manifest) == Some(RouteState::Removed) }).await;
    }
    for manifest in [&retained, &deleted] {
        eventually(PATIENCE, "the Route is gone", || async { state(manifest).is_none() }).await;
    }
    let created = rig.stream(&retained).await.expect("it was to stay").created;
    // A Channel of the same name takes it over, and says so.
    rig.write(&retained);
    operator.says("TookOver").await;
    assert_eq!(rig.stream(&retained).await.map(|stream| stream.created), Some(created));
}

#[tokio::test]
async fn a_removal_while_the_operator_was_away_is_noticed() {
    let rig = Rig::start().await;
    let (retained, deleted, ephemeral) = (
        Manifest::new("test", "retained"),
        delete("deleted"),
        Manifest::new("test", "p").with("durability", "Ephemeral"),
    );
    let all = [&retained, &deleted, &ephemeral];
    all.iter().for_each(|manifest| rig.write(manifest));
    let operator = rig.operator();
    for manifest in all {
        rig.served(manifest).await;
    }
    operator.process.kill9();
    all.iter().for_each(|manifest| rig.remove(manifest));
    let _operator = rig.operator();
    rig.gone(&deleted).await;
    for manifest in all {
        eventually(PATIENCE, "it is served no longer", || async { !rig.serves(manifest) }).await;
    }
    assert!(rig.stream(&retained).await.is_some());
}

#[tokio::test]
async fn a_bad_manifest_keeps_its_last_good_route_and_stops_nobody() {
    let rig = Rig::start().await;
    let (first, second) = (delete("first"), delete("second"));
    rig.write(&first);
    let operator = rig.operator();
    rig.served(&first).await;
    let route = rig.route(&first);
    for bad in [
        "kind: [",
        "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: {name: first, namespace: test}\nspec: {events: 1}\n",
    ] {
        overwrite(&rig.file(&first), bad);
        rig.write(&second);
        rig.served(&second).await;
        operator.says("test.first.yaml:").await;
        rig.remove(&second);
        rig.gone(&second).await;
        assert_eq!(rig.route(&first), route);
        assert!(rig.stream(&first).await.is_some());
    }
    // Neither does a restart forget what it had, while nobody can tell what the file is about.
    overwrite(&rig.file(&first), "kind: [");
    operator.process.kill9();
    let operator = rig.operator();
    operator.says("no YAML").await;
    throughout(SEVERAL_PASSES, "the last good Route stays", || rig.route(&first) == route).await;
    assert!(rig.stream(&first).await.is_some());
}

#[tokio::test]
async fn an_editor_that_saves_by_removing_deletes_nothing() {
    let rig = Rig::start().await;
    let manifest = delete("orders");
    rig.write(&manifest);
    let _operator = rig.operator();
    rig.served(&manifest).await;
    let created = rig.stream(&manifest).await.expect("a stream").created;
    // Each time it is away for less than the removal delay, altogether for longer.
    for round in 0..10 {
        let changed = manifest.clone().with("events/heartbeatSeconds", round + 20);
        rig.remove(&manifest);
        throughout(Duration::from_millis(150), "the channel is served", || rig.serves(&manifest)).await;
        rig.write(&changed);
        eventually(PATIENCE, "the operator has seen it", || async {
            rig.route(&manifest).is_some_and(|route| route.events.heartbeat_seconds == round + 20)
        })
        .await;
    }
    assert_eq!(rig.stream(&manifest).await.map(|stream| stream.created), Some(created));
}

#[tokio::test]
async fn a_file_or_directory_that_cannot_be_read_is_not_a_deleted_one() {
    let rig = Rig::start().await;
    let manifest = delete("orders");
    rig.write(&manifest);
    let operator = rig.operator();
    rig.served(&manifest).await;
    rig.remove(&manifest);
    std::os::unix::fs::symlink("nowhere", rig.file(&manifest)).expect("a link");
    operator.says("No such file").await;
    throughout(SEVERAL_PASSES, "it is served", || rig.serves(&manifest)).await;
    let aside = rig.directory.path().join("aside");
    fs::rename(rig.channels(), &aside).expect("renamed");
    operator.says("Failed to read the manifests; nothing is removed.").await;
    throughout(SEVERAL_PASSES, "it is served", || rig.serves(&manifest)).await;
    assert!(rig.stream(&manifest).await.is_some());
    fs::rename(&aside, rig.channels()).expect("renamed");
    rig.remove(&manifest);
    rig.gone(&manifest).await;
}

#[tokio::test]
async fn the_operator_starts_without_nats_and_survives_its_restart() {
    let mut rig = Rig::start().await;
    rig.nats.kill9(0);
    let manifest = Manifest::new("test", "orders");
    rig.write(&manifest);
    let operator = rig.operator();
    operator.says("BrokerUnreachable").await;
    let (status, text) = eventually(PATIENCE, "the admin port", || operator.get("/readyz")).await;
    assert_eq!((status, text.as_str()), (503, "not ready: NATS is not connected\n"));
    assert_eq!(operator.get("/livez").await.map(|(status, _)| status), Some(200));
    rig.nats.launch(0);
    rig.nats.ready().await;
    rig.served(&manifest).await;
    rig.nats.restart().await;
    let second = Manifest::new("test", "second");
    rig.write(&second);
    rig.served(&second).await;
    assert!(operator.process.status().is_none());
}

#[tokio::test]
async fn an_operator_killed_between_two_steps_is_finished_by_the_next() {
    for failpoint in ["stream-applied", "route-renamed", "route-applied"] {
        let rig = Rig::start().await;
        let manifest = delete("orders");
        rig.write(&manifest);
        let killed = rig.operator_with(|program| program.env("TIDINGS_FAILPOINT", failpoint));
        killed.process.exited().await;
        let created = rig.stream(&manifest).await.expect("the first step").created;
        let _operator = rig.operator();
        rig.served(&manifest).await;
        assert_eq!(rig.stream(&manifest).await.map(|stream| stream.created), Some(created), "{failpoint}");
    }
    for failpoint in ["route-removed", "stream-deleted"] {
        let rig = Rig::start().await;
        let manifest = delete("orders");
        rig.write(&manifest);
        let first = rig.operator();
        rig.served(&manifest).await;
        first.process.kill9();
        rig.remove(&manifest);
        let killed = rig.operator_with(|program| program.env("TIDINGS_FAILPOINT", failpoint));
        killed.process.exited().await;
        assert!(!rig.serves(&manifest), "{failpoint}");
        let _operator = rig.operator();
        rig.gone(&manifest).await;
        eventually(PATIENCE, "the Route is gone", || async { rig.route(&manifest).is_none() }).await;
    }
}

/// Whether the stream stores this subject.
async fn stores(rig: &Rig, manifest: &Manifest, subject: &str) -> bool {
    let stream = rig.stream(manifest).await.expect("a stream");
    stream.config.subjects.iter().any(|stored| stored == subject)
}

/// Whether the Route in place tells gateways of this subject.
fn routes(rig: &Rig, manifest: &Manifest, subject: &str) -> bool {
    let topics = rig.route(manifest).map(|route| route.topics);
    matches!(topics, Some(TopicSpace::Whole { subjects }) if subjects.iter().any(|known| known.as_str() == subject))
}

fn with_subjects(names: &[&str]) -> Manifest {
    let subjects: Vec<String> = names.iter().map(|name| format!("tidings.test.orders.{name}.>")).collect();
    Manifest::new("test", "orders").with("subjects", subjects)
}

#[tokio::test]
async fn a_subject_is_added_to_the_route_first_and_removed_from_the_stream_first_wherever_the_operator_is_killed() {
    let rig = Rig::start().await;
    let [before, after] = [with_subjects(&["a", "b"]), with_subjects(&["b", "c"])];
    let [old, new] = ["tidings.test.orders.a.>", "tidings.test.orders.c.>"];
    rig.write(&before);
    let operator = rig.operator();
    rig.served(&before).await;
    operator.process.kill9();
    rig.write(&after);
    for failpoint in ["stream-applied", "route-renamed", "route-applied", "route-applied"] {
        let killed = rig.operator_with(|program| program.env("TIDINGS_FAILPOINT", failpoint));
        killed.process.exited().await;
        let (stored, kept) = (stores(&rig, &before, new).await, stores(&rig, &before, old).await);
        assert!(!stored || routes(&rig, &before, new), "{failpoint}: the stream stores what no gateway knows");
        assert!(!kept || routes(&rig, &before, old), "{failpoint}: the stream stores what gateways have forgotten");
        assert!(!stored, "{failpoint}: no operator lived long enough for gateways to have read the Route");
    }
    assert!(routes(&rig, &after, new) && !routes(&rig, &after, old));
    let started = Instant::now();
    let operator = rig.operator();
    operator
        .says("New subjects are added to the stream once all gateways have the Route (tidings.test.orders.c.>)")
        .await;
    eventually(PATIENCE, "the subject is stored", || stores(&rig, &after, new)).await;
    assert!(started.elapsed() >= Duration::from_secs(5), "gateways read their directory every five seconds");
    operator.says("test/orders   Programmed   TIDINGS_test_orders   tidings.test.orders.b.>").await;
    assert_eq!(rig.stream(&after).await.expect("a stream").config.subjects.len(), 2);
}

#[tokio::test]
async fn no_subject_is_added_while_the_route_cannot_be_written() {
    let rig = Rig::start().await;
    let manifest = with_subjects(&["a"]);
    rig.write(&manifest);
    let operator = rig.operator();
    rig.served(&manifest).await;
    // Nothing can be renamed over a directory with something in it.
    let file = rig.route_file(&manifest);
    let kept = rig.directory.path().join("kept");
    fs::rename(&file, &kept).expect("renamed");
    fs::create_dir_all(file.join("in the way")).expect("a directory");
    let changed = with_subjects(&["a", "b"]);
    rig.write(&changed);
    operator.says("RouteFailed").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        assert!(!stores(&rig, &changed, "tidings.test.orders.b.>").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fs::remove_dir_all(&file).expect("removed");
    fs::rename(&kept, &file).expect("renamed");
    eventually(PATIENCE, "the Route tells of it", || async { routes(&rig, &changed, "tidings.test.orders.b.>") }).await;
    eventually(PATIENCE, "the subject is stored", || stores(&rig, &changed, "tidings.test.orders.b.>")).await;
}

#[tokio::test]
async fn a_subject_that_another_stream_has_changes_nothing_at_all() {
    let rig = Rig::start().await;
    let manifest = with_subjects(&["a"]);
    rig.write(&manifest);
    let operator = rig.operator();
    rig.served(&manifest).await;
    let taken = Config { name: "theirs".into(), subjects: vec!["tidings.test.orders.b.x".into()], ..Config::default() };
    rig.jetstream.create_stream(taken).await.expect("a stream");
    let (stream, route) = (rig.stream(&manifest).await.expect("a stream"), rig.route(&manifest));
    rig.write(&with_subjects(&["b"]).with("history/maxMessages", 7));
    operator.says("the subjects belong to the stream theirs").await;
    throughout(SEVERAL_PASSES, "the last good Route stays", || rig.route(&manifest) == route).await;
    assert_eq!(rig.stream(&manifest).await.expect("a stream").config, stream.config);
}

#[tokio::test]
async fn two_operators_on_the_same_directories_do_no_harm() {
    let rig = Rig::start().await;
    let manifests: Vec<_> = (0..10).map(|number| delete(&format!("c{number}"))).collect();
    let (_first, _second) = (rig.operator(), rig.operator());
    manifests.iter().for_each(|manifest| rig.write(manifest));
    let mut created = Vec::new();
    for manifest in &manifests {
        rig.served(manifest).await;
        created.push(rig.stream(manifest).await.expect("a stream").created);
    }
    for seconds in 20..25 {
        for manifest in &manifests {
            rig.write(&manifest.clone().with("events/heartbeatSeconds", seconds));
        }
        for manifest in &manifests {
            eventually(PATIENCE, "the change", || async {
                rig.route(manifest).is_some_and(|route| route.events.heartbeat_seconds == seconds)
            })
            .await;
        }
    }
    for (manifest, created) in manifests.iter().zip(created) {
        assert_eq!(rig.stream(manifest).await.map(|stream| stream.created), Some(created));
    }
    manifests.iter().for_each(|manifest| rig.remove(manifest));
    for manifest in &manifests {
        rig.gone(manifest).await;
    }
}

#[tokio::test]
async fn subjects_beside_the_own_need_a_grant_that_can_be_withdrawn() {
    let rig = Rig::start().await;
    let manifest = Manifest::new("test", "orders").with("subjects", vec!["orders.>"]);
    rig.write(&manifest);
    let operator = rig.operator();
    operator.says("SubjectNotGranted").await;
    assert!(rig.route(&manifest).is_none() && rig.stream(&manifest).await.is_none());
    drop(operator);

    let granted = rig.settings("subjectGrants: [{ namespaces: [test], subjects: [orders.>] }]");
    let operator = rig.operator_with(|program| program.arg("--config").arg(granted));
    rig.served(&manifest).await;
    // Whoever holds a subject keeps it, whatever the other is called.
    let rival = Manifest::new("test", "a").with("subjects", vec!["orders.new"]);
    rig.write(&rival);
    operator.says("SubjectConflict").await;
    assert!(rig.stream(&rival).await.is_none() && rig.serves(&manifest));
    drop(operator);

    let withdrawn = rig.settings("subjectGrants: []");
    let _operator = rig.operator_with(|program| program.arg("--config").arg(withdrawn));
    eventually(PATIENCE, "the Route is withdrawn", || async { !rig.serves(&manifest) }).await;
    assert!(rig.stream(&manifest).await.is_some());
}

#[tokio::test]
async fn the_permissions_that_are_given_out_are_enough() {
    let publish = ["INFO.>", "LIST", "NAMES", "CREATE.*", "UPDATE.*", "DELETE.*"];
    let publish = publish.iter().map(|call| format!("$JS.API.STREAM.{call}")).collect();
    let admin = User { name: "admin".into(), ..User::default() };
    let subscribe = Some(vec!["_INBOX_tidings_operator.>".to_owned()]);
    let operator = User { name: "operator".into(), publish: Some(publish), subscribe, ..User::default() };
    let rig = Rig::start_with(NatsSettings { users: vec![admin, operator], ..NatsSettings::default() }).await;
    let manifest = delete("orders");
    rig.write(&manifest);
    let url = rig.nats.url_of("operator");
    let admin = Port::free();
    let operator = Running { process: rig.program_at(&url, &admin).start(), admin };
    rig.served(&manifest).await;
    rig.write(&manifest.clone().with("history/maxMessages", 7));
    eventually(PATIENCE, "the change", || async {
        rig.stream(&manifest).await.is_some_and(|stream| stream.config.max_messages == 7)
    })
    .await;
    // Whose a subject is already is asked for by name.
    let taken = Config { name: "theirs".into(), subjects: vec!["tidings.test.taken".into()], ..Config::default() };
    rig.jetstream.create_stream(taken).await.expect("a stream");
    rig.write(&Manifest::new("test", "taken"));
    operator.says("the subjects belong to the stream theirs").await;
    rig.remove(&manifest);
    rig.gone(&manifest).await;
    assert!(!operator.process.output().to_lowercase().contains("permissions violation"));
}

#[tokio::test]
async fn a_stream_that_others_edit_is_set_right_or_the_difference_is_named() {
    let rig = Rig::start().await;
    let [repaired, fed, sealed] = ["repaired", "fed", "sealed"].map(|name| Manifest::new("test", name));
    for manifest in [&repaired, &fed, &sealed] {
        rig.write(manifest);
    }
    let operator = rig.operator();
    for manifest in [&repaired, &fed, &sealed] {
        rig.served(manifest).await;
    }
    // What NATS lets go of again is set right, all of it at once.
    let good = rig.stream(&repaired).await.expect("a stream").config;
    let mut republish = good.republish.clone().expect("live messages");
    republish.destination = "elsewhere.>".into();
    let edited = Config {
        republish: Some(republish),
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        no_ack: true,
        ..good.clone()
    };
    rig.jetstream.update_stream(&edited).await.expect("an update");
    eventually(PATIENCE, "the repair", || async {
        let now = rig.stream(&repaired).await?.config;
        let same = now.republish == good.republish && now.discard == good.discard && !now.no_ack;
        (same && now.max_messages_per_subject == good.max_messages_per_subject).then_some(())
    })
    .await;
    // What others bring in is not republished, and what is sealed stays so: both are said, and the Route stays.
    rig.jetstream.create_stream(Config { name: "theirs".into(), ..Config::default() }).await.expect("a stream");
    let source = Source { name: "theirs".into(), ..Source::default() };
    let config = rig.stream(&fed).await.expect("a stream").config;
    rig.jetstream.update_stream(Config { sources: Some(vec![source]), ..config }).await.expect("an update");
    operator.says("mirror or sources is true and should be false").await;
    let config = rig.stream(&sealed).await.expect("a stream").config;
    rig.jetstream.update_stream(Config { sealed: true, ..config }).await.expect("an update");
    operator.says("sealed is true and should be false").await;
    assert!(rig.serves(&fed) && rig.serves(&sealed) && rig.serves(&repaired));
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let publish = ["INFO.>", "LIST", "NAMES"].iter().map(|call| format!("$JS.API.STREAM.{call}")).collect();
    let admin = User { name: "admin".into(), ..User::default() };
    let subscribe = Some(vec!["_INBOX_tidings_operator.>".to_owned()]);
    let operator = User { name: "operator".into(), publish: Some(publish), subscribe, ..User::default() };
    let rig = Rig::start_with(NatsSettings { users: vec![admin, operator], ..NatsSettings::default() }).await;
    rig.write(&Manifest::new("test", "orders"));
    let (url, admin) = (rig.nats.url_of("operator"), Port::free());
    let operator = Running { process: rig.program_at(&url, &admin).start(), admin };
    operator.says("test/orders   BrokerPermission").await;
    operator.says("the operator is not permitted to publish to $JS.API.STREAM.CREATE.*").await;
}

#[tokio::test]
async fn a_quota_refuses_the_last_of_too_many_channels_until_there_is_room() {
    let rig = Rig::start().await;
    let quota = rig.settings("quotas: [{ namespaces: [test], channels: 2, bytes: 3Mi, replicas: 1 }]");
    let [a, b, c] = ["a", "b", "c"].map(|name| Manifest::new("test", name).with("history/maxBytes", "1Mi"));
    for manifest in [&a, &b, &c] {
        rig.write(manifest);
    }
    let operator = rig.operator_with(|program| program.arg("--config").arg(&quota));
    operator.says("the quota of the namespace test is 2 Channels, and older ones are 2").await;
    rig.served(&a).await;
    rig.served(&b).await;
    assert!(rig.stream(&c).await.is_none() && rig.route(&c).is_none());
    rig.write(&b.clone().with("history/maxBytes", "3Mi"));
    operator.says("older Channels have 1048576, 2097152 are left, and this one wants 3145728").await;
    rig.served(&c).await;
    assert!(rig.serves(&b), "the last good Route stays");
    let (status, output) = Program::built(BINARY).args(["check", "--config"]).arg(&quota).arg(rig.file(&a)).run().await;
    assert!(status.success(), "{output}");
    let greedy = Manifest::new("test", "a").with("history/replicas", 3).with("history/maxBytes", 1);
    rig.write(&greedy);
    let (status, output) = Program::built(BINARY).args(["check", "--config"]).arg(&quota).arg(rig.file(&a)).run().await;
    assert_eq!(status.code(), Some(1));
    assert!(output.contains("QuotaExceeded: the quota of the namespace test is 1 replicas"), "{output}");
}

#[tokio::test]
async fn streams_that_come_and_go_never_hide_who_has_a_subject() {
    let rig = Rig::start().await;
    // In the order of names before the Channels' streams, and just as many as one page of the listing has.
    let other = |name: String| Config {
        subjects: vec![format!("other.{name}")],
        name,
        storage: StorageType::Memory,
        ..Config::default()
    };
    for number in 0..255 {
        rig.jetstream.create_stream(other(format!("AAA_{number:03}"))).await.expect("a stream");
    }
    let [holder, rival] = ["b", "a"].map(|name| Manifest::new("test", name).with("subjects", vec!["orders.>"]));
    let granted = rig.settings("subjectGrants: [{ namespaces: [test], subjects: [orders.>] }]");
    rig.write(&holder);
    let operator = rig.operator_with(|program| program.arg("--config").arg(granted));
    rig.served(&holder).await;
    rig.write(&rival);
    operator.says("SubjectConflict").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        rig.jetstream.create_stream(other("AAA_churn".into())).await.expect("a stream");
        rig.jetstream.delete_stream("AAA_churn").await.expect("deleted");
    }
    let lost = |line: &str| line.starts_with("test/b ") && line.contains("SubjectConflict");
    let output = operator.process.output();
    assert!(!output.lines().any(lost), "{output}");
}

#[tokio::test]
async fn check_tells_every_fault_and_its_place() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("a.yaml");
    overwrite(&file, &format!("{}---\nkind: [\n", Manifest::new("test", "a").with("events/retryMilliseconds", 1)));
    let (status, output) = Program::built(BINARY).arg("check").arg(&file).run().await;
    assert_eq!(status.code(), Some(1));
    let output = output.replace(&file.display().to_string(), "a.yaml");
    assert!(output.contains("a.yaml:8: spec.events.retryMilliseconds: write at least 500\n"), "{output}");
    assert!(output.ends_with("0 usable Channels, 2 faults.\n"), "{output}");
    overwrite(&file, &Manifest::new("test", "a").to_string());
    let (status, output) = Program::built(BINARY).arg("check").arg(&file).run().await;
    assert_eq!((status.code(), output.as_str()), (Some(0), "1 usable Channel, 0 faults.\n"));
}
