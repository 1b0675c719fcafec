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

// === How a request is written ===

#[tokio::test]
async fn a_request_is_addressed_to_exactly_one_host() {
    let server = Server::start(Settings::default());
    let asked = async |version: &str, target: &str, hosts: &str| {
        let head =
            format!("GET {target} HTTP/{version}\r\n{hosts}origin: https://shop.example\r\nconnection: close\r\n\r\n");
        Answer::read(&server.talk(head).await)
    };
    for hosts in
        ["", "host: x\r\nhost: x\r\n", "host: a b\r\n", "host: u@x\r\n", "host:\r\n", "host: x/y\r\n", "host: x:y\r\n"]
    {
        let refused = asked("1.1", OPEN, hosts).await;
        let (status, detail) = refused.problem();
        assert_eq!((status, detail.to_lowercase().contains("host")), (400, true), "{hosts:?}: {detail}");
        assert_eq!(refused.header("access-control-allow-origin"), Some("https://shop.example"));
    }
    assert_eq!(asked("1.1", &format!("http://u:p@x{OPEN}"), "host: x\r\n").await.problem().0, 400);
    for (version, target, hosts) in [
        ("1.1", OPEN.to_owned(), "host: push.example:8443\r\n"),
        ("1.1", OPEN.to_owned(), "host: [::1]:80\r\n"),
        ("1.1", format!("http://x{OPEN}"), "host: x\r\n"),
        ("1.0", OPEN.to_owned(), ""),
    ] {
        assert_eq!(asked(version, &target, hosts).await.status, 200, "{version} {target} {hosts:?}");
    }
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_refused_so_that_pages_can_read_it() {
    let server = Server::start(Settings::default());
    for path in ["/channels/%FF/open/events", "/channels/demo/%C3/events"] {
        let refused = server.ask("GET", path, "origin: https://shop.example\r\n", "").await;
        let (status, detail) = refused.problem();
        assert_eq!((status, detail.contains("not UTF-8")), (400, true), "{detail}");
        assert_eq!(refused.header("access-control-allow-origin"), Some("https://shop.example"));
    }
    assert_eq!(server.metric(r#"tidings_requests_total{operation="other",status="400"}"#), Some(2));
}

#[tokio::test]
async fn every_answer_has_what_all_have() {
    let server = Server::start(Settings::default());
    let long = format!("{OPEN}?topic={}", "a".repeat(9_000));
    for (method, target, status) in [
        ("GET", OPEN, 200),
        ("HEAD", OPEN, 200),
        ("OPTIONS", OPEN, 204),
        ("PUT", OPEN, 405),
        ("GET", TOKEN, 401),
        ("GET", "/channels/demo/open/events?topic[]=a", 400),
        ("GET", &long, 414),
        ("GET", "/nothing", 404),
        ("GET", "/", 200),
    ] {
        let answer = server.ask(method, target, "", "").await;
        assert_eq!(
            (answer.status, answer.header("x-content-type-options")),
            (status, Some("nosniff")),
            "{method} {target:.60}"
        );
        assert!(answer.header("vary").is_some_and(|vary| vary.contains("Origin")), "{method} {target:.60}");
    }
}

#[tokio::test]
async fn head_has_no_length_where_get_has_none() {
    let server = Server::start(Settings::default());
    let head = server.ask("HEAD", OPEN, "accept: text/event-stream\r\n", "").await;
    assert_eq!((head.status, head.header("content-length")), (200, None));
    let (get, head) = (server.ask("GET", "/nothing", "", "").await, server.ask("HEAD", "/nothing", "", "").await);
    assert_eq!(get.header("content-length"), head.header("content-length"));
    assert!(get.header("content-length").is_some() && head.body.is_empty());
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
        ("?topic=audit", "x", 404, "is not public"),
        ("", "x", 404, "is not public"),
        ("?topic=user.*", "x", 400, "without wildcards"),
        ("?topic=news&event=tidings.gap", "x", 400, "Tidings' own"),
        ("?topic=news&ttl=0", "x", 400, "at least one"),
        ("?topic=news&topics=x", "x", 400, "is called topic"),
        ("?topic[]=news", "x", 400, "is called topic"),
        ("?topic=news,user.1", "x", 400, "topic=a&topic=b"),
        ("?topic=", "x", 400, "write . for the empty topic"),
        ("?topic=news", &"x".repeat(65_537), 413, "at most 65536 bytes"),
    ] {
        let (found, detail) = server.ask("POST", &format!("{OPEN}{target}"), "", body).await.problem();
        assert_eq!((found, detail.contains(hint)), (status, true), "{target}: {detail}");
    }
    let slow = server.talk(format!("POST {OPEN}?topic=news HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")).await;
    assert_eq!(Answer::read(&slow).problem().0, 408);
    assert_eq!(server.metric(r#"tidings_posts_total{channel="demo/open",outcome="invalid"}"#), Some(2));
    let target = format!("{OPEN}?topic=news");
    assert_eq!(server.ask("POST", &target, "content-encoding: gzip\r\n", "x").await.problem().0, 415);
    let (status, detail) = server.ask("POST", &target, "accept: text/event-stream\r\n", "x").await.problem();
    assert_eq!((status, detail.contains("subscribe with GET")), (400, true), "{detail}");
    let binary = format!("POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n");
    let refused = Answer::read(&server.talk([binary.as_bytes(), b"a\xff"].concat()).await).problem();
    assert_eq!((refused.0, refused.1.contains("not UTF-8")), (400, true), "{}", refused.1);
}

/// As blocking clients do: the whole body first, and only then the answer.
#[tokio::test]
async fn whoever_sends_a_large_body_before_it_reads_gets_the_refusal() {
    const BYTES: usize = 20 << 20;
    let server = Server::start(Settings::default());
    for (target, length, status) in [
        (OPEN.to_owned() + "?topic=news", true, 413),
        (OPEN.to_owned() + "?topic=news", false, 413),
        (TOKEN.to_owned(), true, 401),
        ("/nothing".to_owned(), true, 404),
    ] {
        let mut stream = server.connect().await;
        let framing = if length { format!("content-length: {BYTES}") } else { "transfer-encoding: chunked".to_owned() };
        let head = format!("POST {target} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let piece = if length {
            vec![b'x'; 1 << 20]
        } else {
            [b"100000\r\n".to_vec(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat()
        };
        for _ in 0..BYTES >> 20 {
            stream.write_all(&piece).await.unwrap_or_else(|error| panic!("{target}: cut off while sending: {error}"));
        }
        if !length {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let mut begin = [0; 12];
        timeout(DEADLINE, stream.read_exact(&mut begin)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&begin), format!("HTTP/1.1 {status}"), "{target}");
    }
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
