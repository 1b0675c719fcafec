//! Beats as documents: what a gateway writes is read back, in pieces that fit; whatever else comes is refused with a reason.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use std::error::Error;

use proptest::prelude::*;
use tidings_crds::beat::{Beat, ChannelBeat, Channels, MAX_PIECE_BYTES, Sender};
use tidings_crds::key::ChannelKey;
use tidings_crds::release::Release;

const BEAT: &str = concat!(
    r#"{"version":1,"release":"tidings-system/tidings","pod":"6a1b","name":"tidings-gateway-0","run":"9f3c","number":7,"full":true,"#,
    r#""piece":1,"pieces":1,"channels":{"shop/orders":{"digest":"00ff00ff00ff00ff","subscribers":3},"shop/stock":{"digest":null,"subscribers":0}}}"#
);

fn sender() -> Sender {
    Sender::new(Release::new("tidings-system", "tidings").unwrap(), "6a1b", "tidings-gateway-0", "9f3c").unwrap()
}

fn serving(digest: &str, subscribers: u64) -> ChannelBeat {
    ChannelBeat { digest: Some(digest.to_owned()), subscribers }
}

#[test]
fn a_beat_is_written_as_agreed_and_reads_back() {
    let gone = ChannelBeat { digest: None, subscribers: 0 };
    let channels = Channels::from([
        (ChannelKey::new("shop", "orders"), serving("00ff00ff00ff00ff", 3)),
        (ChannelKey::new("shop", "stock"), gone),
    ]);
    let beats = sender().beat(7, true, channels, usize::MAX);
    let [beat] = beats.as_slice() else { panic!("one piece is enough for two channels") };
    assert_eq!(String::from_utf8(beat.to_json()).unwrap(), BEAT);
    assert_eq!(&Beat::from_json(BEAT.as_bytes()).unwrap(), beat);
}

#[test]
fn a_beat_without_channels_is_one_piece() {
    let beats = sender().beat(1, true, Channels::new(), usize::MAX);
    assert_eq!(beats.iter().map(|beat| (beat.piece, beat.pieces)).collect::<Vec<_>>(), [(1, 1)]);
}

#[test]
fn a_field_of_a_newer_gateway_is_ignored() {
    let newer = BEAT.replace(r#""full":true"#, r#""full":true,"mood":"good""#);
    assert_eq!(Beat::from_json(newer.as_bytes()).unwrap(), Beat::from_json(BEAT.as_bytes()).unwrap());
}

#[test]
fn what_no_gateway_writes_is_refused_with_a_reason() {
    let long = "x".repeat(256);
    for (from, to, message) in [
        (r#""version":1"#, r#""version":2"#, "the beat has version 2; version 1 can be read"),
        (r#""version":1,"release":"tidings-system/tidings""#, r#""version":2"#, "the beat has version 2"),
        (r#""version":1,"#, "", "missing field `version`"),
        ("tidings-system/tidings", "tidings", "a release reads <namespace>/<name>"),
        ("tidings-system/tidings", "tidings-system/>", "is not a DNS name"),
        ("6a1b", "", "pod: write letters"),
        ("6a1b", "a b", "pod: write letters"),
        ("tidings-gateway-0", "\\n", "name: write letters"),
        ("9f3c", &long, "run: write letters"),
        (r#""number":7"#, r#""number":0"#, "number: beats are counted from 1"),
        (r#""number":7"#, r#""number":-1"#, "invalid value"),
        (r#""piece":1"#, r#""piece":0"#, "piece: pieces are counted"),
        (r#""piece":1"#, r#""piece":2"#, "piece: pieces are counted"),
        ("shop/orders", "shop", "\"shop\" does not name a Channel"),
        ("shop/orders", "shop/a.b", "does not name a Channel"),
        ("00ff00ff00ff00ff", "none", "channels.shop/orders.digest: write hexadecimal digits"),
        (r#""digest":null,"#, "", "missing field `digest`"),
        (r#""subscribers":3"#, r#""subscribers":"3""#, "invalid type"),
        ("}}}", "}}", "EOF"),
    ] {
        let text = BEAT.replacen(from, to, 1);
        assert_ne!(text, BEAT, "{from}");
        let error = Beat::from_json(text.as_bytes()).unwrap_err();
        let chain = format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
        assert!(chain.contains(message), "{to}: {chain}");
    }
    let padded = format!("{BEAT}{}", " ".repeat(MAX_PIECE_BYTES));
    assert!(Beat::from_json(padded.as_bytes()).unwrap_err().to_string().contains("at most 262144 bytes"));
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
}

fn channels(most: usize) -> impl Strategy<Value = Channels> {
    let key = (label(), label()).prop_map(|(namespace, name)| ChannelKey::new(namespace, name));
    let said = (prop::option::of("[0-9a-f]{16}"), any::<u64>());
    prop::collection::btree_map(
        key,
        said.prop_map(|(digest, subscribers)| ChannelBeat { digest, subscribers }),
        0..most,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Every piece fits and is read back; together they say what was to be said, each channel once, in order.
    #[test]
    fn a_beat_falls_into_pieces_that_fit(
        channels in channels(40), copies in 1_usize..200, number in 1_u64.., full in any::<bool>(),
        max_payload in (16_usize << 10)..(1 << 20),
    ) {
        let most = max_payload.min(MAX_PIECE_BYTES);
        // Thousands of channels are many copies of a few: generating each would be slow.
        let mut many = Channels::new();
        for copy in 0..copies {
            for (key, said) in &channels {
                let name: String = key.name.chars().take(55).chain(format!("x{copy}").chars()).collect();
                many.insert(ChannelKey::new(&key.namespace, name), said.clone());
            }
        }
        let beats = sender().beat(number, full, many.clone(), max_payload);
        let mut said = Channels::new();
        for (piece, beat) in (1..).zip(&beats) {
            let text = beat.to_json();
            prop_assert!(text.len() <= most, "{} bytes", text.len());
            prop_assert_eq!(&Beat::from_json(&text).unwrap(), beat);
            prop_assert_eq!((beat.number, beat.full), (number, full));
            prop_assert_eq!((beat.piece, beat.pieces as usize), (piece, beats.len()));
            prop_assert!(said.keys().next_back() < beat.channels.keys().next() || beats.len() == 1);
            said.extend(beat.channels.clone());
        }
        prop_assert_eq!(said, many);
        // None is sent that the next one had room for.
        for pair in beats.windows(2) {
            let [first, second] = pair else { unreachable!("windows of two") };
            let (key, said) = second.channels.first_key_value().unwrap();
            let mut fuller = first.clone();
            fuller.channels.insert(key.clone(), said.clone());
            prop_assert!(fuller.to_json().len() + 20 > most);
        }
    }

    /// One byte more, less or other: refused, or a beat that is written as it was read.
    #[test]
    fn a_damaged_beat_never_panics(at in 0..BEAT.len(), byte in prop::option::of(any::<u8>()), insert in any::<bool>()) {
        let mut bytes = BEAT.as_bytes().to_vec();
        match byte {
            Some(byte) if insert => bytes.insert(at, byte),
            Some(byte) => *bytes.get_mut(at).unwrap() = byte,
            None => drop(bytes.remove(at)),
        }
        if let Ok(beat) = Beat::from_json(&bytes) {
            prop_assert_eq!(Beat::from_json(&beat.to_json()).unwrap(), beat);
        }
    }
}
