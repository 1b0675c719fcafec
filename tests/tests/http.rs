//! The HTTP contract: heads, refusals, the 200 path, origins, protocols, limits and publishing.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tidings_tests::event_source::{EventSource, Happening, Settings as Client, sequence_of};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::manifest::Manifest;
use tidings_tests::publisher::Publisher;
use tidings_tests::wait::{PATIENCE, eventually, within};
use tidings_tests::web::{Protocol, Reply, Request, WebError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn get(url: String) -> Request {
    Request::get(url).header("accept", "text/event-stream")
}

/// A refusal is a document that says what to do.
fn assert_problem(reply: &Reply, status: u16) {
    assert_eq!(reply.status.as_u16(), status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/problem+json");
    let document = reply.json();
    assert_eq!(document["status"], json!(status));
    assert!(document["title"].is_string() && document["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
}

/// The 200 path: a client is sent away and comes back by itself.
fn assert_sent_away(reply: &Reply) {
    assert_eq!(
        (reply.status.as_u16(), reply.header("content-type").as_str()),
        (200, "text/event-stream; charset=utf-8")
    );
    let delay = reply.text().strip_prefix("retry: ").and_then(|rest| rest.strip_suffix('\n')?.parse::<u64>().ok());
    assert!(delay.is_some_and(|delay| delay >= 500), "{:?}", reply.text());
}

#[tokio::test]
async fn a_stream_has_the_head_that_caches_and_proxies_need() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let url = site.url(0, &channel, &[]);
        let response = get(url.clone()).over(protocol).open().await.expect("an answer");
        let headers = response.headers();
        assert_eq!(response.status(), 200);
        assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(headers["cache-control"], "no-store, no-transform");
        assert_eq!(headers["x-accel-buffering"], "no");
        assert_eq!(headers["vary"], "Origin");
        assert!(!headers.contains_key("content-length"));
        let head = Request::new(Method::HEAD, url).over(protocol).send().await;
        assert_eq!(
            (head.status.as_u16(), head.header("content-type").as_str()),
            (200, "text/event-stream; charset=utf-8")
        );
    }
}

#[tokio::test]
async fn real_refusals_are_problem_documents_and_tell_nothing_of_what_exists() {
    let site = Installation::start().await;
    let public = site.channel(Manifest::public("orders")).await;
    let token = site.channel(Manifest::new("test", "token").with("access/subscribe/topics", json!([">"]))).await;
    let granted = json!({ "mode": "Public", "topics": ["open.>"] });
    let some = site.channel(Manifest::public("some").with("access/subscribe", granted)).await;
    let missing = Manifest::public("missing");
    let (of_token, of_missing) =
        (get(site.url(0, &token, &[])).send().await, get(site.url(0, &missing, &[])).send().await);
    assert_problem(&of_token, 401);
    assert_problem(&of_missing, 401);
    assert_eq!(of_token.body, of_missing.body, "who shows nothing learns nothing");
    assert!(of_token.headers.contains_key("www-authenticate"));
    assert_problem(&Request::post(site.url(0, &public, &[]), "x").send().await, 401);
    assert_problem(&get(site.url(0, &some, &[("topic", "closed")])).send().await, 404);
    for query in ["topic=a..b", "topic=", "from=yesterday", "topics=a", "topic=a%20b"] {
        assert_problem(&get(format!("{}?{query}", site.url(0, &public, &[]))).send().await, 400);
    }
    for path in ["/", "/channels", "/channels/test/orders", "/channels/test/orders/events/x"] {
        assert_problem(&get(site.gateways[0].url() + path).send().await, 404);
    }
    let delete = Request::new(Method::DELETE, site.url(0, &public, &[])).send().await;
    assert_problem(&delete, 405);
    assert_eq!(delete.header("allow"), "GET, HEAD, POST, OPTIONS");
    let long = format!("{}?topic={}", site.url(0, &public, &[]), "a".repeat(9_000));
    assert_problem(&get(long).send().await, 414);
}

#[tokio::test]
async fn a_subscriber_receives_only_what_the_channel_grants() {
    let site = Installation::start().await;
    let granted = json!({ "mode": "Public", "topics": ["open.*"] });
    let channel = site.channel(Manifest::public("some").with("access/subscribe", granted)).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let publisher = site.publisher(&channel).await;
    for topic in ["closed", "", "open", "open.a.b", "open.a"] {
        publisher.publish(topic, topic).await;
    }
    assert_eq!(source.next_event().await.data, "open.a");
}

#[tokio::test]
async fn origins_are_exact_and_preflights_name_what_is_allowed() {
    let site = Installation::start().await;
    let cors = json!({ "origins": ["https://shop.example"], "allowCredentials": true });
    let channel = site.channel(Manifest::open("orders").with("cors", cors)).await;
    let url = site.url(0, &channel, &[]);
    let from = |origin: &str| get(url.clone()).header("origin", origin);
    let allowed = from("https://shop.example").open().await.expect("an answer");
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://shop.example");
    assert_eq!(allowed.headers()["access-control-allow-credentials"], "true");
    for other in ["https://shop.example.evil", "http://shop.example", "null"] {
        let answer = from(other).open().await.expect("an answer");
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{other}");
        assert_eq!(answer.headers()["vary"], "Origin");
    }
    let preflight = Request::new(Method::OPTIONS, url.clone())
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "last-event-id")
        .send()
        .await;
    assert_eq!(preflight.status, 204);
    for header in ["Last-Event-ID", "Authorization", "Cache-Control", "Content-Type", "Idempotency-Key"] {
        assert!(preflight.header("access-control-allow-headers").contains(header), "{header}");
    }
    let posted = Request::post(url, "x").header("origin", "https://shop.example").send().await;
    assert_eq!(posted.header("access-control-allow-origin"), "https://shop.example");
}

/// Pages can read why they are refused, and nobody can tell from it which channels there are.
#[tokio::test]
async fn refusals_and_preflights_are_the_same_for_channels_that_exist_and_that_do_not() {
    let site = Installation::start().await;
    let named = |name: &str| Manifest::new("test", name).with("access/publish", json!({ "mode": "Token" }));
    let (shop, news) = ("https://shop.example", "https://news.example");
    let with = |origin: &str, credentials: bool| json!({ "origins": [origin], "allowCredentials": credentials });
    let secret = site.channel(named("secret").with("cors", with(shop, true))).await;
    let plain = site.channel(named("plain")).await;
    let public = site.channel(Manifest::public("public").with("cors", with(news, false))).await;
    let missing = named("missing");
    let cors = |reply: &Reply| {
        ["allow-origin", "allow-credentials", "allow-headers", "expose-headers"]
            .map(|header| reply.header(&format!("access-control-{header}")))
    };
    for (origin, allowed, credentials) in [(shop, shop, "true"), (news, news, ""), ("https://evil.example", "", "")] {
        let ask = async |method: Method, channel: &Manifest| {
            let request = Request::new(method, site.url(0, channel, &[])).header("origin", origin);
            request.header("access-control-request-method", "POST").send().await
        };
        for (method, status) in [(Method::GET, 401), (Method::POST, 401), (Method::OPTIONS, 204), (Method::PUT, 405)] {
            let wanted = ask(method.clone(), &missing).await;
            assert_eq!(wanted.status, status, "{method}");
            assert_eq!(
                (
                    wanted.header("access-control-allow-origin").as_str(),
                    wanted.header("access-control-allow-credentials").as_str()
                ),
                (allowed, credentials),
                "{method} from {origin}"
            );
            for channel in [&secret, &plain] {
                let told = ask(method.clone(), channel).await;
                assert_eq!(
                    (told.status, cors(&told)),
                    (wanted.status, cors(&wanted)),
                    "{method} {} from {origin}",
                    channel.key()
                );
            }
        }
        // What a channel grants, its own origins may read.
        let granted = Request::new(Method::HEAD, site.url(0, &public, &[])).header("origin", origin).send().await;
        assert_eq!(granted.status, 200);
        assert_eq!(granted.header("access-control-allow-origin"), if origin == news { news } else { "" });
    }
}

#[tokio::test]
async fn http2_carries_many_streams_over_the_same_rules() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut one = site.client(0, &channel, &[]).open();
    let mut two = site.client(0, &channel, &[]).over(Protocol::H2c).open();
    one.next_checkpoint().await;
    two.next_checkpoint().await;
    let publisher = site.publisher(&channel).await;
    publisher.fill("a", 1_000).await;
    assert_eq!(one.take(1_000).await, two.take(1_000).await);
    two.interrupt();
    publisher.publish("a", "more").await;
    assert_eq!(two.next_event().await.data, "more");
}

#[tokio::test]
async fn above_a_limit_subscribers_are_sent_away_and_come_back_by_themselves() {
    let site = Installation::start().await;
    let limited = |name: &str, limit: &str, most: u32| Manifest::public(name).with(limit, most);
    let total = site.channel(limited("total", "limits/connections", 2)).await;
    let client = site.channel(limited("client", "limits/connectionsPerClient", 2)).await;
    for channel in [&total, &client] {
        let mut open: Vec<EventSource> = (0..2).map(|_| site.client(0, channel, &[]).open()).collect();
        for source in &mut open {
            source.next_checkpoint().await;
        }
        let url = site.url(0, channel, &[]);
        assert_sent_away(&get(url.clone()).send().await);
        let other = Request::get(url).header("accept", "application/json").send().await;
        assert_problem(&other, 503);
        assert!(other.header("retry-after").parse::<u64>().is_ok());
        let mut waiting = site.client(0, channel, &[]).reconnect_after(Duration::from_millis(20)).open();
        assert!(waiting.next_end().await, "a clean end");
        open.pop();
        waiting.next_checkpoint().await;
    }
}

#[tokio::test]
async fn connects_above_the_channels_rate_are_spread() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("rate").with("limits/connectsPerSecond", 5)).await;
    let url = site.url(0, &channel, &[]);
    let mut sources: Vec<EventSource> =
        (0..20).map(|_| Client::new(url.clone()).reconnect_after(Duration::from_millis(50)).open()).collect();
    for source in &mut sources {
        source.next_checkpoint().await;
    }
    let away = site.gateways[0].metrics().await.sum("tidings_turned_away_total");
    assert!(away > 0.0, "twenty at once are more than five in a second");
}

#[tokio::test]
async fn posts_are_answered_after_the_stream_has_them_and_refused_with_a_reason() {
    let site = Installation::start().await;
    let manifest = Manifest::open("orders").with("events/maxEventBytes", "1Ki");
    let channel = site.channel(manifest.with("access/publish/topics", json!(["user.*", "."]))).await;
    let post =
        |parameters: &[(&str, &str)], body: &str| Request::post(site.url(0, &channel, parameters), body.to_owned());
    let reply = post(&[("topic", "user.1"), ("event", "e"), ("ttl", "60")], "a").send().await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type").as_str()), (201, "application/json"));
    let publisher = site.publisher(&channel).await;
    assert_eq!(publisher.state().await.last_sequence, 1);
    let id = reply.json()["id"].as_str().map(str::to_owned).expect("an id");
    assert_eq!((sequence_of(&id), id.split('-').count()), (Some(1), 2), "epoch and sequence");
    let by_header = post(&[], "b").header("tidings-topic", "user.2").header("tidings-event", "e2").send().await;
    assert_eq!(by_header.status, 201, "{}", by_header.text());
    let stored = publisher.stream().await.get_raw_message(2).await.expect("it is stored");
    assert_eq!(stored.subject.as_str(), channel.subject("user.2"));
    assert_eq!(stored.headers.get("Tidings-Event").map(|value| value.as_str().to_owned()).as_deref(), Some("e2"));

    assert_problem(&post(&[("topic", "team.1")], "x").send().await, 404);
    assert_problem(&post(&[], &"x".repeat(1025)).send().await, 413);
    for (name, value) in [("topic", "user.*"), ("event", "tidings.gap"), ("event", "a\nb"), ("ttl", "0"), ("ttl", "x")]
    {
        assert_problem(&post(&[(name, value)], "x").send().await, 400);
    }
    assert_eq!(publisher.state().await.last_sequence, 2, "what was refused was not stored");
}

#[tokio::test]
async fn posts_above_the_channels_rate_are_told_when_to_come_back() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::open("rate").with("limits/publishPerSecond", 3)).await;
    let request = Request::post(site.url(0, &channel, &[]), "x");
    let limited = eventually(PATIENCE, "a limit", || async {
        let reply = request.send().await;
        (reply.status != 201).then_some(reply)
    })
    .await;
    assert_problem(&limited, 429);
    assert!(limited.header("retry-after").parse::<u64>().is_ok());
    eventually(PATIENCE, "the next second", || async { request.send().await.status == 201 }).await;
}

#[tokio::test]
async fn without_nats_streams_stay_open_newcomers_are_sent_away_and_only_readiness_fails() {
    let mut site = Installation::start().await;
    let channel = site.channel(Manifest::open("orders").with("events/heartbeatSeconds", 1)).await;
    let other = site.channel(Manifest::open("other")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    site.nats.kill9(0);
    eventually(PATIENCE, "the gateway is unready", || async { !site.gateways[0].is_ready().await }).await;
    assert!(site.gateways[0].is_live().await);
    let heartbeat = |happening: &Happening| matches!(happening, Happening::Comment(_)).then_some(());
    source.next("a heartbeat", heartbeat).await;
    assert_sent_away(&get(site.url(0, &other, &[])).send().await);
    let post = Request::post(site.url(0, &channel, &[]), "x").send().await;
    assert!([503, 504].contains(&post.status.as_u16()), "{}", post.text());
    site.nats.launch(0);
    site.nats.ready().await;
    site.gateways[0].ready().await;
    let sequence = Publisher::new(&site.jetstream().await, &channel).publish("a", "back").await;
    source.reaches(sequence).await;
    assert_eq!(source.events().last().map(|event| event.data.clone()).as_deref(), Some("back"));
    assert!(!source.record().iter().any(|entry| matches!(entry.what, Happening::End { .. })), "it stayed open");
}

#[tokio::test]
async fn slow_and_broken_requests_are_cut_off_and_cost_nobody_else() {
    let site = Settings::default().gateway_arg("--header-timeout=1s").gateway_arg("--body-timeout=1s").start().await;
    let channel = site.channel(Manifest::open("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let path = channel.path();
    for (name, bytes) in [
        ("nothing at all", Vec::new()),
        ("half a head", b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec()),
        ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n".to_vec()),
        ("an endless head", [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 100_000]].concat()),
        ("a preface and nothing more", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ] {
        let mut socket = TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens");
        let _ = socket.write_all(&bytes).await;
        let mut answer = Vec::new();
        let _ = within(PATIENCE, name, socket.read_to_end(&mut answer)).await;
    }
    let mut socket = TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens");
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    within(PATIENCE, "an answer to half a body", socket.read_to_end(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    site.publisher(&channel).await.publish("a", "unharmed").await;
    assert_eq!(source.next_event().await.data, "unharmed");
}

/// As nginx without `proxy_http_version`, and other old proxies: no `Host`, no chunks, one request a connection.
#[tokio::test]
async fn clients_of_http_1_0_are_served_and_every_answer_ends_with_its_connection() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::open("orders")).await;
    let path = channel.path();
    let ask = async |head: &str| {
        let mut socket = TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens");
        socket.write_all(format!("{head}\r\n\r\n").as_bytes()).await.expect("sent");
        socket
    };
    let whole = async |mut socket: TcpStream| {
        let mut answer = String::new();
        within(PATIENCE, "an end", socket.read_to_string(&mut answer)).await.expect("text");
        answer
    };
    let mut stream = ask(&format!("GET {path} HTTP/1.0\r\nAccept: text/event-stream\r\nConnection: keep-alive")).await;
    let mut read = String::new();
    let mut until = async |wanted: &str| {
        let reading = async {
            while !read.contains(wanted) {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).await.expect("it is open");
                assert!(count > 0, "{read}");
                read.push_str(std::str::from_utf8(&buffer[..count]).expect("ASCII"));
            }
        };
        within(PATIENCE, wanted, reading).await;
    };
    until("\nid: ").await;
    let publisher = site.publisher(&channel).await;
    for data in ["one", "two"] {
        publisher.publish("a", data).await;
        until(&format!("\ndata: {data}\nid: ")).await;
    }
    let head = read.split_once("\r\n\r\n").expect("a head").0.to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.") && head.contains("200 ok\r\n") && head.contains("\r\nconnection: close"),
        "{head}"
    );
    assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
    let posted = whole(ask(&format!("POST {path} HTTP/1.0\r\nContent-Length: 0")).await).await;
    assert!(posted.contains(" 201 "), "{posted}");
    let missing = whole(ask("GET /nothing HTTP/1.0").await).await;
    assert!(
        missing.contains(" 404 ") && missing.trim_end().ends_with('}') && !missing.contains("chunked"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_request_may_come_in_pieces_and_whoever_asks_may_fall_silent() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::open("orders")).await;
    let head = format!("POST {}?topic=a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1", channel.path());
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    // Both begin alike.
    for (request, answer) in [(head.as_bytes(), &b"HTTP/1.1 201 "[..]), (&preface, &[0, 0])] {
        for first in [1, 2, request.len() - 1, request.len()] {
            let mut socket = TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens");
            socket.write_all(&request[..first]).await.expect("sent");
            // Time enough for the gateway to look at it.
            assert_problem(&get(site.url(0, &Manifest::public("missing"), &[])).send().await, 401);
            socket.write_all(&request[first..]).await.expect("sent");
            if request == head.as_bytes() {
                socket.shutdown().await.expect("the gateway still listens");
            }
            let mut read = vec![0; answer.len()];
            within(PATIENCE, "an answer", socket.read_exact(&mut read)).await.expect("an answer");
            assert_eq!(read, answer, "{first} bytes first");
        }
    }
    assert_eq!(site.publisher(&channel).await.state().await.last_sequence, 4);
}

#[tokio::test]
async fn a_full_public_port_leaves_the_admin_port_alone() {
    let site = Settings::default().gateway_arg("--max-connections=32").start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut open: Vec<EventSource> = Vec::new();
    for _ in 0..30 {
        let source = site.client(0, &channel, &[]).open();
        source.wait_for("an answer", |record| (record.len() > 2).then_some(())).await;
        open.push(source);
    }
    let idle: Vec<TcpStream> =
        futures_util::future::join_all((0..60).map(|_| TcpStream::connect(site.gateways[0].address())))
            .await
            .into_iter()
            .filter_map(Result::ok)
            .collect();
    assert!(site.gateways[0].is_ready().await && site.gateways[0].try_metrics().await.is_some());
    site.publisher(&channel).await.publish("a", "still delivered").await;
    assert_eq!(open[0].next_event().await.data, "still delivered");
    drop((open, idle));
    let request = get(site.url(0, &channel, &[]));
    eventually(PATIENCE, "there is room again", || async {
        let answer: Result<_, WebError> = request.open_within(Duration::from_secs(1)).await;
        answer.is_ok_and(|answer| answer.headers().get("content-length").is_none())
    })
    .await;
}
