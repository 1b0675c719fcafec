//! Connections that do nothing, and addresses that hold too many of them.

use std::net::{IpAddr, Ipv4Addr};

use tidings_tests::event_source::Happening;
use tidings_tests::h2_frames::{ACK, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RawH2, SETTINGS, block, frame};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::manifest::Manifest;
use tidings_tests::wait::{PATIENCE, eventually, within};
use tidings_tests::web::{Protocol, Request};
use tokio::task::JoinHandle;

/// A connection that has asked for something once, asks for nothing more, and answers whatever keeps it alive. Ends once the
/// gateway has closed it; whether that said goodbye.
async fn asked_once(site: &Installation) -> JoinHandle<bool> {
    let mut connection = RawH2::connect(site.gateways[0].address()).await.expect("a connection");
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/nothing/here", &[]));
    connection.send(&request).await.expect("sent");
    connection.round_trip().await.expect("answered");
    tokio::spawn(async move {
        let mut goodbye = false;
        while let Ok((kind, flags, payload)) = connection.next().await {
            goodbye |= kind == GOAWAY;
            if matches!(kind, PING | SETTINGS) && flags & ACK == 0 {
                let payload = if kind == PING { payload.as_slice() } else { &[] };
                let _ = connection.send(&frame(kind, ACK, 0, payload)).await;
            }
        }
        goodbye
    })
}

/// `:status` of 400 and 404, as HPACK's static table has them (RFC 7541, appendix A).
const BAD_REQUEST: u8 = 0x80 | 12;
const NOT_FOUND: u8 = 0x80 | 13;

#[tokio::test]
async fn an_http2_request_is_addressed_to_exactly_one_host() {
    let site = Installation::start().await;
    let address = site.gateways[0].address();
    for (fields, status) in [
        (&[][..], NOT_FOUND),
        (&[("host", "x")], NOT_FOUND),
        (&[("host", "y")], BAD_REQUEST),
        (&[("host", "x"), ("host", "x")], BAD_REQUEST),
    ] {
        let mut connection = RawH2::connect(address).await.expect("a connection");
        let block = block("GET", "/nothing/here", fields);
        connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.expect("sent");
        let found = loop {
            let (kind, _, payload) = within(PATIENCE, "an answer", connection.next()).await.expect("an answer");
            if kind == HEADERS {
                break payload[0];
            }
        };
        assert_eq!(found, status, "{fields:?}");
    }
}

#[tokio::test]
async fn http2_without_streams_is_closed_after_the_idle_timeout_and_with_one_it_stays() {
    let site = Settings::default().gateway_arg("--idle-timeout=1s").start().await;
    let channel = site.channel(Manifest::public("orders").with("events/heartbeatSeconds", 1)).await;
    let mut source = site.client(0, &channel, &[]).over(Protocol::H2c).open();
    source.next_checkpoint().await;
    for _ in 0..3 {
        let idle = asked_once(&site).await;
        assert!(within(PATIENCE, "an idle connection is closed", idle).await.expect("it reads"), "with a goodbye");
    }
    // The stream has been silent for longer than that.
    let last = site.publisher(&channel).await.publish("a", "x").await;
    source.reaches(last).await;
    assert!(!source.record().iter().any(|entry| matches!(entry.what, Happening::End { .. })));
}

#[tokio::test]
async fn an_address_holds_no_more_connections_than_allowed_and_others_are_not_concerned() {
    let site = Settings::default().gateway_arg("--max-connections-per-address=4").start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let url = site.url(0, &channel, &[]);
    let open = async || Request::get(&url).header("accept", "text/event-stream").open().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(open().await.expect("a stream"));
    }
    assert!(open().await.is_err(), "one more");
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    assert_eq!(Request::get(&url).from(other).open().await.expect("a stream").status(), 200);
    let metrics = site.gateways[0].metrics().await;
    assert!(metrics.sum_where("tidings_connection_errors_total", &["kind=\"address\""]) >= 1.0);
    assert_eq!(metrics.sum_where("tidings_limit", &["kind=\"address-connections\""]), 4.0);
    held.pop();
    eventually(PATIENCE, "its place is free again", || async { open().await.is_ok() }).await;
}

#[tokio::test]
async fn connections_that_do_nothing_make_room_for_those_who_come() {
    let site = Settings::default().gateway_arg("--max-connections=16").start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut idle = Vec::new();
    for _ in 0..16 {
        idle.push(asked_once(&site).await);
    }
    let mut source = site.client(0, &channel, &[]).open();
    source.next_checkpoint().await;
    let last = site.publisher(&channel).await.publish("a", "x").await;
    source.reaches(last).await;
    assert!(site.gateways[0].metrics().await.sum("tidings_connections") <= 16.0);
    assert!(idle.iter().any(JoinHandle::is_finished), "those that do nothing");
}
