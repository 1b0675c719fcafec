//! What is told about tokens, and about events that a subscriber may not see: nothing.

use serde_json::json;
use tidings_tests::installation::Settings;
use tidings_tests::manifest::Manifest;
use tidings_tests::token::Draft;
use tidings_tests::web::{Protocol, query};

use crate::house::{House, MAIN, get, token_channel};
use crate::table::{TRANSPORTS, Transport, with_token};

/// No token appears in anything that the processes say, even when they say everything.
#[tokio::test]
async fn no_token_is_ever_told() {
    let settings = Settings::default().gateway_arg("--log=trace").gateway_arg("--log-format=json");
    let house = House::open_with(settings, "").await;
    let sources = json!(["Header", "Cookie", "Query"]);
    let channel =
        house.site.channel(token_channel("orders", json!(["all"])).with("access/tokenSources", sources)).await;
    let missing = Manifest::new("test", "missing");
    let good = house.ann();
    let bad = house.keys.sign(&Draft::new(MAIN, "ann").with("aud", "other"));
    for token in [&good, &bad] {
        for transport in TRANSPORTS {
            for protocol in [Protocol::Http1, Protocol::H2c] {
                for channel in [&channel, &missing] {
                    let parameters: Vec<_> = (transport == Transport::Query)
                        .then_some(("access_token", token.as_str()))
                        .into_iter()
                        .collect();
                    let request = with_token(get(house.url(channel, &parameters)), Some(token), transport);
                    let answer = request.over(protocol).open().await.expect("an answer");
                    let headers = format!("{:?}", answer.headers());
                    assert!(!headers.contains(token.as_str()), "{headers}");
                }
            }
        }
    }
    let metrics = house.site.gateways[0].admin("/metrics").await.expect("metrics").text();
    let output = house.site.gateways[0].process().output();
    assert!(output.contains("Answered."), "the log says everything else");
    for token in [&good, &bad] {
        // A part of it would do as well: the signature, and the claims.
        for part in token.split('.').filter(|part| part.len() > 60).chain([token.as_str()]) {
            for (name, text) in [("log", &output), ("metrics", &metrics)] {
                let found = text.lines().find(|line| line.contains(part) || line.contains(&query(part)));
                assert_eq!(found, None, "the {name} tells a token");
            }
        }
    }
}

/// A position at an event of another's gets the same answer whatever its stamp is, from a gateway whose log has the event and from one that
/// has to read it.
#[tokio::test]
async fn a_position_does_not_tell_when_an_event_was_stored_that_its_bearer_may_not_see() {
    let house = House::open_with(Settings::default().gateways(2), "").await;
    let channel = house.site.channel(token_channel("private", json!(["user.{sub}"]))).await;
    let everything = json!({"subscribe": [{"channels": ["*/*"], "topics": [">"]}]});
    let admin = house.keys.sign(&Draft::new(MAIN, "admin").with("tidings", everything));
    let mut all = house.subscribe(&channel, &[], &admin).await;
    let publish = house.site.publisher(&channel).await;
    publish.publish("user.ann", "hers").await;
    publish.publish("user.bob", "his").await;
    let (hers, his) = (all.next_event().await, all.next_event().await);
    assert_eq!((hers.data.as_str(), his.data.as_str()), ("hers", "his"));
    let guesses = |id: &str| {
        let (at, stamp) = id.rsplit_once('-').expect("a position with a stamp");
        let stamp = u64::from_str_radix(stamp, 36).expect("a stamp");
        [stamp - 1, stamp, stamp + 1, 1].map(|stamp| format!("{at}-{}", base36(stamp)))
    };
    for gateway in [0, 1] {
        let is_reset = async |id: String| {
            let client = house.site.client(gateway, &channel, &[("last_event_id", &id)]);
            let mut source = client.header("authorization", &format!("Bearer {}", house.ann())).open();
            source.next_open().await;
            publish.publish("user.ann", "more").await;
            source.next_event().await.event == "tidings.gap"
        };
        for id in guesses(&his.id) {
            assert!(!is_reset(id.clone()).await, "gateway {gateway}: {id}");
        }
        for (id, expected) in guesses(&hers.id).into_iter().zip([true, false, true, true]) {
            // Her own event tells, so that a stream that was replaced is noticed.
            assert_eq!(is_reset(id.clone()).await, expected, "gateway {gateway}: {id}");
        }
    }
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push(char::from_digit((number % 36) as u32, 36).expect("a digit"));
        number /= 36;
    }
    digits.into_iter().rev().collect()
}
