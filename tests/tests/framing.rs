//! Whatever publishers send, what a subscriber parses is what was published, and the stream stays a stream.

use http_body_util::BodyExt;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tidings_tests::installation::Installation;
use tidings_tests::manifest::Manifest;
use tidings_tests::publisher::Publication;
use tidings_tests::raw::RawNats;
use tidings_tests::seed::Seed;
use tidings_tests::sse::Parser;
use tidings_tests::truth::as_text;
use tidings_tests::wait::{PATIENCE, within};
use tidings_tests::web::Request;

/// Pieces that framing could stumble over.
const HOSTILE: [&[u8]; 20] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\n\r",
    b"\0",
    b":",
    b" ",
    b"data: x",
    b"id: 1-1",
    b"id:",
    b"event: tidings.gap",
    b"retry: 0",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    "é".as_bytes(),
    "\u{2028}".as_bytes(),
    b"plain",
];

fn hostile(rng: &mut StdRng) -> Vec<u8> {
    let pieces = rng.random_range(0..12);
    let mut bytes = Vec::new();
    for _ in 0..pieces {
        if rng.random_bool(0.2) {
            bytes.extend((0..rng.random_range(0..8)).map(|_| rng.random::<u8>()));
        } else {
            bytes.extend_from_slice(HOSTILE.choose(rng).expect("there are pieces"));
        }
    }
    bytes
}

/// A topic of any characters that NATS and the channel allow.
fn topic(rng: &mut StdRng) -> String {
    let letters: Vec<char> = "aZ9-_:;,=&?#%+~'\"\\/{}()é\u{fffd}日".chars().collect();
    let token = |rng: &mut StdRng| -> String {
        (0..rng.random_range(1..6)).map(|_| *letters.choose(rng).expect("there are letters")).collect()
    };
    (0..rng.random_range(1..4)).map(|_| token(rng)).collect::<Vec<_>>().join(".")
}

/// An event type as a NATS client can send it, and as it arrives.
fn event(rng: &mut StdRng) -> (String, String) {
    let letters: Vec<char> = "aZ.:; \0\t\u{feff}é日{}\"".chars().collect();
    let text: String = (0..rng.random_range(1..10)).map(|_| *letters.choose(rng).expect("there are letters")).collect();
    let text = text.trim().to_owned();
    let cleaned: String = text.chars().filter(|c| *c != '\0').collect();
    (text, if cleaned.is_empty() { "message".to_owned() } else { cleaned })
}

#[tokio::test]
async fn what_a_subscriber_parses_is_what_was_published() {
    let mut rng = Seed::from_environment().rng();
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("any").with("events/maxEventBytes", "1Mi")).await;
    let mut live = site.subscribe(0, &channel, &[]).await;
    let publisher = site.publisher(&channel).await;
    let mut published = Vec::new();
    for _ in 0..300 {
        let (data, topic, (sent, event)) = (hostile(&mut rng), topic(&mut rng), event(&mut rng));
        let publication = Publication::new(&topic, data.clone());
        let publication = if sent.is_empty() { publication } else { publication.event(&sent) };
        publisher.send(publication).await;
        published.push((event, as_text(&data)));
    }
    let mut replayed = site.client(0, &channel, &[("from", "all")]).open();
    let (live, replayed) = (live.take(published.len()).await, replayed.take(published.len()).await);
    for ((event, expected), data) in live.iter().zip(&published).zip(0..) {
        assert_eq!((&event.event, &event.data), (&expected.0, &expected.1), "publication {data}");
    }
    assert_eq!(live, replayed, "live and replayed events are the same bytes");
}

#[tokio::test]
async fn the_bytes_of_a_stream_are_utf8_with_lf_and_whole_blocks() {
    let mut rng = Seed::from_environment().rng();
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("bytes")).await;
    let publisher = site.publisher(&channel).await;
    for _ in 0..100 {
        publisher.publish("a", hostile(&mut rng)).await;
    }
    let request = Request::get(site.url(0, &channel, &[("from", "all")])).header("accept", "text/event-stream");
    let mut body = request.open().await.expect("a stream").into_body();
    let (mut bytes, mut parser, mut events) = (Vec::new(), Parser::new(""), 0);
    while events < 100 {
        let frame = within(PATIENCE, "more bytes", body.frame()).await.expect("no end").expect("no error");
        let data = frame.into_data().expect("no trailers");
        assert!(data.ends_with(b"\n"), "every write ends with a whole line");
        events += parser.feed(&data).iter().filter(|item| matches!(item, tidings_tests::sse::Item::Event(_))).count();
        bytes.extend_from_slice(&data);
    }
    let text = String::from_utf8(bytes).expect("UTF-8");
    assert!(!text.contains('\r'));
    assert!(text.lines().all(|line| line.starts_with("data: ") || !line.contains('\0')), "NUL stands in data alone");
    assert!(!text.starts_with('\u{feff}'));
    for block in text.split_terminator("\n\n") {
        assert!(block.lines().any(|line| line.starts_with("data:")), "clients forget an id without data: {block:?}");
        let id = block.lines().position(|line| line.starts_with("id: ")).expect("every block here has one");
        assert_eq!(id + 1, block.lines().count(), "clients adopt an id where they read it: {block:?}");
    }
    for line in text.lines().filter(|line| line.starts_with("id")) {
        let id = line.strip_prefix("id: ").expect("never an empty id");
        assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{id}");
    }
}

#[tokio::test]
async fn a_message_of_one_mebibyte_arrives_whole() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("large").with("events/maxEventBytes", "2Mi")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let mut rng = Seed::from_environment().rng();
    let mut data: Vec<u8> = (0..1 << 20).map(|_| rng.random_range(b'a'..=b'z')).collect();
    for at in (0..data.len()).step_by(1000) {
        data[at] = b'\n';
    }
    let publisher = site.publisher(&channel).await;
    publisher.publish("a", data.clone()).await;
    publisher.publish("a", vec![b'\r'; 1 << 20]).await;
    publisher.publish("a", vec![0xff; 1 << 20]).await;
    publisher.publish("a", "after").await;
    let events = source.take(4).await;
    assert!(events[0].data == as_text(&data));
    assert!(events[1].data.len() == 1 << 20 && events[1].data.bytes().all(|b| b == b'\n'));
    assert!(events[2].data.chars().count() == 1 << 20 && events[2].data.chars().all(|c| c == '\u{fffd}'));
    assert_eq!(events[3].data, "after");
}

#[tokio::test]
async fn hostile_event_types_become_harmless_ones() {
    let site = Installation::start().await;
    let channel = site.channel(Manifest::public("types")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let mut raw = RawNats::connect(site.nats.address(0)).await;
    let subject = channel.subject("a");
    let long = "x".repeat(300);
    let cases: [(&[u8], &str); 7] = [
        // A CR within a value is no header block that the client library can read: delivered without headers.
        (b"a\rdata: forged\rid: 1-1", "message"),
        (b"a\0b", "ab"),
        (b"tidings.gap", "message"),
        (b"\0tidings.end", "message"),
        (b"ti\0dings.end", "message"),
        (b"", "message"),
        (long.as_bytes(), "message"),
    ];
    for (event, _) in &cases {
        let block = [b"NATS/1.0\r\nTidings-Event: ", *event, b"\r\n\r\n"].concat();
        raw.publish(&subject, &block, b"x").await;
    }
    raw.flush().await;
    let events = source.take(cases.len()).await;
    let received: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(received, cases.map(|(_, expected)| expected));
    assert!(events.iter().all(|event| event.data == "x"));
}
