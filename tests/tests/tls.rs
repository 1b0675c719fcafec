//! TLS on the public port: both protocols, resuming, renewed certificates, client certificates, and clients that do not
//! get through the handshake.

use std::time::Duration;

use tidings_tests::event_source::{EventSource, Settings as Client};
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::kube_authority::KubeAuthority;
use tidings_tests::manifest::Manifest;
use tidings_tests::tls::{TlsClient, TlsFolder};
use tidings_tests::wait::{PATIENCE, eventually, within};
use tidings_tests::web::{Protocol, Request, WebError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::H2];

fn authority() -> KubeAuthority {
    KubeAuthority::new().expect("an authority")
}

/// A gateway with a certificate of a new authority.
async fn secured() -> (Installation, TlsFolder, KubeAuthority) {
    let authority = authority();
    let folder = TlsFolder::of(&authority);
    let site = Settings::default().tls(&folder, TlsClient::trusting(&authority)).start().await;
    (site, folder, authority)
}

/// Waits until a counter of the gateway has reached this.
async fn counted(site: &Installation, metric: &str, label: &str, least: f64) {
    eventually(PATIENCE, &format!("{metric}{{{label}}}"), || async {
        let now = site.gateways[0].metrics().await.sum_where(metric, &[label]);
        (now >= least).then_some(()).ok_or(now)
    })
    .await;
}

async fn handshakes(site: &Installation, outcome: &str) {
    counted(site, "tidings_tls_handshakes_total", &format!("outcome=\"{outcome}\""), 1.0).await;
}

#[tokio::test]
async fn streams_are_delivered_and_resumed_over_both_protocols() {
    let (site, _folder, authority) = secured().await;
    let channel = site.channel(Manifest::open("orders")).await;
    let publisher = site.publisher(&channel).await;
    let old = TlsClient::old(&authority);
    let mut sources: Vec<EventSource> = Vec::new();
    for protocol in PROTOCOLS {
        sources.push(site.client(0, &channel, &[]).over(protocol).open());
        sources.push(site.client(0, &channel, &[]).over(protocol).secured(Some(&old)).open());
    }
    for source in &mut sources {
        source.next_checkpoint().await;
    }
    publisher.fill("a", 1_000).await;
    // Larger than what a session buffers, and than a TLS record.
    publisher.publish("a", "x".repeat(60_000)).await;
    let first = sources[0].take(1_001).await;
    for source in &mut sources[1..] {
        assert_eq!(source.take(1_001).await, first);
    }
    for source in &sources {
        source.interrupt();
    }
    publisher.publish("a", "while they were away").await;
    for source in &mut sources {
        assert_eq!(source.next_event().await.data, "while they were away");
    }
    for protocol in PROTOCOLS {
        let post = Request::post(site.url(0, &channel, &[]), "posted").over(protocol).secured(site.gateways[0].tls());
        assert_eq!(post.send().await.status, 201);
        for source in &mut sources {
            assert_eq!(source.next_event().await.data, "posted");
        }
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_newcomers_and_ends_no_stream() {
    let (site, folder, _) = secured().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut sources: Vec<EventSource> = Vec::new();
    for protocol in PROTOCOLS {
        sources.push(site.client(0, &channel, &[]).over(protocol).open());
    }
    for source in &mut sources {
        source.next_checkpoint().await;
    }
    let expiry = site.gateways[0].metrics().await.sum("tidings_tls_certificate_expiry_seconds");
    assert!(expiry > 1.7e9, "{expiry}");

    // A pair that does not match, garbage, and no file at all: each is refused, and the first certificate goes on.
    let other = authority();
    let url = site.url(0, &channel, &[]);
    let served =
        |client: TlsClient| Request::get(url.clone()).header("accept", "text/event-stream").secured(Some(&client));
    let key = std::fs::read_to_string(folder.path("tls.key")).expect("it was written");
    for (refused, break_it) in [
        (
            1.0,
            Box::new(|| folder.write("tls.key", &other.server("x", &[]).expect("a certificate").key)) as Box<dyn Fn()>,
        ),
        (2.0, Box::new(|| folder.write("tls.key", "-----BEGIN PRIVATE KEY-----\n"))),
        (3.0, Box::new(|| std::fs::remove_file(folder.path("tls.key")).expect("it was written"))),
    ] {
        break_it();
        counted(&site, "tidings_tls_certificate_changes_total", "change=\"refused\"", refused).await;
        served(site.gateways[0].tls().expect("secured").clone()).open().await.expect("the last good certificate");
    }
    folder.write("tls.key", &key);
    counted(&site, "tidings_tls_certificate_changes_total", "change=\"applied\"", 1.0).await;

    // Now one of another authority.
    let trusting = TlsClient::trusting(&other);
    assert!(matches!(served(trusting.clone()).open().await, Err(WebError::Connect(_))), "not trusted before");
    handshakes(&site, "refused").await;
    folder.renew(&other);
    eventually(PATIENCE, "the new certificate is shown", || async { served(trusting.clone()).open().await }).await;

    site.publisher(&channel).await.publish("a", "on the streams from before").await;
    for source in &mut sources {
        assert_eq!(source.next_event().await.data, "on the streams from before");
    }
    assert!(!site.gateways[0].process().output().contains("PRIVATE KEY"), "no key is logged");
}

#[tokio::test]
async fn clients_need_a_certificate_where_it_is_asked_for() {
    let (of_server, of_clients) = (authority(), authority());
    let folder = TlsFolder::of(&of_server);
    folder.write("ca.crt", &of_clients.certificate());
    let known = TlsClient::showing_to(&of_server, &of_clients.client("service", None).expect("a certificate"));
    let unknown = TlsClient::showing_to(&of_server, &of_server.client("service", None).expect("a certificate"));
    let nobody = TlsClient::trusting(&of_server);
    let client_ca = folder.flag("tls-client-ca", "ca.crt");
    let site = Settings::default().tls(&folder, known.clone()).gateway_arg(&client_ca).start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let url = site.url(0, &channel, &[]);
    let mut source = site.subscribe(0, &channel, &[]).await;
    let mut refused = 0.0;
    for protocol in PROTOCOLS {
        for stranger in [&unknown, &nobody] {
            let answer = Request::get(url.clone()).over(protocol).secured(Some(stranger)).open().await;
            assert!(answer.is_err(), "a stranger was answered");
            refused += 1.0;
            counted(&site, "tidings_tls_handshakes_total", "outcome=\"client-certificate\"", refused).await;
        }
    }
    site.publisher(&channel).await.publish("a", "for those who are known").await;
    assert_eq!(source.next_event().await.data, "for those who are known");

    // Whom clients are signed by can change as well; who came before stays.
    folder.write("ca.crt", &of_server.certificate());
    let request = Request::get(url.clone()).header("accept", "text/event-stream").secured(Some(&unknown));
    eventually(PATIENCE, "the other authority's client is let in", || request.open()).await;
    let answer = Request::get(url).secured(Some(&known)).open().await;
    assert!(answer.is_err(), "the first authority's client is let in no longer");
    site.publisher(&channel).await.publish("a", "still there").await;
    assert_eq!(source.next_event().await.data, "still there");
}

#[tokio::test]
async fn who_is_slow_or_speaks_something_else_is_cut_off_and_counted() {
    let authority = authority();
    let folder = TlsFolder::of(&authority);
    let settings = Settings::default().tls(&folder, TlsClient::trusting(&authority)).gateway_arg("--header-timeout=1s");
    let site = settings.start().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    for (bytes, outcome) in [
        (&b""[..], "timeout"),
        // The head of a ClientHello, and nothing more.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "timeout"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "protocol"),
    ] {
        let mut socket = TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens");
        socket.write_all(bytes).await.expect("sent");
        let _ = within(PATIENCE, "the end", socket.read_to_end(&mut Vec::new())).await;
        handshakes(&site, outcome).await;
    }
    drop(TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens"));
    handshakes(&site, "gone").await;

    // A session, and no request on it: both protocols have the same deadline.
    for protocol in ["http/1.1", "h2"] {
        let socket = TcpStream::connect(site.gateways[0].address()).await.expect("the gateway listens");
        let mut session = TlsClient::trusting(&authority).connect(socket, protocol).await.expect("a session");
        let _ = within(PATIENCE, "the end", session.read_to_end(&mut Vec::new())).await;
    }
    counted(&site, "tidings_connection_errors_total", "kind=\"header-timeout\"", 2.0).await;
    let faults = site.gateways[0].metrics().await.sum_where("tidings_connection_errors_total", &["kind=\"handshake\""]);
    assert_eq!(faults, 3.0, "who merely leaves is no fault");
    site.publisher(&channel).await.publish("a", "unharmed").await;
    assert_eq!(source.next_event().await.data, "unharmed");
}

#[tokio::test]
async fn streams_over_tls_end_in_an_orderly_way() {
    let (mut site, ..) = secured().await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut sources: Vec<EventSource> = PROTOCOLS
        .iter()
        .map(|protocol| {
            Client::reconnect_after(site.client(0, &channel, &[]).over(*protocol), Duration::from_secs(3600))
        })
        .map(Client::open)
        .collect();
    for source in &mut sources {
        source.next_checkpoint().await;
    }
    site.gateways[0].terminate().await;
    for (source, protocol) in sources.iter_mut().zip(&PROTOCOLS) {
        assert_eq!(source.next_event().await.event, "tidings.end");
        assert_eq!(source.next_end().await, *protocol == Protocol::H2, "an end to come back from: {protocol:?}");
    }
}
