//! Specifications at random: mostly sound ones, with every kind of fault among them.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use tidings_crds::channel::{
    AccessMode, AccessSpec, ChannelSpec, CorsSpec, Durability, Encoding, EventsSpec, HistorySpec, LimitsSpec,
    PublishAccess, ReclaimPolicy, Start, Storage, SubscribeAccess, TokenSource,
};
use tidings_crds::quantity::ByteQuantity;

/// A name, sound or not.
pub(crate) fn name() -> impl Strategy<Value = String> {
    prop_oneof![20 => Just("orders".to_owned()), 1 => "[a-z0-9.A-]{0,5}", 1 => Just("a".repeat(64))]
}

/// A specification, sound or not.
pub(crate) fn spec() -> impl Strategy<Value = ChannelSpec> {
    let head = (
        prop_oneof![30 => Just("tidings".to_owned()), 1 => "[a-zA-Z.]{0,4}"],
        prop_oneof![2 => Just(Vec::new()), 3 => vec(subject(), 1..4)],
        select(vec![Durability::Durable, Durability::Durable, Durability::Ephemeral]),
    );
    let body = (option::of(history()), events(), access(), cors(), limits());
    (head, body).prop_map(|((class_name, subjects, durability), (history, events, access, cors, limits))| ChannelSpec {
        class_name,
        subjects,
        durability,
        history,
        events,
        access,
        cors,
        limits,
    })
}

/// One in thirty outside what the schema allows.
fn mostly<T: std::fmt::Debug>(
    sound: impl Strategy<Value = T>,
    any: impl Strategy<Value = T>,
) -> impl Strategy<Value = T> {
    prop_oneof![30 => sound, 1 => any]
}

fn subject() -> impl Strategy<Value = String> {
    let token =
        select(vec!["orders", "a", "b", "tidings", "shop", "tidings-live", "$JS", "_INBOX", "*", "", "x*", "é"]);
    prop_oneof![
        2 => (vec(token, 1..5), option::of(Just(">"))).prop_map(|(mut tokens, tail)| {
            tokens.extend(tail);
            tokens.join(".")
        }),
        10 => "(orders|news|ä)[.](new|\\*|>)",
        1 => any::<String>(),
        1 => Just("é".repeat(200)),
    ]
}

fn topic() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => "(all|news[.]\\*|user[.]\\{sub\\}|>|[.]|t-\\{g\\}[.]>)",
        2 => "[ab.*>{} ]{0,8}",
        2 => "([{][ab][}]|[.:%-]|x){1,6}",
        1 => any::<String>(),
        1 => "é{120,200}",
        1 => "[{]é{100,130}[}]",
    ]
}

fn quantity() -> impl Strategy<Value = ByteQuantity> {
    prop_oneof![
        4 => (1..70_000_000_i64).prop_map(ByteQuantity::Number),
        4 => "[1-9][0-9]?(k|M|Ki|Mi)?".prop_map(ByteQuantity::Text),
        1 => any::<i64>().prop_map(ByteQuantity::Number),
        1 => "[0-9]{1,6}(k|M|G|T|Ki|Mi|Gi|Ti|Pi|m)?".prop_map(ByteQuantity::Text),
        1 => "[0-9KMGTik.e+-]{0,8}".prop_map(ByteQuantity::Text),
    ]
}

fn history() -> impl Strategy<Value = HistorySpec> {
    let limits = (
        option::of(mostly(1..100_i64, any::<i64>())),
        option::of(mostly(1..100_i64, any::<i64>())),
        option::of(quantity()),
        option::of(mostly(1..5_i64, any::<i64>())),
    );
    let rest = (
        select(vec![Storage::File, Storage::Memory]),
        mostly(1..=5_i32, any::<i32>()),
        option::of(mostly(1..150_i64, any::<i64>())),
        select(vec![ReclaimPolicy::Retain, ReclaimPolicy::Delete]),
    );
    (limits, rest).prop_map(|((age, messages, bytes, per_topic), (storage, replicas, window, reclaim))| HistorySpec {
        max_age_seconds: age,
        max_messages: messages,
        max_bytes: bytes,
        max_messages_per_topic: per_topic,
        storage,
        replicas,
        duplicate_window_seconds: window,
        reclaim_policy: reclaim,
    })
}

fn events() -> impl Strategy<Value = EventsSpec> {
    let start = select(vec![Start::New, Start::New, Start::All, Start::Last, Start::LastPerTopic]);
    let encoding = select(vec![Encoding::Text, Encoding::Base64]);
    let heartbeat = mostly(1..=300_i32, any::<i32>());
    let retry = mostly(500..=600_000_i32, any::<i32>());
    (start, encoding, heartbeat, retry, quantity()).prop_map(|(from, encoding, heartbeat, retry, max)| EventsSpec {
        from,
        encoding,
        heartbeat_seconds: heartbeat,
        retry_milliseconds: retry,
        max_event_bytes: max,
    })
}

fn access() -> impl Strategy<Value = AccessSpec> {
    let mode = || select(vec![AccessMode::Token, AccessMode::Public, AccessMode::Disabled]);
    let source = || select(vec![TokenSource::Header, TokenSource::Cookie, TokenSource::Query]);
    let sources = mostly(vec(source(), 1..=3), vec(source(), 0..5));
    let issuers = option::of(mostly(vec("[a-z]{1,4}", 1..3), vec("[a-z.]{0,4}", 0..3)));
    (issuers, sources, mode(), vec(topic(), 0..4), mode(), vec(topic(), 0..4)).prop_map(
        |(issuers, token_sources, subscribe, to_read, publish, to_write)| AccessSpec {
            issuers,
            token_sources,
            subscribe: SubscribeAccess { mode: subscribe, topics: to_read },
            publish: PublishAccess { mode: publish, topics: to_write },
        },
    )
}

fn cors() -> impl Strategy<Value = CorsSpec> {
    let origin = prop_oneof![
        20 => "https?://(shop|localhost|\\[::1\\])(:5173)?",
        3 => "https?://(shop|localhost|\\[::1\\])(:(80|443|5173|0))?/?",
        1 => Just("*".to_owned()),
        2 => "https://[*][.](shop|a[.]b|b[.]example[.]?)(:5173)?",
        1 => any::<String>(),
    ];
    (vec(origin, 0..3), any::<bool>()).prop_map(|(origins, allow_credentials)| CorsSpec { origins, allow_credentials })
}

fn limits() -> impl Strategy<Value = LimitsSpec> {
    let limit = || option::of(mostly(1..10_i32, any::<i32>()));
    (limit(), limit(), limit(), limit()).prop_map(|(connections, per_client, publish, connects)| LimitsSpec {
        connections,
        connections_per_client: per_client,
        publish_per_second: publish,
        connects_per_second: connects,
    })
}
