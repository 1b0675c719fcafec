//! The step from a Channel to stream and Route, or to a refusal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod arbitrary;

use std::time::Duration;

use insta::{assert_debug_snapshot, assert_snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidings_crds::channel::{Channel, ChannelSpec, ReclaimPolicy, Storage};
use tidings_crds::claims::{Claim, Claims};
use tidings_crds::condition::AcceptedReason;
use tidings_crds::desired::{Desired, Installation, Rejection, Verdict, desired, subjects};
use tidings_crds::grants::{SubjectGrant, SubjectGrants};
use tidings_crds::route::{Route, RouteSource};
use tidings_crds::rule;
use tidings_crds::schema;
use tidings_crds::stream::StreamSpec;
use tidings_crds::subject::Pattern;
use tidings_crds::topic::TopicSpace;

fn channel(namespace: &str, name: &str, spec: Value) -> Channel {
    let spec: ChannelSpec = serde_json::from_value(spec).unwrap();
    let mut channel = Channel::new(name, spec);
    channel.metadata.namespace = Some(namespace.to_owned());
    channel.metadata.generation = Some(3);
    channel.metadata.uid = Some("0b7c".to_owned());
    channel
}

fn installation(grants: &[(&str, &str)]) -> Installation {
    let grant = |(namespace, subject): &(&str, &str)| SubjectGrant {
        namespaces: vec![(*namespace).to_owned()],
        subjects: vec![subject.parse().unwrap()],
    };
    let grants = SubjectGrants::new(grants.iter().map(grant).collect()).unwrap();
    Installation { cluster: "prod".to_owned(), grants, ..Installation::default() }
}

fn accepted(spec: Value) -> Desired {
    match desired(&channel("shop", "orders", spec), &installation(&[("shop", "orders.>"), ("shop", "audit")]), None) {
        Verdict::Accepted(desired) => *desired,
        Verdict::Rejected(rejection) => panic!("{rejection:?}"),
    }
}

fn rejected(spec: Value) -> (AcceptedReason, String) {
    match desired(&channel("shop", "orders", spec), &installation(&[("shop", "orders.>")]), None) {
        Verdict::Accepted(desired) => panic!("{desired:?}"),
        Verdict::Rejected(Rejection { reason, message }) => (reason, message),
    }
}

#[test]
fn an_empty_specification_gives_a_stream_with_the_defaults() {
    assert_debug_snapshot!(accepted(json!({})).stream.unwrap(), @r#"
    StreamSpec {
        name: "TIDINGS_shop_orders",
        subjects: [
            "tidings.shop.orders",
            "tidings.shop.orders.>",
        ],
        max_age: Some(
            86400s,
        ),
        max_messages: Some(
            1000000,
        ),
        max_bytes: Some(
            1073741824,
        ),
        max_messages_per_subject: None,
        max_message_size: None,
        storage: File,
        replicas: 1,
        duplicate_window: 120s,
        retention: Limits,
        discard: Old,
        allow_direct: true,
        allow_msg_ttl: true,
        subject_delete_marker_ttl: None,
        republish: Some(
            Republish {
                source: ">",
                destination: "tidings-live.TIDINGS_shop_orders.>",
                headers_only: false,
            },
        ),
        no_ack: false,
        sealed: false,
        has_origins: false,
        transforms_subjects: false,
        metadata: {
            "tidings.dev/cluster": "prod",
            "tidings.dev/name": "orders",
            "tidings.dev/namespace": "shop",
            "tidings.dev/uid": "0b7c",
        },
    }
    "#);
}

#[test]
fn an_empty_specification_gives_a_route_with_the_defaults() {
    let desired = accepted(json!({}));
    assert_eq!(
        desired.subjects.iter().map(Pattern::as_str).collect::<Vec<_>>(),
        ["tidings.shop.orders", "tidings.shop.orders.>"]
    );
    assert_snapshot!(desired.route.to_yaml(), @r"
    version: 1
    namespace: shop
    name: orders
    generation: 3
    state: Active
    source:
      durability: Durable
      stream: TIDINGS_shop_orders
    topics:
      kind: Below
      base: tidings.shop.orders
    events:
      from: New
      encoding: Text
      heartbeatSeconds: 8
      retryMilliseconds: 3000
      maxEventBytes: 48000
    access:
      tokenSources:
      - Header
      - Cookie
      subscribe:
        mode: Token
        topics: []
      publish:
        mode: Disabled
        topics: []
    cors:
      origins: []
      allowCredentials: false
    limits: {}
    ");
}

#[test]
fn everything_written_comes_through() {
    let desired = accepted(json!({
        "subjects": ["orders.>", "audit"],
        "history": {
            "maxAgeSeconds": 60, "maxMessages": 5, "maxBytes": "2Mi", "maxMessagesPerTopic": 1, "storage": "Memory",
            "replicas": 3, "reclaimPolicy": "Delete",
        },
        "events": {
            "from": "LastPerTopic", "encoding": "Base64", "heartbeatSeconds": 5, "retryMilliseconds": 500,
            "maxEventBytes": 10,
        },
        "access": {
            "issuers": ["main"], "tokenSources": ["Query"],
            "subscribe": { "mode": "Token", "topics": ["orders.{sub}"] },
            "publish": { "mode": "Public", "topics": [">"] },
        },
        "cors": { "origins": ["https://shop.example"], "allowCredentials": true },
        "limits": { "connections": 1, "connectionsPerClient": 2, "publishPerSecond": 3, "connectsPerSecond": 4 },
    }));
    assert_snapshot!(desired.route.to_yaml(), @r"
    version: 1
    namespace: shop
    name: orders
    generation: 3
    state: Active
    source:
      durability: Durable
      stream: TIDINGS_shop_orders
      maxMessagesPerTopic: 1
    topics:
      kind: Whole
      subjects:
      - orders.>
      - audit
    events:
      from: LastPerTopic
      encoding: Base64
      heartbeatSeconds: 5
      retryMilliseconds: 500
      maxEventBytes: 10
    access:
      issuers:
      - main
      tokenSources:
      - Query
      subscribe:
        mode: Token
        topics:
        - orders.{sub}
      publish:
        mode: Public
        topics:
        - '>'
    cors:
      origins:
      - https://shop.example
      allowCredentials: true
    limits:
      connections: 1
      connectionsPerClient: 2
      publishPerSecond: 3
      connectsPerSecond: 4
    ");
    assert_eq!(desired.reclaim_policy, ReclaimPolicy::Delete);
    let defaults = accepted(json!({})).stream.unwrap();
    let expected = StreamSpec {
        subjects: vec!["orders.>".to_owned(), "audit".to_owned()],
        max_age: Some(Duration::from_secs(60)),
        max_messages: Some(5),
        max_bytes: Some(2 << 20),
        max_messages_per_subject: Some(1),
        storage: Storage::Memory,
        replicas: 3,
        duplicate_window: Duration::from_secs(60),
        ..defaults
    };
    assert_eq!(desired.stream, Some(expected));
}

#[test]
fn an_ephemeral_channel_has_no_stream() {
    let desired = accepted(json!({ "durability": "Ephemeral" }));
    assert_eq!(desired.stream, None);
    assert_eq!(desired.route.source, RouteSource::Ephemeral);
}

#[test]
fn a_history_that_is_there_limits_only_what_it_says() {
    let stream = accepted(json!({ "history": { "maxMessagesPerTopic": 1 } })).stream.unwrap();
    assert_eq!((stream.max_age, stream.max_messages, stream.max_bytes), (None, None, None));
    assert_eq!(stream.max_messages_per_subject, Some(1));
    assert_eq!(stream.duplicate_window.as_secs(), 120);
    let short = accepted(json!({ "history": { "maxAgeSeconds": 30 } })).stream.unwrap();
    assert_eq!(short.duplicate_window.as_secs(), 30);
    let own = accepted(json!({ "history": { "maxAgeSeconds": 300, "duplicateWindowSeconds": 200 } })).stream.unwrap();
    assert_eq!(own.duplicate_window.as_secs(), 200);
}

#[test]
fn every_refusal_has_its_reason() {
    use AcceptedReason::{InvalidSpec, InvalidSubjects, SubjectNotGranted};
    let cases = [
        (json!({ "subjects": ["a b"] }), InvalidSubjects, "spec.subjects: a subject is at most 32 tokens"),
        (json!({ "subjects": ["$JS.>"] }), InvalidSubjects, "spec.subjects: a subject starts with a token of its own"),
        (
            json!({ "subjects": ["orders.>", "orders.new"] }),
            InvalidSubjects,
            "orders.new overlaps orders.>, and NATS stores a message once",
        ),
        (json!({ "subjects": ["é".repeat(200)] }), InvalidSubjects, "a subject has at most 255 bytes"),
        (
            json!({ "subjects": ["orders.new", "other"] }),
            SubjectNotGranted,
            "no grant of the administrator gives other to the namespace shop",
        ),
        (json!({ "subjects": ["tidings.bank.orders"] }), SubjectNotGranted, "tidings.bank.orders is not below"),
        (json!({ "events": { "heartbeatSeconds": 0 } }), InvalidSpec, "spec.events.heartbeatSeconds: write at least 1"),
        (
            json!({ "subjects": ["a b"], "access": { "publish": { "mode": "Public" } } }),
            InvalidSpec,
            "spec.access.publish.topics: mode Public makes",
        ),
    ];
    for (spec, reason, message) in cases {
        let found = rejected(spec);
        assert_eq!(found.0, reason, "{found:?}");
        assert!(found.1.contains(message), "{found:?}");
    }
}

#[test]
fn a_name_that_is_no_label_is_refused() {
    for (namespace, name) in
        [("shop", "my.orders"), ("", "orders"), ("shop", ""), ("shop", "Orders"), ("a.b", "orders")]
    {
        let verdict = desired(&channel(namespace, name, json!({})), &installation(&[]), None);
        let Verdict::Rejected(rejection) = verdict else { panic!("{verdict:?}") };
        assert_eq!(rejection.reason, AcceptedReason::InvalidName);
        assert!(rejection.message.contains(&format!("{namespace}/{name}")));
    }
}

#[test]
fn the_longest_names_fit() {
    let longest = "a".repeat(63);
    let channel = channel(&longest, &longest, json!({}));
    let Verdict::Accepted(desired) = desired(&channel, &installation(&[]), None) else { panic!() };
    let stream = desired.stream.unwrap();
    assert!(stream.name.len() < 255 && stream.republish.unwrap().destination.len() < 255);
}

#[test]
fn a_conflict_refuses_an_otherwise_good_channel() {
    let installation = installation(&[("*", "orders.>")]);
    let mut claims = Claims::default();
    for (namespace, created) in [("shop", 1), ("bank", 2)] {
        let channel = channel(namespace, "orders", json!({ "subjects": ["orders.new"] }));
        let subjects = subjects(&channel, &installation.grants).unwrap();
        claims.set(channel.key(), Claim { created: Some(created), subjects, held: Vec::new() });
    }
    let conflicts = claims.conflicts();
    let verdict = |namespace: &str| {
        let channel = channel(namespace, "orders", json!({ "subjects": ["orders.new"] }));
        desired(&channel, &installation, conflicts.get(&channel.key()).map(Rejection::from).as_ref())
    };
    assert!(matches!(verdict("shop"), Verdict::Accepted(_)));
    let message = "orders.new belongs to the Channel shop/orders, which is older".to_owned();
    assert_eq!(verdict("bank"), Verdict::Rejected(Rejection { reason: AcceptedReason::SubjectConflict, message }));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written: no panic, a verdict that is the rules' verdict, and a Route that reads back.
    #[test]
    fn every_specification_has_a_verdict(
        spec in arbitrary::spec(),
        name in arbitrary::name(),
        namespace in arbitrary::name(),
    ) {
        let mut channel = Channel::new(&name, spec);
        channel.metadata.namespace = Some(namespace.clone());
        let installation = installation(&[("orders", "orders.>"), ("*", "news.*")]);
        match desired(&channel, &installation, None) {
            Verdict::Accepted(desired) => {
                prop_assert_eq!(rule::broken(&name, &channel.spec), []);
                let again = self::desired(&channel.clone(), &installation, None);
                prop_assert_eq!(&again, &Verdict::Accepted(desired.clone()));
                let route = desired.route;
                prop_assert_eq!(&Route::from_yaml(&route.to_yaml()).unwrap(), &route);
                prop_assert_eq!(route.digest(), Route::from_yaml(&route.to_yaml()).unwrap().digest());
                prop_assert_eq!(desired.stream.is_none(), route.source == RouteSource::Ephemeral);
                for subject in &desired.subjects {
                    prop_assert!(installation.grants.allow(&channel.key(), subject).is_ok());
                    let inside = match &route.topics {
                        TopicSpace::Below { base } => subject.as_str().starts_with(base.as_str()),
                        TopicSpace::Whole { subjects } => subjects.contains(subject),
                    };
                    prop_assert!(inside);
                }
            }
            Verdict::Rejected(rejection) => prop_assert!(!rejection.message.is_empty()),
        }
    }

    /// Whatever the API server and `check` let pass, gateways take: only subjects can be refused after that.
    #[test]
    fn what_schema_and_rules_accept_gives_a_route_that_gateways_take(spec in arbitrary::spec()) {
        let raw = serde_json::to_value(&spec).unwrap();
        if !schema::faults("spec", &raw).is_empty() || !rule::broken("orders", &spec).is_empty() {
            return Ok(());
        }
        let mut channel = Channel::new("orders", spec);
        channel.metadata.namespace = Some("shop".to_owned());
        match desired(&channel, &installation(&[("shop", "orders.>"), ("shop", "news.>"), ("shop", "ä.>")]), None) {
            Verdict::Accepted(desired) => {
                let read = Route::from_yaml(&desired.route.to_yaml());
                prop_assert_eq!(read.unwrap(), desired.route);
            }
            Verdict::Rejected(Rejection { reason, message }) => {
                let overlap = reason == AcceptedReason::InvalidSubjects && message.contains(" overlaps ");
                prop_assert!(overlap || reason == AcceptedReason::SubjectNotGranted, "{reason}: {message}");
            }
        }
    }

    /// What one namespace may have, another never claims: only a grant to both can bring two Channels together.
    #[test]
    fn no_specification_reaches_into_another_namespace(spec in arbitrary::spec()) {
        let mut channel = Channel::new("orders", spec);
        channel.metadata.namespace = Some("bank".to_owned());
        let installation = installation(&[("shop", "orders.>"), ("shop", "news.>")]);
        if let Verdict::Accepted(desired) = desired(&channel, &installation, None) {
            let own: Pattern = "tidings.bank.orders.>".parse().unwrap();
            for subject in &desired.subjects {
                prop_assert!(own.contains(subject) || subject.as_str() == "tidings.bank.orders");
            }
        }
    }
}
