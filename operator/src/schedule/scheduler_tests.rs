//! Tests of [`crate::schedule::scheduler`], from within.

use super::*;
use crate::reconcile::report::Report;
use serde_json::{Value, json};
use tidings_crds::condition::{AcceptedReason, ProgrammedReason};
use tidings_crds::grants::{SubjectGrant, SubjectGrants};
use tidings_crds::quota::Quotas;

const RESYNC: Duration = Duration::from_secs(30);

fn terms() -> Terms {
    Terms {
        installation: Arc::default(),
        controller: "tidings-system/tidings".into(),
        class_name: "tidings".into(),
        namespaces: Vec::new(),
        public_url: None,
        resync: RESYNC,
    }
}

fn key(name: &str) -> ChannelKey {
    ChannelKey::new("shop", name)
}

fn object(name: &str, version: u64, change: impl FnOnce(&mut Value)) -> DynamicObject {
    let mut object = json!({
        "apiVersion": "tidings.dev/v1alpha1", "kind": "Channel", "spec": {},
        "metadata": {
            "namespace": "shop", "name": name, "uid": name, "resourceVersion": version.to_string(), "generation": 1,
        },
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

fn wall() -> Time {
    serde_json::from_value(json!("2026-11-01T00:00:00Z")).unwrap()
}

/// Everything is listed, NATS is connected, the streams were looked at.
fn ready(names: &[&str], start: Instant) -> Agenda {
    let mut agenda = Agenda::new(terms(), true, start);
    list(&mut agenda, names, start);
    agenda.broker(true, start);
    assert!(matches!(agenda.next_job(start, &wall()), Some(Job::Survey)));
    agenda.surveyed(Some(Survey::default()), start);
    agenda
}

fn list(agenda: &mut Agenda, names: &[&str], now: Instant) {
    agenda.take_channel(0, watcher::Event::Init, BTreeSet::new, now);
    for (version, name) in (1..).zip(names) {
        agenda.take_channel(0, watcher::Event::InitApply(object(name, version, |_| {})), BTreeSet::new, now);
    }
    agenda.take_channel(0, watcher::Event::InitDone, BTreeSet::new, now);
    agenda.take_routes(BTreeSet::new(), true, BTreeSet::new, now);
}

fn jobs(agenda: &mut Agenda, now: Instant) -> Vec<Job> {
    std::iter::from_fn(|| agenda.next_job(now, &wall())).collect()
}

fn names(jobs: &[Job]) -> Vec<String> {
    let name = |job: &Job| match job {
        Job::Survey => "survey".to_owned(),
        Job::Visit { channel, .. } => format!("visit {}", channel.key.name),
        Job::Leave { key, sweep, .. } => format!("leave {} {sweep}", key.name),
        Job::Write { channel, .. } => format!("write {}", channel.key.name),
    };
    jobs.iter().map(name).collect()
}

fn report(name: &str, again: bool) -> Visited {
    let unusable = Report::unusable(key(name), AcceptedReason::Accepted, "Good.".into(), None);
    let report = Report { programmed: ProgrammedReason::Programmed, again, ..unusable };
    Visited { account: Account::Reconciled(Box::new(report)), object: None, again }
}

fn visit(agenda: &mut Agenda, now: Instant) -> Box<ObservedChannel> {
    match agenda.next_job(now, &wall()) {
        Some(Job::Visit { channel, .. }) => channel,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_done_before_everything_is_listed_and_the_streams_were_looked_at() {
    let start = Instant::now();
    let mut agenda = Agenda::new(terms(), true, start);
    agenda.broker(true, start);
    agenda.take_channel(0, watcher::Event::Init, BTreeSet::new, start);
    agenda.take_channel(0, watcher::Event::InitApply(object("a", 1, |_| {})), BTreeSet::new, start);
    assert!(agenda.next_job(start, &wall()).is_none());
    agenda.take_channel(0, watcher::Event::InitDone, BTreeSet::new, start);
    assert!(agenda.next_job(start, &wall()).is_none(), "the Routes are not listed");
    agenda.take_routes(BTreeSet::new(), true, || [key("orphan")].into(), start);
    assert_eq!(names(&jobs(&mut agenda, start)), ["survey"]);
    agenda.surveyed(Some(Survey::default()), start);
    assert_eq!(names(&jobs(&mut agenda, start)), ["visit a", "leave orphan true"]);
}

#[test]
fn without_nats_visits_begin_after_a_while() {
    let start = Instant::now();
    let mut agenda = Agenda::new(terms(), true, start);
    list(&mut agenda, &["a"], start);
    assert!(agenda.next_job(start, &wall()).is_none());
    assert_eq!(agenda.next(start), start + FIRST_CONNECTION);
    assert_eq!(names(&jobs(&mut agenda, start + FIRST_CONNECTION)), ["visit a"]);
}

#[test]
fn a_visit_is_followed_by_a_status_and_the_next_visit_by_a_survey_that_differs() {
    let start = Instant::now();
    let mut agenda = ready(&["a"], start);
    let channel = visit(&mut agenda, start);
    assert!(agenda.next_job(start, &wall()).is_none(), "one look at a time");
    agenda.visited(&channel, report("a", false), start, 0.0);
    let written = jobs(&mut agenda, start);
    assert_eq!(names(&written), ["write a"]);
    let [Job::Write { channel, status, change }] = written.as_slice() else { panic!("{written:?}") };
    assert_eq!((*change, status.conditions.len()), (Change::Transition, 3));
    // The answer is what stands from then on.
    let answer = object("a", 9, |object| object["status"] = json!(status));
    let told = agenda.written(channel, status, Ok(answer), start, 0.0);
    assert_eq!(told.len(), 0, "{told:?}");
    assert!(agenda.next_job(start, &wall()).is_none());
    // What is in place is compared by the surveys, and visited in any case after some of them.
    let mut now = start;
    let same = |mark: u64| Some(Survey { marks: [(key("a"), mark)].into(), ..Survey::default() });
    for (mark, then) in [(1, vec!["visit a"]), (1, vec![]), (2, vec!["visit a"])] {
        now += RESYNC;
        assert_eq!(names(&jobs(&mut agenda, now)), ["survey"]);
        agenda.surveyed(same(mark), now);
        let visits = jobs(&mut agenda, now);
        assert_eq!(names(&visits), then);
        for job in &visits {
            let Job::Visit { channel, .. } = job else { panic!("{job:?}") };
            agenda.visited(channel, report("a", false), now, 0.0);
        }
    }
    let settled = now + (RESYNC * SETTLED).mul_f64(0.8);
    assert_eq!(names(&jobs(&mut agenda, settled)), ["survey", "visit a"]);
}

#[test]
fn what_is_not_in_place_is_visited_with_every_resync() {
    let start = Instant::now();
    let mut agenda = ready(&["a"], start);
    let channel = visit(&mut agenda, start);
    let mut refused = report("a", false);
    if let Account::Reconciled(report) = &mut refused.account {
        report.programmed = ProgrammedReason::StreamRefused;
    }
    agenda.visited(&channel, refused, start, 0.0);
    let written = jobs(&mut agenda, start);
    let [Job::Write { channel, status, .. }] = written.as_slice() else { panic!("{written:?}") };
    let answer = object("a", 9, |object| object["status"] = json!(status));
    agenda.written(channel, status, Ok(answer), start, 0.0);
    let due = start + RESYNC.mul_f64(0.8);
    assert_eq!(names(&jobs(&mut agenda, due)), ["visit a"]);
}

#[test]
fn a_visit_that_failed_in_passing_is_repeated_and_a_change_does_not_wait_for_that() {
    let start = Instant::now();
    let mut agenda = ready(&["a"], start);
    let channel = visit(&mut agenda, start);
    agenda.visited(&channel, report("a", true), start, 1.0);
    let status = jobs(&mut agenda, start);
    assert_eq!(names(&status), ["write a"]);
    let [Job::Write { channel, status, .. }] = status.as_slice() else { panic!("{status:?}") };
    let gone = crate::leader::fenced_api::ApiError::Timeout { verb: "write", what: "a".into() };
    agenda.written(channel, status, Err(gone), start, 1.0);
    assert!(agenda.next_job(start, &wall()).is_none());
    let changed = object("a", 9, |object| object["metadata"]["generation"] = json!(2));
    agenda.take_channel(0, watcher::Event::Apply(changed), BTreeSet::new, start);
    assert_eq!(names(&jobs(&mut agenda, start)), ["visit a"]);
}

#[test]
fn what_a_channel_left_is_cleared_away_and_looked_at_again() {
    let start = Instant::now();
    let mut agenda = ready(&["a"], start);
    let channel = visit(&mut agenda, start);
    agenda.visited(&channel, report("a", false), start, 0.0);
    agenda.take_channel(0, watcher::Event::Delete(object("a", 9, |_| {})), BTreeSet::new, start);
    assert_eq!(names(&jobs(&mut agenda, start)), ["leave a true"]);
    let later = Duration::from_secs(15);
    agenda.left(&key("a"), Ok(Some(later)), start, 0.0);
    assert!(agenda.next_job(start, &wall()).is_none());
    let again = jobs(&mut agenda, start + later);
    let [Job::Leave { marked, .. }] = again.as_slice() else { panic!("{again:?}") };
    assert_eq!(*marked, Some(later));
}

#[test]
fn what_is_not_watched_is_not_known_to_be_gone() {
    let start = Instant::now();
    let mut agenda = Agenda::new(Terms { namespaces: vec!["shop".into()], ..terms() }, true, start);
    agenda.broker(true, start);
    agenda.take_channel(0, watcher::Event::Init, BTreeSet::new, start);
    agenda.take_channel(0, watcher::Event::InitDone, BTreeSet::new, start);
    let routed = [key("a"), ChannelKey::new("bank", "b")].into();
    agenda.take_routes(BTreeSet::new(), true, || routed, start);
    let sweepable = [key("c"), ChannelKey::new("bank", "d")].into();
    assert_eq!(names(&jobs(&mut agenda, start)), ["survey"]);
    agenda.surveyed(Some(Survey { sweepable, ..Survey::default() }), start);
    assert_eq!(names(&jobs(&mut agenda, start)), ["leave a true", "leave c true"]);
}

#[test]
fn conflicts_over_subjects_concern_both_channels() {
    let start = Instant::now();
    let grant = json!({ "namespaces": ["*"], "subjects": ["orders.>"] });
    let grants = SubjectGrants::new(vec![serde_json::from_value(grant).unwrap()]).unwrap();
    let installation = Arc::new(Installation { grants, ..Installation::default() });
    let mut agenda = Agenda::new(Terms { installation, ..terms() }, true, start);
    agenda.broker(true, start);
    list(&mut agenda, &[], start);
    jobs(&mut agenda, start);
    agenda.surveyed(Some(Survey::default()), start);
    for (version, name, created) in [(1, "younger", "2026-11-02T00:00:00Z"), (2, "older", "2026-11-01T00:00:00Z")] {
        let channel = object(name, version, |object| {
            object["spec"] = json!({ "subjects": ["orders.new"] });
            object["metadata"]["creationTimestamp"] = json!(created);
        });
        agenda.take_channel(0, watcher::Event::Apply(channel), BTreeSet::new, start);
    }
    for job in jobs(&mut agenda, start) {
        let Job::Visit { channel, objection, .. } = job else { panic!("{job:?}") };
        let expected =
            (channel.key.name == "younger").then_some("orders.new belongs to the Channel shop/older, which is older");
        assert_eq!(objection.map(|objection| objection.message).as_deref(), expected);
        agenda.visited(&channel, report(&channel.key.name, false), start, 0.0);
    }
    jobs(&mut agenda, start);
    // The older one goes, and gives its subject free; its stream held nothing.
    agenda.take_channel(0, watcher::Event::Delete(object("older", 9, |_| {})), BTreeSet::new, start);
    let freed = jobs(&mut agenda, start);
    let free = freed
        .iter()
        .any(|job| matches!(job, Job::Visit { objection: None, channel, .. } if channel.key == key("younger")));
    assert!(free, "{freed:?}");
}

#[test]
fn at_most_so_many_statuses_and_visits_at_a_time() {
    let start = Instant::now();
    let many: Vec<String> = (0..100).map(|number| format!("c{number:03}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut agenda = ready(&names, start);
    let visits = jobs(&mut agenda, start);
    assert_eq!(visits.len(), MOST_VISITS);
    for job in &visits {
        let Job::Visit { channel, .. } = job else { panic!("{job:?}") };
        agenda.visited(channel, report(&channel.key.name, false), start, 0.0);
    }
    // One at once, and then one every 10 ms.
    let next = jobs(&mut agenda, start);
    let writes = |jobs: &[Job]| jobs.iter().filter(|job| matches!(job, Job::Write { .. })).count();
    assert_eq!((writes(&next), next.len()), (1, 1 + MOST_VISITS));
    let later = start + Duration::from_millis(30);
    assert_eq!(writes(&jobs(&mut agenda, later)), 3);
    assert_eq!(writes(&jobs(&mut agenda, start + Duration::from_secs(1))), MOST_WRITES - 4);
}

// long: one story, step by step.
#[test]
fn a_channel_that_waits_for_gateways_is_visited_when_one_of_them_speaks_or_after_a_while() {
    use tidings_crds::beat::{ChannelBeat, Sender};
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut agenda = ready(&["a", "b"], start);
    let slice = json!({
        "metadata": { "name": "s" }, "addressType": "IPv4",
        "endpoints": [{ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "uid": "g", "name": "gateway-0" } }],
    });
    agenda.take_slice(watcher::Event::Init, start);
    agenda.take_slice(watcher::Event::InitApply(serde_json::from_value(slice).unwrap()), start);
    agenda.take_slice(watcher::Event::InitDone, start);
    let visits = |agenda: &mut Agenda, now: Instant| -> Vec<(Box<ObservedChannel>, Rollout)> {
        let mut visits = Vec::new();
        while let Some(job) = agenda.next_job(now, &wall()) {
            match job {
                Job::Visit { channel, rollout, .. } => visits.push((channel, rollout)),
                Job::Write { channel, status, .. } => {
                    let failed = ApiError::Timeout { verb: "write", what: String::new() };
                    agenda.written(&channel, &status, Err(failed), now, 0.0);
                }
                Job::Survey => agenda.surveyed(Some(Survey::default()), now),
                other @ Job::Leave { .. } => panic!("{other:?}"),
            }
        }
        visits
    };
    let waiting = || {
        let unusable = Report::unusable(key("a"), AcceptedReason::Accepted, "Good.".into(), None);
        let report = Report { programmed: ProgrammedReason::Pending, awaits: Some("0a".into()), ..unusable };
        Visited { account: Account::Reconciled(Box::new(report)), object: None, again: false }
    };
    let first = visits(&mut agenda, start);
    assert_eq!(first.len(), 2);
    agenda.visited(&first[0].0, waiting(), start, 0.0);
    agenda.visited(&first[1].0, report("b", false), start, 0.0);

    // A beat about it hastens the visit, one about another does not.
    let sender = Sender::new("tidings-system/tidings".parse().unwrap(), "g", "gateway-0", "r").unwrap();
    let say = |agenda: &mut Agenda, number: u64, name: &str, digest: &str, now: Instant| {
        let said = ChannelBeat { digest: Some(digest.into()), subscribers: 0 };
        for beat in sender.beat(number, false, [(key(name), said)].into(), usize::MAX) {
            agenda.take_beat(beat, now);
        }
    };
    say(&mut agenda, 1, "a", "0b", at(10));
    let second = visits(&mut agenda, at(10));
    let [(channel, rollout)] = second.as_slice() else { panic!("{second:?}") };
    assert_eq!(rollout.gateways, Some(vec![("gateway-0".to_owned(), Some("0b".to_owned()))]));
    assert_eq!(rollout.waited, Some(("0a".to_owned(), Duration::from_millis(10))));
    assert!(!rollout.has_reached("0a"));
    agenda.visited(channel, waiting(), at(20), 0.0);
    say(&mut agenda, 2, "b", "0c", at(30));
    assert_eq!(visits(&mut agenda, at(30)).len(), 0);
    say(&mut agenda, 3, "a", "0a", at(40));
    let third = visits(&mut agenda, at(40));
    assert!(third[0].1.has_reached("0a"), "{third:?}");

    // One that says nothing more is waited for until the time is over.
    agenda.visited(&third[0].0, waiting(), at(50), 0.0);
    say(&mut agenda, 4, "a", "0b", at(60));
    let mut now = at(60);
    loop {
        let visits = visits(&mut agenda, now);
        if let Some((channel, rollout)) = visits.iter().find(|(channel, _)| channel.key == key("a")) {
            if rollout.has_reached("0a") {
                break;
            }
            agenda.visited(channel, waiting(), now, 0.0);
        }
        now += Duration::from_secs(1);
        assert!(now < start + ON_KUBERNETES + LOOK_AT_ROLLOUT + Duration::from_secs(2));
    }
    assert!(now >= start + ON_KUBERNETES);
}

#[test]
fn a_quota_refuses_the_younger_channel_until_the_older_one_goes() {
    let start = Instant::now();
    let quota = json!([{ "namespaces": ["shop"], "channels": 1 }]);
    let quotas = Quotas::new(serde_json::from_value(quota).unwrap()).unwrap();
    let subjects = vec!["orders.>".parse().unwrap()];
    let grants = SubjectGrants::new(vec![SubjectGrant { namespaces: vec!["shop".into()], subjects }]).unwrap();
    let installation = Arc::new(Installation { grants, quotas, ..Installation::default() });
    let mut agenda = Agenda::new(Terms { installation, ..terms() }, true, start);
    agenda.broker(true, start);
    list(&mut agenda, &[], start);
    jobs(&mut agenda, start);
    agenda.surveyed(Some(Survey::default()), start);
    for (version, name, created) in [(1, "younger", "2026-11-02T00:00:00Z"), (2, "older", "2026-11-01T00:00:00Z")] {
        let channel = object(name, version, |object| {
            object["spec"] = json!({ "subjects": ["orders.new"] });
            object["metadata"]["creationTimestamp"] = json!(created);
        });
        agenda.take_channel(0, watcher::Event::Apply(channel), BTreeSet::new, start);
    }
    for job in jobs(&mut agenda, start) {
        let Job::Visit { channel, objection, .. } = job else { panic!("{job:?}") };
        let expected = (channel.key.name == "younger").then_some(AcceptedReason::QuotaExceeded);
        assert_eq!(objection.map(|objection| objection.reason), expected);
        agenda.visited(&channel, report(&channel.key.name, false), start, 0.0);
    }
    jobs(&mut agenda, start);
    agenda.take_channel(0, watcher::Event::Delete(object("older", 9, |_| {})), BTreeSet::new, start);
    let freed = jobs(&mut agenda, start);
    let free = |job: &Job| matches!(job, Job::Visit { objection: None, channel, .. } if channel.key == key("younger"));
    assert!(freed.iter().any(free), "{freed:?}");
}
