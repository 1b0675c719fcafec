//! The HTTP edges of the gateway over real sockets: what it refuses, what it sends away, and what it does not wait for.
//!
//! NATS is away in all of these, so nothing here depends on it; streams with events are tested end to end elsewhere.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may")]

mod server;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use tidings_gateway::runtime::drain::Phase;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use server::{Answer, DEADLINE, OPEN, Server, Settings, TOKEN, read_to_end};

// === Who does not ask in time, or asks too much ===

#[tokio::test]
async fn a_connection_that_does_not_ask_in_time_is_closed() {
    let mut settings = Settings::default();
    settings.connections.header_timeout = Duration::from_millis(200);
    let server = Server::start(settings);
    let slow: [&[u8]; 4] = [
        b"",
        b"GET /channels/demo/open/events HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"PRI * HTTP/2.0\r\n",
        // A whole HTTP/2 preface with empty SETTINGS, and nothing more.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    for (n, bytes) in slow.iter().enumerate() {
        let started = Instant::now();
        let answer = server.talk(bytes).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
        assert!(started.elapsed() >= Duration::from_millis(150), "{n}: closed after {:?}", started.elapsed());
        server.until_metric(r#"tidings_connection_errors_total{kind="header-timeout"}"#, n as u64 + 1).await;
    }
}

#[tokio::test]
async fn bytes_that_trickle_in_do_not_prolong_the_time() {
    let mut settings = Settings::default();
    settings.connections.header_timeout = Duration::from_millis(300);
    let server = Server::start(settings);
    let (mut reader, mut writer) = server.connect().await.into_split();
    let trickle = tokio::spawn(async move {
        writer.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        while writer.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut bytes = Vec::new();
    let _ = timeout(DEADLINE, reader.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    trickle.abort();
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_being_a_fault() {
    let mut settings = Settings::default();
    settings.connections.idle_timeout = Duration::from_millis(200);
    let server = Server::start(settings);
    let answer = server.talk("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(Answer::read(&answer).status, 404);
    server.until_metric("tidings_connections", 0).await;
    assert_eq!(server.metric(r#"tidings_connection_errors_total{kind="header-timeout"}"#), Some(0));
}

#[tokio::test]
async fn heads_and_addresses_have_a_largest_size() {
    let server = Server::start(Settings::default());
    // hyper reads a little ahead: up to twice the limit.
    let huge = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100 << 10));
    assert_eq!(Answer::read(&server.talk(huge).await).status, 431);
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert_eq!(Answer::read(&server.talk(many).await).status, 431);
    let long = format!("{OPEN}?topic={}", "a".repeat(9_000));
    let (status, detail) = server.ask("GET", &long, "", "").await.problem();
    assert_eq!((status, detail.contains("8 KiB")), (414, true));
    assert_eq!(Answer::read(&server.talk("nonsense\r\n\r\n").await).status, 400);
    server.until_metric(r#"tidings_connection_errors_total{kind="protocol"}"#, 3).await;
}

#[tokio::test]
async fn connections_beyond_the_room_wait_until_one_has_left() {
    let server = Server::start(Settings { room: 1, ..Settings::default() });
    let first = server.connect().await;
    server.until_metric("tidings_connections", 1).await;
    let mut second = server.connect().await;
    second.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    server.until_metric("tidings_accept_pauses_total", 1).await;
    assert_eq!(server.metric("tidings_connections"), Some(1));
    drop(first);
    assert_eq!(Answer::read(&read_to_end(&mut second).await).status, 404);
}

#[tokio::test]
async fn leaving_closes_idle_connections_and_ends() {
    let server = Server::start(Settings::default());
    let mut idle = server.keep_alive().await;
    let mut silent = server.connect().await;
    server.until_metric("tidings_connections", 2).await;
    server.departure.close.cancel();
    read_to_end(&mut idle).await;
    read_to_end(&mut silent).await;
    timeout(DEADLINE, server.task).await.expect("the port ends").unwrap();
}

// === Who may not ===

#[tokio::test]
async fn a_channel_that_is_not_public_looks_like_one_that_is_missing() {
    let server = Server::start(Settings::default());
    for (method, body) in [("GET", ""), ("POST", "x")] {
        let missing = server.ask(method, "/channels/demo/missing/events", "", body).await;
        let token = server.ask(method, TOKEN, "", body).await;
        assert_eq!(missing.problem().0, 401);
        assert_eq!(missing.header("www-authenticate"), Some(r#"Bearer realm="tidings""#));
        assert_eq!(missing.lasting(), token.lasting(), "{method}");
    }
    let nowhere = server.ask("GET", "/channels/demo", "", "").await.problem();
    assert_eq!((nowhere.0, nowhere.1.contains("/channels/{namespace}/{name}/events")), (404, true));
}

#[tokio::test]
async fn each_method_has_its_answer() {
    let server = Server::start(Settings::default());
    let head = server.ask("HEAD", OPEN, "", "").await;
    assert_eq!(
        (head.status, head.header("content-type"), head.body.as_str()),
        (200, Some("text/event-stream; charset=utf-8"), "")
    );
    assert_eq!(head.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(server.ask("HEAD", TOKEN, "", "").await.status, 401);
    let options = server.ask("OPTIONS", OPEN, "", "").await;
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, POST, OPTIONS")));
    for method in ["PUT", "DELETE", "PATCH"] {
        let refused = server.ask(method, OPEN, "", "").await;
        assert_eq!((refused.problem().0, refused.header("allow")), (405, Some("GET, HEAD, POST, OPTIONS")));
    }
    let page = server.ask("GET", "/", "", "").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("new EventSource("));
    assert_eq!(server.ask("POST", "/", "", "x").await.problem().0, 405);
}

#[tokio::test]
async fn origins_are_told_apart_on_every_kind_of_answer() {
    let server = Server::start(Settings::default());
    for (method, target, status) in [
        ("GET", OPEN, 200),
        ("GET", "/channels/demo/open/events?topic=a..b", 400),
        ("GET", TOKEN, 401),
        ("OPTIONS", OPEN, 204),
    ] {
        let ours = server.ask(method, target, "origin: https://shop.example\r\n", "").await;
        assert_eq!((ours.status, ours.header("vary")), (status, Some("Origin")), "{method} {target}");
        assert_eq!(ours.header("access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!(ours.header("access-control-allow-credentials"), Some("true"));
        let foreign = server.ask(method, target, "origin: https://evil.example\r\n", "").await;
        assert_eq!((foreign.status, foreign.header("vary")), (status, Some("Origin")));
        assert_eq!(foreign.header("access-control-allow-origin"), None);
    }
}

// === Who is to come back ===

#[tokio::test]
async fn without_nats_subscribers_come_back_and_publishers_are_told() {
    let server = Server::start(Settings::default());
    let stream = server.ask("GET", OPEN, "accept: text/event-stream\r\n", "").await;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
    let retry: u64 = stream.body.strip_prefix("retry: ").unwrap().trim_end().parse().unwrap();
    assert!((1_000..=3_000).contains(&retry), "{}", stream.body);
    let other = server.ask("GET", OPEN, "accept: application/json\r\n", "").await;
    assert_eq!(other.problem().0, 503);
    assert!(other.header("retry-after").is_some_and(|seconds| ["1", "2", "3"].contains(&seconds)), "{other:?}");
    assert_eq!(server.metric(r#"tidings_turned_away_total{channel="demo/open",reason="broker"}"#), Some(2));
    let posted = server.ask("POST", "/channels/demo/open/events?topic=news", "", "x").await;
    assert_eq!((posted.problem().0, posted.header("retry-after")), (503, Some("2")));
    assert_eq!(server.metric(r#"tidings_posts_total{channel="demo/open",outcome="unavailable"}"#), Some(1));
    assert_eq!(server.metric(r#"tidings_requests_total{operation="subscribe",status="200"}"#), Some(1));
}

#[tokio::test]
async fn while_draining_new_subscribers_are_sent_elsewhere() {
    let server = Server::start(Settings::default());
    server.drain.enter(Phase::Leaving);
    let leaving = server.ask("GET", OPEN, "", "").await;
    assert_eq!(server.metric(r#"tidings_turned_away_total{channel="demo/open",reason="draining"}"#), Some(0));
    assert_eq!(leaving.status, 200);
    let (mut kept, early) = (server.keep_alive().await, server.connect().await);
    server.until_metric("tidings_connections", 2).await;
    server.drain.enter(Phase::Draining);
    server.departure.last.cancel();
    read_to_end(&mut kept).await;
    // One that was connected and had not asked yet, and a new one.
    for mut stream in [early, server.connect().await] {
        stream.write_all(format!("GET {OPEN} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let draining = Answer::read(&read_to_end(&mut stream).await);
        assert_eq!((draining.status, draining.header("connection")), (200, Some("close")));
        assert!(draining.body.starts_with("retry: "), "{draining:?}");
    }
    assert_eq!(server.metric(r#"tidings_turned_away_total{channel="demo/open",reason="draining"}"#), Some(2));
    assert_eq!(server.ask("GET", TOKEN, "", "").await.status, 401, "a refusal stays one");
}

#[tokio::test]
async fn before_the_routes_are_read_nobody_is_refused_for_good() {
    let server = Server::start(Settings { routes: None, ..Settings::default() });
    let early = server.ask("GET", "/channels/demo/any/events", "", "").await;
    assert_eq!(early.status, 200);
    assert!(early.body.starts_with("retry: "), "{early:?}");
    assert_eq!(server.ask("POST", "/channels/demo/any/events", "", "x").await.problem().0, 503);
    assert_eq!(server.metric("tidings_early_requests_total"), Some(2));
}

#[tokio::test]
async fn a_storm_of_connects_is_slowed_down() {
    let server = Server::start(Settings::default());
    let asks = (0..80).map(|_| server.ask("GET", OPEN, "", ""));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body.starts_with("retry: ")));
    let slowed = server.metric(r#"tidings_turned_away_total{channel="demo/open",reason="connect-rate"}"#).unwrap();
    assert!((1..=30).contains(&slowed), "{slowed} of 80 at 50 a second");
}

#[tokio::test]
async fn above_the_gateway_s_own_limit_subscribers_come_back() {
    let mut settings = Settings::default();
    settings.requests.subscribers = Some(0);
    let server = Server::start(settings);
    assert!(server.ask("GET", OPEN, "", "").await.body.starts_with("retry: "));
    assert_eq!(server.metric(r#"tidings_turned_away_total{channel="demo/open",reason="connections"}"#), Some(1));
}

// === What is posted ===

#[tokio::test]
async fn a_post_is_refused_for_what_is_wrong_with_it() {
    let mut settings = Settings::default();
    settings.requests.body_timeout = Duration::from_millis(200);
    let server = Server::start(settings);
    for (target, body, status, hint) in [
        ("?topic=audit", "x", 404, "does not let everybody publish"),
        ("", "x", 404, "does not let everybody publish"),
        ("?topic=user.*", "x", 400, "without wildcards"),
        ("?topic=news&event=tidings.gap", "x", 400, "Tidings' own"),
        ("?topic=news&ttl=0", "x", 400, "at least one"),
        ("?topic=news&topics=x", "x", 400, "is called topic"),
        ("?topic=news", &"x".repeat(65_537), 413, "at most 65536 bytes"),
    ] {
        let (found, detail) = server.ask("POST", &format!("{OPEN}{target}"), "", body).await.problem();
        assert_eq!((found, detail.contains(hint)), (status, true), "{target}: {detail}");
    }
    let slow = server.talk(format!("POST {OPEN}?topic=news HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")).await;
    assert_eq!(Answer::read(&slow).problem().0, 408);
    assert_eq!(server.metric(r#"tidings_posts_total{channel="demo/open",outcome="invalid"}"#), Some(2));
}

// === HTTP/2 ===

#[tokio::test]
async fn http_2_is_spoken_in_clear_with_prior_knowledge() {
    let server = Server::start(Settings::default());
    let (mut client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let ask = |method: &str, target: &str| {
        Request::builder().method(method).uri(format!("http://x{target}")).body(()).unwrap()
    };
    server.drain.enter(Phase::Draining);
    for (method, target, status, body) in [
        ("GET", OPEN, 200, "retry: "),
        ("GET", TOKEN, 401, "{"),
        ("HEAD", OPEN, 200, ""),
        ("OPTIONS", OPEN, 204, ""),
        ("GET", "/channels/demo/open/events?topic=a..b", 400, "{"),
    ] {
        let (answer, _) = client.send_request(ask(method, target), true).unwrap();
        let answer = timeout(DEADLINE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{method} {target}");
        assert!(!answer.headers().contains_key("connection"), "HTTP/2 has no such header");
        let mut stream = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = timeout(DEADLINE, stream.data()).await.unwrap() {
            let piece: Bytes = piece.unwrap();
            stream.flow_control().release_capacity(piece.len()).unwrap();
            bytes.extend_from_slice(&piece);
        }
        assert!(String::from_utf8(bytes).unwrap().starts_with(body), "{method} {target}");
    }
}

#[tokio::test]
async fn an_http_2_head_has_a_largest_size_too() {
    let server = Server::start(Settings::default());
    let (mut client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let huge = Request::builder().uri(format!("http://x{OPEN}")).header("x", "a".repeat(40 << 10)).body(()).unwrap();
    let (answer, _) = client.send_request(huge, true).unwrap();
    let refused = match timeout(DEADLINE, answer).await.unwrap() {
        Ok(answer) => answer.status() == 431,
        Err(error) => error.is_reset() || error.is_go_away() || error.is_io(),
    };
    assert!(refused);
}
