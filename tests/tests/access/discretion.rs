//! What is told about tokens: nothing.

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
