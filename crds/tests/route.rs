//! Routes as documents: whatever is not one is refused, with the field.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use std::error::Error;

use proptest::prelude::*;
use tidings_crds::route::Route;

const ROUTE: &str = "\
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
  heartbeatSeconds: 15
  retryMilliseconds: 3000
  maxEventBytes: 65536
access:
  tokenSources:
  - Header
  subscribe:
    mode: Public
    topics:
    - '>'
  publish:
    mode: Disabled
    topics: []
cors:
  origins: []
  allowCredentials: false
limits: {}
";

#[test]
fn a_route_reads_back_byte_for_byte() {
    let route = Route::from_yaml(ROUTE).unwrap();
    assert_eq!(route.to_yaml(), ROUTE);
    assert_eq!(route.key(), "shop/orders");
    assert_eq!(route.digest().len(), 16);
}

#[test]
fn a_changed_route_has_another_digest() {
    let digest = |text: &str| Route::from_yaml(text).unwrap().digest();
    assert_eq!(digest(ROUTE), digest(ROUTE));
    for (from, to) in [("generation: 3", "generation: 4"), ("Active", "Removed"), ("3000", "3001"), ("'>'", "a")] {
        assert_ne!(digest(ROUTE), digest(&ROUTE.replace(from, to)), "{to}");
    }
}

#[test]
fn what_could_break_a_gateway_is_refused() {
    for (from, to, message) in [
        ("version: 1", "version: 2", "the route has version 2; this gateway reads version 1"),
        ("namespace: shop", "namespace: ../etc", "namespace: write a DNS label"),
        ("name: orders", "name: ''", "name: write a DNS label"),
        ("TIDINGS_shop_orders", "'S.>'", "source.stream: write letters"),
        ("TIDINGS_shop_orders", "''", "source.stream: write letters"),
        ("base: tidings.shop.orders", "base: tidings.>", "topics: write a base without wildcards"),
        ("kind: Below\n  base: tidings.shop.orders", "kind: Whole\n  subjects: []", "topics: write a base"),
        ("kind: Below\n  base: tidings.shop.orders", "kind: Whole\n  subjects: ['a b']", "no white space"),
        ("heartbeatSeconds: 15", "heartbeatSeconds: 0", "events.heartbeatSeconds: write at least 1"),
        ("retryMilliseconds: 3000", "retryMilliseconds: 0", "events.retryMilliseconds: write at least 1"),
        ("maxEventBytes: 65536", "maxEventBytes: 0", "events.maxEventBytes: write at least 1"),
        ("maxEventBytes: 65536", "maxEventBytes: -1", "events.maxEventBytes: invalid type"),
        ("- '>'", "- 'a..b'", "access.subscribe.topics: write topics"),
        ("limits: {}", "limits: { connection: 1 }", "limits: unknown field `connection`"),
        ("state: Active", "", "missing field `state`"),
    ] {
        let text = ROUTE.replace(from, to);
        let error = Route::from_yaml(&text).unwrap_err();
        let chain = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        assert!(chain.contains(message), "{to}: {chain}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// One byte more, less or other: refused, or a Route that is written as it was read.
    #[test]
    fn a_damaged_route_never_panics(at in 0..ROUTE.len(), byte in prop::option::of(32_u8..127), insert in any::<bool>()) {
        let mut bytes = ROUTE.as_bytes().to_vec();
        match byte {
            Some(byte) if insert => bytes.insert(at, byte),
            Some(byte) => *bytes.get_mut(at).unwrap() = byte,
            None => drop(bytes.remove(at)),
        }
        if let Ok(route) = Route::from_yaml(&String::from_utf8(bytes).unwrap()) {
            prop_assert_eq!(Route::from_yaml(&route.to_yaml()).unwrap(), route);
        }
    }
}
