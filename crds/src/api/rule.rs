//! What a specification must satisfy beyond its schema, each rule twice: in CEL for the API server, and in Rust for the
//! operator and for manifests read without a cluster. A property test says that the two agree.
//!
//! CEL sees neither the namespace nor the grants of an installation; what depends on those is decided in
//! [`crate::desired`].

use std::sync::LazyLock;

use regex::Regex;
use schemars::Schema;
use serde_json::{Value, json};

use crate::api::access::AccessMode;
use crate::api::channel::{ChannelSpec, DEFAULT_CLASS, Durability};
use crate::api::events::Start;
use crate::api::history::Storage;
use crate::name::fault::Fault;
use crate::name::label::{BASE_PREFIX, is_label, is_reserved};
use crate::name::subject::{MAX_SUBJECT_BYTES, Pattern, PatternError};
use crate::name::template::{TemplateError, TopicTemplate, runs_together};

const _: () = assert!(MAX_SUBJECT_BYTES == 255, "the rules over subjects and topics spell it out");

/// No stream of NATS is larger: 1 PiB.
const MAX_STREAM_BYTES: u64 = 1 << 50;

/// The largest `max_payload` that a NATS server can be given.
const MAX_PAYLOAD_BYTES: u64 = 64 << 20;

/// The highest default of `duplicateWindowSeconds`; 2 minutes, as in NATS.
pub const DUPLICATE_WINDOW_SECONDS: i64 = 120;

/// One rule over a specification and the name of its Channel.
struct Rule {
    /// As the API server wants it, below `spec` or below the whole object; empty where it does not know the field.
    path: &'static str,
    cel: &'static str,
    message: &'static str,
    holds: fn(&str, &ChannelSpec) -> bool,
}

/// One rule over a change of a specification.
struct Transition {
    path: &'static str,
    cel: &'static str,
    message: &'static str,
    holds: fn(new: &ChannelSpec, old: &ChannelSpec) -> bool,
}

/// A subject or pattern, as [`Pattern`] reads it.
macro_rules! subject {
    () => {
        r"^(([^\s\pZ\p{Cc}.*>]+|[*])[.]){0,31}([^\s\pZ\p{Cc}.*>]+|[*]|>)$"
    };
}

/// A topic template, as [`TopicTemplate`] reads it.
macro_rules! topic {
    () => {
        r"^([.]|((([^\s\pZ\p{Cc}.*>{}]|[{][^\s\pZ\p{Cc}{}]+[}])+|[*])[.]){0,31}(([^\s\pZ\p{Cc}.*>{}]|[{][^\s\pZ\p{Cc}{}]+[}])+|[*]|>))$"
    };
}

/// What [`runs_together`] finds.
macro_rules! claims_run_together {
    () => {
        "[}][A-Za-z0-9_!~'()%-]*[{]"
    };
}

/// An origin as browsers serialise it (Fetch standard, `Origin`), any scheme: apps send their own. `*.` before a host of at
/// least two labels stands for one label: see [`crate::name::origin`].
macro_rules! origin {
    () => {
        r"^[a-z][a-z0-9+.-]*://([*][.][a-z0-9_-]+([.][a-z0-9_-]+)+|[a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$"
    };
}

/// The ports that browsers leave out.
macro_rules! default_port {
    () => {
        "^(http://.*:80|https://.*:443)$"
    };
}

/// Rules over the whole object: `self.metadata.name` is all that CEL sees of the metadata.
const OBJECT_RULES: [Rule; 2] = [
    Rule {
        path: "",
        cel: r"size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        message: "a Channel's name is a DNS label, because it becomes a part of NATS subjects: at most 63 lower case letters, digits and dashes, no dots",
        holds: |name, _| is_label(name),
    },
    Rule {
        path: ".spec.subjects",
        // No regular expression with the name in it: its length is unknown to the cost estimate, which would refuse it.
        cel: r"!has(self.spec.subjects) || self.spec.subjects.all(s, !s.startsWith('tidings.') || (size(s.split('.')) >= 3 && s.split('.')[2] == self.metadata.name && !(s.split('.')[1] in ['', '*', '>'])))",
        message: "below tidings. a Channel has only tidings.NAMESPACE.NAME of its own: leave spec.subjects out for these, or name subjects outside tidings.",
        holds: |name, spec| spec.subjects.iter().all(|subject| names_own_base(subject, name)),
    },
];

/// Rules over `spec`.
const SPEC_RULES: [Rule; 11] = [
    Rule {
        path: ".subjects",
        cel: concat!("!has(self.subjects) || self.subjects.all(s, s.matches(r'", subject!(), "'))"),
        message: "a subject is at most 32 tokens joined by dots, without spaces; the wildcard * stands for one whole token, > for all that follow: write orders.new, orders.* or orders.>",
        holds: |_, spec| spec.subjects.iter().all(|text| is_subject(text)),
    },
    Rule {
        path: ".subjects",
        cel: r"!has(self.subjects) || self.subjects.all(s, size(bytes(s)) <= 255)",
        message: "a subject has at most 255 bytes, and letters outside ASCII take two to four each: write a shorter one",
        holds: |_, spec| spec.subjects.iter().all(|text| text.len() <= MAX_SUBJECT_BYTES),
    },
    Rule {
        path: ".subjects",
        cel: r"!has(self.subjects) || self.subjects.all(s, !s.matches('^([$*>]|_INBOX|tidings-live([.]|$))'))",
        message: "a subject starts with a token of its own: not with a wildcard, $, _INBOX or tidings-live; write orders.>",
        holds: |_, spec| !spec.subjects.iter().any(|text| is_reserved(text)),
    },
    Rule {
        path: ".history",
        cel: r"!has(self.history) || !has(self.durability) || self.durability != 'Ephemeral'",
        message: "an Ephemeral channel keeps nothing: remove history, or write durability: Durable",
        holds: |_, spec| spec.history.is_none() || spec.durability == Durability::Durable,
    },
    Rule {
        path: ".history.maxBytes",
        cel: r"!has(self.history) || !has(self.history.maxBytes) || (string(self.history.maxBytes).matches('^[1-9][0-9]*([kMGT]|[KMGT]i)?$') && quantity(string(self.history.maxBytes)).compareTo(quantity('1024Ti')) <= 0)",
        message: "write a positive whole number of bytes, with k, M, G, T, Ki, Mi, Gi or Ti if you like, as in 1Gi; at most 1024Ti",
        holds: |_, spec| {
            let bytes = spec.history.as_ref().and_then(|history| history.max_bytes.as_ref());
            bytes.is_none_or(|quantity| quantity.bytes().is_ok_and(|bytes| bytes <= MAX_STREAM_BYTES))
        },
    },
    Rule {
        path: ".history.duplicateWindowSeconds",
        cel: r"!has(self.history) || !has(self.history.duplicateWindowSeconds) || !has(self.history.maxAgeSeconds) || self.history.duplicateWindowSeconds <= self.history.maxAgeSeconds",
        message: "duplicates are known only as long as events are kept: write a duplicateWindowSeconds of at most maxAgeSeconds, or leave it out",
        holds: |_, spec| match &spec.history {
            Some(history) => match (history.duplicate_window_seconds, history.max_age_seconds) {
                (Some(window), Some(age)) => window <= age,
                _ => true,
            },
            None => true,
        },
    },
    Rule {
        path: ".events.from",
        cel: r"!has(self.durability) || self.durability != 'Ephemeral' || !has(self.events) || !has(self.events.from) || self.events.from == 'New'",
        message: "an Ephemeral channel keeps nothing to start from: write from: New, or durability: Durable",
        holds: |_, spec| spec.durability == Durability::Durable || spec.events.from == Start::New,
    },
    Rule {
        path: ".events.maxEventBytes",
        cel: r"!has(self.events) || !has(self.events.maxEventBytes) || (string(self.events.maxEventBytes).matches('^[1-9][0-9]*([kMGT]|[KMGT]i)?$') && quantity(string(self.events.maxEventBytes)).compareTo(quantity('64Mi')) <= 0)",
        message: "write a positive whole number of bytes, with k, M, Ki or Mi if you like, as in 64Ki; at most 64Mi, which is the most that NATS carries",
        holds: |_, spec| spec.events.max_event_bytes.bytes().is_ok_and(|bytes| bytes <= MAX_PAYLOAD_BYTES),
    },
    Rule {
        path: ".cors.origins",
        cel: concat!(
            "!has(self.cors) || !has(self.cors.origins) || self.cors.origins.all(o, o == '*' || (o.matches(r'",
            origin!(),
            "') && !o.matches(r'",
            default_port!(),
            "')))"
        ),
        message: "write an origin as browsers send it: scheme, host and a port that is not the scheme's own, in lower case and without a path, as in https://shop.example or http://localhost:5173; *. before a host of two labels or more stands for one label, as in https://*.shop.example",
        holds: |_, spec| spec.cors.origins.iter().all(|text| is_origin(text)),
    },
    Rule {
        path: ".cors.origins",
        cel: r"!has(self.cors) || !has(self.cors.origins) || size(self.cors.origins) <= 1 || !self.cors.origins.exists(o, o == '*')",
        message: r#"* already stands for every origin: write origins: ["*"], or only others"#,
        holds: |_, spec| spec.cors.origins.len() <= 1 || !spec.cors.origins.iter().any(|origin| origin == "*"),
    },
    Rule {
        path: ".cors.allowCredentials",
        cel: r"!has(self.cors) || !has(self.cors.allowCredentials) || !self.cors.allowCredentials || (has(self.cors.origins) && size(self.cors.origins) > 0 && !self.cors.origins.exists(o, o.contains('*')))",
        message: r#"cookies go only to exact origins: write origins: ["https://shop.example"], or allowCredentials: false"#,
        holds: |_, spec| {
            let origins = &spec.cors.origins;
            !spec.cors.allow_credentials || (!origins.is_empty() && !origins.iter().any(|origin| origin.contains('*')))
        },
    },
];

/// The rules over one direction of `spec.access`.
macro_rules! direction_rules {
    ($name:literal, $field:ident) => {
        [
            Rule {
                path: concat!(".access.", $name, ".topics"),
                cel: concat!(
                    "!has(self.access) || !has(self.access.", $name, ") || !has(self.access.", $name, ".topics) || ",
                    "self.access.", $name, ".topics.all(t, t.matches(r'", topic!(), "'))"
                ),
                message: "a topic is at most 32 tokens joined by dots, without spaces; * stands for one whole token, > for all that follow, a claim stands in braces, a single dot is the empty topic: write all, news.*, orders.>, user.{sub} or .",
                holds: |_, spec| spec.access.$field.topics.iter().all(|text| is_template(text)),
            },
            Rule {
                path: concat!(".access.", $name, ".topics"),
                cel: concat!(
                    "!has(self.access) || !has(self.access.", $name, ") || !has(self.access.", $name, ".topics) || ",
                    "self.access.", $name, ".topics.all(t, size(bytes(t)) <= 255)"
                ),
                message: "a topic has at most 255 bytes, and letters outside ASCII take two to four each: write a shorter one",
                holds: |_, spec| spec.access.$field.topics.iter().all(|text| text.len() <= MAX_SUBJECT_BYTES),
            },
            Rule {
                path: concat!(".access.", $name, ".topics"),
                cel: concat!(
                    "!has(self.access) || !has(self.access.", $name, ") || !has(self.access.", $name, ".topics) || ",
                    "!self.access.", $name, ".topics.exists(t, t.matches(r\"", claims_run_together!(), "\"))"
                ),
                message: "two claims in one token need a character between them that no value holds, or different values would read alike: write {a}.{b} or {a}:{b}",
                holds: |_, spec| !spec.access.$field.topics.iter().any(|text| runs_together(text)),
            },
            Rule {
                path: concat!(".access.", $name, ".topics"),
                cel: concat!(
                    "!has(self.access) || !has(self.access.", $name, ") || !has(self.access.", $name, ".mode) || ",
                    "self.access.", $name, ".mode != 'Public' || ",
                    "(has(self.access.", $name, ".topics) && size(self.access.", $name, ".topics) > 0)"
                ),
                message: r#"mode Public makes exactly the listed topics public: write topics: [">"] for all topics"#,
                holds: |_, spec| spec.access.$field.mode != AccessMode::Public || !spec.access.$field.topics.is_empty(),
            },
            Rule {
                path: concat!(".access.", $name, ".topics"),
                cel: concat!(
                    "!has(self.access) || !has(self.access.", $name, ") || !has(self.access.", $name, ".mode) || ",
                    "self.access.", $name, ".mode != 'Public' || !has(self.access.", $name, ".topics) || ",
                    "!self.access.", $name, ".topics.exists(t, t.contains('{'))"
                ),
                message: "mode Public has no token that a claim could come from: write mode: Token, or topics without braces",
                holds: |_, spec| {
                    let grant = &spec.access.$field;
                    grant.mode != AccessMode::Public || !grant.topics.iter().any(|topic| topic.contains('{'))
                },
            },
        ]
    };
}

const SUBSCRIBE_RULES: [Rule; 5] = direction_rules!("subscribe", subscribe);
const PUBLISH_RULES: [Rule; 5] = direction_rules!("publish", publish);

/// Rules over a change of `spec`. They stand here and not beside their fields, because a rule inside an object does not
/// run when the whole object is removed; and they spell out what absence means.
const TRANSITIONS: [Transition; 3] = [
    Transition {
        path: ".className",
        cel: r"(has(self.className) ? self.className : 'tidings') == (has(oldSelf.className) ? oldSelf.className : 'tidings')",
        message: "className is immutable: delete the Channel and create it again for another installation",
        holds: |new, old| new.class_name == old.class_name,
    },
    Transition {
        path: ".durability",
        cel: r"(has(self.durability) ? self.durability : 'Durable') == (has(oldSelf.durability) ? oldSelf.durability : 'Durable')",
        message: "durability is immutable: delete the Channel and create it again",
        holds: |new, old| new.durability == old.durability,
    },
    Transition {
        path: ".history",
        cel: r"(has(self.history) && has(self.history.storage) ? self.history.storage : 'File') == (has(oldSelf.history) && has(oldSelf.history.storage) ? oldSelf.history.storage : 'File')",
        message: "history.storage is immutable, and File where it is absent: delete the Channel and its stream and create it again",
        holds: |new, old| storage(new) == storage(old),
    },
];

/// What is wrong with a specification, and with the name of its Channel, beyond the schema.
pub fn broken(name: &str, spec: &ChannelSpec) -> Vec<Fault> {
    let broken = OBJECT_RULES.iter().filter(|rule| !(rule.holds)(name, spec));
    let path = |rule: &Rule| rule.path.strip_prefix('.').unwrap_or("metadata.name");
    let object = broken.map(|rule| Fault::new(path(rule), rule.message));
    object.chain(broken_in_spec(spec)).collect()
}

/// What is wrong with a specification alone, beyond its schema.
pub fn broken_in_spec(spec: &ChannelSpec) -> impl Iterator<Item = Fault> {
    let broken = spec_rules().filter(|rule| !(rule.holds)("", spec));
    broken.map(|rule| Fault::new(format!("spec{}", rule.path), rule.message))
}

/// What is wrong with a change from `old` to `new`.
pub fn broken_by_change(new: &ChannelSpec, old: &ChannelSpec) -> Vec<Fault> {
    let broken = TRANSITIONS.iter().filter(|rule| !(rule.holds)(new, old));
    broken.map(|rule| Fault::new(format!("spec{}", rule.path), rule.message)).collect()
}

/// Writes the rules over `spec` into its schema.
pub(crate) fn write(schema: &mut Schema) {
    let rules = spec_rules().map(|rule| (rule.path, rule.cel, rule.message));
    let transitions = TRANSITIONS.iter().map(|rule| (rule.path, rule.cel, rule.message));
    let validations = rules.chain(transitions).map(|(path, cel, message)| validation(path, cel, message)).collect();
    schema.insert("x-kubernetes-validations".to_owned(), Value::Array(validations));
}

fn spec_rules() -> impl Iterator<Item = &'static Rule> {
    SPEC_RULES.iter().chain(&SUBSCRIBE_RULES).chain(&PUBLISH_RULES)
}

/// The rules over the whole object, as the schema's root holds them.
pub(crate) fn of_object() -> Vec<Value> {
    OBJECT_RULES.iter().map(|rule| validation(rule.path, rule.cel, rule.message)).collect()
}

fn validation(path: &str, cel: &str, message: &str) -> Value {
    if path.is_empty() {
        json!({ "rule": cel, "message": message })
    } else {
        json!({ "rule": cel, "message": message, "fieldPath": path })
    }
}

/// Too many bytes are a rule of their own.
fn is_subject(text: &str) -> bool {
    matches!(text.parse::<Pattern>(), Ok(_) | Err(PatternError::TooLong))
}

fn is_template(text: &str) -> bool {
    use TemplateError::{Ambiguous, Pattern};
    matches!(text.parse::<TopicTemplate>(), Ok(_) | Err(Ambiguous | Pattern(PatternError::TooLong)))
}

fn names_own_base(subject: &str, name: &str) -> bool {
    let mut tokens = subject.split('.');
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some(BASE_PREFIX), None, _) => true,
        (Some(BASE_PREFIX), Some(namespace), third) => !matches!(namespace, "" | "*" | ">") && third == Some(name),
        _ => true,
    }
}

fn is_origin(text: &str) -> bool {
    static SHAPE: LazyLock<Regex> = LazyLock::new(|| Regex::new(origin!()).expect("a literal that the tests run"));
    static DEFAULT_PORT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(default_port!()).expect("a literal that the tests run"));
    text == "*" || (SHAPE.is_match(text) && !DEFAULT_PORT.is_match(text))
}

fn storage(spec: &ChannelSpec) -> Storage {
    spec.history.as_ref().map(|history| history.storage).unwrap_or_default()
}

const _: () = assert!(matches!(DEFAULT_CLASS.as_bytes(), b"tidings"), "the rule over className spells it out");
