//! Channels from files: what is read, what is skipped, and what every fault says and where.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod arbitrary;

use proptest::prelude::*;
use tidings_crds::channel::{Channel, Durability, Start};
use tidings_crds::key::ChannelKey;
use tidings_crds::manifest::{Content, Document, read};
use tidings_crds::{rule, schema};

const HEAD: &str = "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: { name: orders, namespace: shop }\n";

/// `LINE: PATH: MESSAGE` of every fault, in order; what is no fault does not appear.
fn faults(text: &str) -> Vec<String> {
    let faulty = read(text).into_iter().filter_map(|document| match document.content {
        Content::Faulty(faults) => Some(faults),
        _ => None,
    });
    faulty.flatten().map(|located| located.to_string()).collect()
}

fn channels(text: &str) -> Vec<Channel> {
    let documents = read(text).into_iter();
    documents
        .map(|document| match document.content {
            Content::Channel(channel) => *channel,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn one(text: &str) -> Channel {
    let mut channels = channels(text);
    assert_eq!(channels.len(), 1);
    channels.remove(0)
}

#[test]
fn a_channel_is_read_with_its_defaults() {
    let channel = one(HEAD);
    assert_eq!(channel.key(), ChannelKey::new("shop", "orders"));
    assert_eq!(channel.spec, tidings_crds::channel::ChannelSpec::default());

    let channel = one(&format!(
        "{HEAD}spec:\n  durability: Ephemeral\n  history: null\n  events: {{ heartbeatSeconds: 5, retryMilliseconds: null }}\nstatus: {{ x: 1 }}\n"
    ));
    assert_eq!(channel.spec.durability, Durability::Ephemeral);
    assert_eq!(channel.spec.history, None);
    assert_eq!((channel.spec.events.heartbeat_seconds, channel.spec.events.retry_milliseconds), (5, 3000));
    assert_eq!(channel.spec.events.from, Start::New);
}

#[test]
fn what_an_api_server_has_added_is_dropped() {
    let channel = one("apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata:
  name: orders
  uid: 0-1
  generation: 7
  resourceVersion: '5'
  creationTimestamp: '2026-11-01T00:00:00Z'
  labels: { team: shop }
  annotations: { tidings.dev/abandon-stream: 'true' }
");
    assert_eq!(channel.key(), ChannelKey::new("default", "orders"));
    assert_eq!((channel.metadata.uid, channel.metadata.generation), (None, None));
    assert_eq!(channel.metadata.labels.unwrap().len(), 1);
    assert_eq!(channel.metadata.annotations.unwrap().len(), 1);
}

#[test]
fn a_channel_of_another_api_version_is_a_fault_and_a_kind_of_others_is_not() {
    for wrong in
        ["channels.tidings.dev/v1alpha1", "tidings/v1alpha1", "v1alpha1", "v1", "tidings.dev", "tidings.dev/v1"]
    {
        let text = format!("# A comment.\napiVersion: {wrong}\nkind: Channel\nmetadata: {{ name: orders }}\n");
        assert_eq!(faults(&text), [format!("2: apiVersion: write tidings.dev/v1alpha1, not {wrong}")]);
    }
    assert!(faults("apiVersion: messaging.knative.dev/v1\nkind: Channel\nmetadata: { name: orders }\n").is_empty());
}

#[test]
fn byte_order_marks_stand_before_any_document() {
    let text = format!("\u{feff}{HEAD}---\n\u{feff}# Joined.\n\u{feff}{}\u{feff}---\n{}", named("b"), named("c"));
    assert_eq!(channels(&text).len(), 3);
    assert_eq!(faults(&format!("\u{feff}{HEAD}spec: {{ colour: red }}\n")).len(), 1);
    // Anywhere else it is what it is: a character.
    let text = format!("{HEAD}spec: {{ access: {{ subscribe: {{ topics: ['\u{feff}a'] }} }} }}\n");
    assert_eq!(one(&text).spec.access.subscribe.topics, ["\u{feff}a"]);
}

fn named(name: &str) -> String {
    HEAD.replace("name: orders", &format!("name: {name}"))
}

#[test]
fn a_text_that_is_nested_too_deep_is_refused_before_it_is_parsed() {
    let begun = std::time::Instant::now();
    let deep = format!("{HEAD}spec: {}", "[".repeat(4 << 20));
    assert_eq!(faults(&deep), ["4: nested more than 128 deep, which is no manifest"]);
    let json = format!("{}{}", "{\"a\":".repeat(1 << 20), "1");
    assert_eq!(faults(&json).len(), 1);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_document_full_of_faults_is_told_in_a_few() {
    let fields: String = (0..20_000).map(|number| format!("  x{number}: 1\n")).collect();
    let faults = faults(&format!("{HEAD}spec:\n{fields}"));
    assert_eq!((faults.len(), faults[0].as_str()), (33, "1: and 19968 more faults"));
}

#[test]
fn documents_and_lists_are_read_one_by_one() {
    let text = format!(
        "# A file.\n---\n{HEAD}---\n# Nothing here.\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: x }}\n--- # next\n
apiVersion: v1
kind: List
items:
- apiVersion: tidings.dev/v1alpha1
  kind: Channel
  metadata: {{ name: a }}
- apiVersion: tidings.dev/v1alpha1
  kind: Channel
  metadata: {{ name: b }}
  spec: {{ wrong: 1 }}
- {{ apiVersion: messaging.knative.dev/v1, kind: Channel, metadata: {{ name: c }} }}
"
    );
    let read = read(&text);
    let shape = |document: &Document| {
        let content = match &document.content {
            Content::Channel(_) => "channel",
            Content::Skipped { kind } => kind,
            Content::Faulty(_) => "faulty",
        };
        (document.line, document.key.as_ref().map(ToString::to_string), content.to_owned())
    };
    let key = |key: &str| Some(key.to_owned());
    assert_eq!(
        read.iter().map(shape).collect::<Vec<_>>(),
        [
            (3, key("shop/orders"), "channel".to_owned()),
            (9, None, "v1 ConfigMap".to_owned()),
            (17, key("default/a"), "channel".to_owned()),
            (20, key("default/b"), "faulty".to_owned()),
            (24, None, "messaging.knative.dev/v1 Channel".to_owned()),
        ]
    );
    let known = "access, className, cors, durability, events, history, limits, subjects";
    assert_eq!(faults(&text), [format!("23: items[1].spec.wrong: unknown field; the fields here are {known}")]);
}

#[test]
fn one_bad_document_never_spoils_the_others() {
    let text = format!("{HEAD}---\na: [\n---\n{}", HEAD.replace("orders", "other"));
    let read = read(&text);
    assert_eq!(read.len(), 3);
    assert!(matches!(read[0].content, Content::Channel(_)));
    assert!(matches!(read[2].content, Content::Channel(_)));
    let faults = faults(&text);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("6: no YAML: "), "{faults:?}");
}

#[test]
fn every_fault_names_its_line_field_and_remedy() {
    let text = format!(
        "{HEAD}extra: 1
spec:
  durability: Sometimes
  subjects: orders.>
  history:
    maxAgeSeconds: 0
    maxMessages: many
    replicas: 6
    storage: Tape
  events:
    retryMilliseconds: 100
    maxEventBytes: []
    heartbeat: 1
  access:
    tokenSources: []
    issuers: [Main]
    subscribe:
      topics: ['', 1]
  cors:
    allowCredentials: 'yes'
"
    );
    assert_eq!(
        faults(&text),
        [
            "4: extra: unknown field; the fields here are apiVersion, kind, metadata, spec",
            "6: spec.durability: write Durable or Ephemeral, not \"Sometimes\"",
            "7: spec.subjects: write a list, not a text",
            "9: spec.history.maxAgeSeconds: write at least 1",
            "10: spec.history.maxMessages: write a whole number, not a text",
            "11: spec.history.replicas: write at most 5",
            "12: spec.history.storage: write File or Memory, not \"Tape\"",
            "14: spec.events.retryMilliseconds: write at least 500",
            "15: spec.events.maxEventBytes: write a number or a text, not a list",
            "16: spec.events.heartbeat: unknown field; the fields here are encoding, from, heartbeatSeconds, maxEventBytes, retryMilliseconds",
            "18: spec.access.tokenSources: write something here, or leave the field out",
            "19: spec.access.issuers[0]: write lower case letters, digits and dashes, not \"Main\"",
            "21: spec.access.subscribe.topics[0]: write something here, or leave the field out",
            "21: spec.access.subscribe.topics[1]: write a text, not a number",
            "23: spec.cors.allowCredentials: write true or false, not a text",
        ]
    );
}

#[test]
fn rules_over_the_whole_are_told_with_their_line() {
    let text = "apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata:
  name: my.orders
spec:
  durability: Ephemeral
  history: {}
  access:
    subscribe:
      mode: Public
";
    let faults = faults(text);
    let places: Vec<_> = faults.iter().map(|fault| fault.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(places, ["4 metadata.name", "7 spec.history", "9 spec.access.subscribe.topics"]);
    assert!(faults[2].ends_with(r#"write topics: [">"] for all topics"#), "{faults:?}");
}

#[test]
fn what_is_no_manifest_says_what_one_is() {
    let cases = [
        ("just text\n", "1: a manifest is an object with apiVersion, kind, metadata and spec"),
        ("- a\n", "1: a manifest is an object with apiVersion, kind, metadata and spec"),
        ("\nkind: Channel\n", "2: apiVersion: a manifest says its apiVersion: for a Channel, tidings.dev/v1alpha1"),
        ("apiVersion: tidings.dev/v1alpha1\nKind: x\n", "1: kind: a manifest says its kind: for a Channel, Channel"),
        (
            "apiVersion: tidings.dev/v1\nkind: Channel\n",
            "1: apiVersion: write tidings.dev/v1alpha1, not tidings.dev/v1",
        ),
        ("apiVersion: tidings.dev/v1alpha1\nkind: Chanel\n", "2: kind: write Channel, not Chanel"),
        ("apiVersion: tidings.dev/v1alpha1\nkind: Channel\n", "1: metadata: write metadata with the Channel's name"),
        (
            "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: {}\n",
            "3: metadata.name: write the Channel's name",
        ),
        (
            "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata:\n  name: a\n  namespace: A.b\n",
            "5: metadata.namespace: a namespace is a DNS label, as in shop",
        ),
        (
            "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: { name: 5 }\n",
            "3: metadata.name: a name is a text, as in orders",
        ),
        (
            "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: { name: a, label: {} }\n",
            "3: metadata.label: unknown field; the fields here are name, namespace, labels, annotations",
        ),
        (
            "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: { name: a, labels: { x: 1 } }\n",
            "3: metadata.labels.x: write a text, in quotes where it looks like something else",
        ),
        ("a: 1\na: 2\n", "1: no YAML: duplicate entry with key \"a\""),
        ("a:\n  1: 2\n", "1: a: a field's name is a text; write it in quotes if it looks like something else"),
        ("a: .inf\n", "1: a: .inf is not a number in JSON"),
        ("a: !x 1\n", "1: a: tags such as !x have no meaning here"),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(text), [expected], "{text}");
    }
    let huge = format!("{HEAD}spec: {{ history: {{ maxMessages: 9223372036854775808 }} }}");
    assert_eq!(
        faults(&huge),
        ["4: spec.history.maxMessages: write a whole number of at most 63 bits, not 9223372036854775808"]
    );
}

#[test]
fn the_same_channel_twice_in_a_file_is_a_fault_of_the_second() {
    let text = format!("{HEAD}---\n{HEAD}---\n{}", HEAD.replace("shop", "bank"));
    assert_eq!(
        faults(&text),
        ["5: metadata.name: the Channel shop/orders stands at line 1 already: leave one of the two out"]
    );
    assert_eq!(read(&text).len(), 3);
}

#[test]
fn files_with_carriage_returns_and_merge_keys_are_read() {
    let text = format!("---\n{HEAD}---\n{}", HEAD.replace("orders", "other")).replace('\n', "\r\n");
    assert_eq!(channels(&text).len(), 2);
    let channel = one(&format!(
        "{HEAD}spec:\n  access:\n    subscribe: &open {{ mode: Public, topics: ['>'] }}\n    publish:\n      <<: *open\n      topics: [a]\n"
    ));
    assert_eq!(channel.spec.access.publish.topics, ["a"]);
    assert_eq!(read("").len() + read("---\n---\n# x\n").len(), 0);
    assert_eq!(channels(r#"{"apiVersion":"tidings.dev/v1alpha1","kind":"Channel","metadata":{"name":"a"}}"#).len(), 1);
}

#[test]
fn every_example_in_the_documentation_is_in_order() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            count += channels(&std::fs::read_to_string(&path).unwrap()).len();
        }
    }
    assert!(count > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A Channel written as YAML is refused exactly for what its parts are refused for, and reads back unchanged.
    #[test]
    fn a_written_channel_reads_back(spec in arbitrary::spec(), name in arbitrary::name()) {
        let mut channel = Channel::new(&name, spec);
        channel.metadata.namespace = Some("shop".to_owned());
        let raw = serde_json::to_value(&channel.spec).unwrap();
        let mut expected = schema::faults("spec", &raw);
        if expected.is_empty() {
            expected = rule::broken(&name, &channel.spec);
        }
        let documents = read(&serde_yaml::to_string(&channel).unwrap());
        prop_assert_eq!(documents.len(), 1);
        match &documents[0].content {
            Content::Channel(read) => prop_assert_eq!(&**read, &channel),
            Content::Faulty(found) => {
                let mut found: Vec<_> = found.iter().map(|located| located.fault.clone()).collect();
                found.sort();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
            Content::Skipped { kind } => prop_assert!(false, "{kind}"),
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>(), yaml in "([a-c]: |- |\\[|\\{|\\}|---\n|\n|  |'|&a|\\*a|!t |1|#){0,30}") {
        read(&text);
        read(&yaml);
        read(&format!("{HEAD}spec:\n  {yaml}"));
    }
}
