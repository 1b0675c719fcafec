//! The bytes of the event stream (WHATWG HTML, "Server-sent events"): everything a subscriber is ever sent is written here.
//!
//! UTF-8 without BOM, lines end with LF. An `id:` consists of `[a-z0-9-]` and is never empty: an empty one would erase
//! the browser's position.
//!
//! Two rules go beyond the standard, because clients do not all follow it:
//!
//! - `id:` is the last line of its block. Some clients adopt an id when they read it; if the stream is cut behind it, an
//!   event whose data had yet to come would be skipped.
//! - Every block has `data:`, and there is no empty line outside of blocks. Firefox, WebKit and most libraries forget an id
//!   that comes without data, and some libraries dispatch an empty event at every empty line.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tidings_crds::channel::Encoding;
use tidings_crds::position::Position;

use crate::log::chunked::{Frame, Writer};
use crate::log::publication::Publication;

/// How a channel's publications become frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// How bytes become text.
    pub encoding: Encoding,
    /// The largest publication sent as it is, in bytes.
    pub max_event_bytes: u64,
}

/// The JSON of a `tidings.gap`: continuity ends at `after` and begins again behind `resumed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Why continuity cannot be proven.
    pub reason: &'static str,
    /// The last position the subscriber is known to have seen, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The position before the next event, if the channel has positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<String>,
}

#[derive(Serialize)]
struct Oversize<'a> {
    bytes: usize,
    limit: u64,
    topic: &'a str,
}

#[derive(Serialize)]
struct End<'a> {
    reason: &'a str,
}

/// A comment: it keeps the connection alive and moves nothing. No empty line: see above.
pub const COMMENT: Frame = Frame::COMMENT;

/// The type of a checkpoint: an event without data that tells the position. `onmessage` does not see it.
pub const POSITION: &str = "tidings.position";

// === impl Framing ===

impl Framing {
    /// The frame of a publication; without `id` for an Ephemeral channel.
    pub fn publication(&self, publication: &Publication, id: Option<Position>) -> Frame {
        if publication.data.len() as u64 > self.max_event_bytes {
            let oversize =
                Oversize { bytes: publication.data.len(), limit: self.max_event_bytes, topic: &publication.topic };
            return control("tidings.oversize", id, &oversize);
        }
        let mut out = Writer::with_capacity(publication.data.len() + 96);
        if let Some(event) = &publication.event {
            field(&mut out, "event", event.as_str());
        }
        match self.encoding {
            Encoding::Base64 => field(&mut out, "data", &STANDARD.encode(&publication.data)),
            Encoding::Text => data(&mut out, &String::from_utf8_lossy(&publication.data)),
        }
        close(out, id)
    }
}

/// What a stream begins with: the reconnection time and, where there is one, the position to come back to.
pub fn opening(retry_milliseconds: u32, checkpoint: Option<Position>) -> Frame {
    let mut out = Writer::with_capacity(112);
    field(&mut out, "retry", &retry_milliseconds.to_string());
    match checkpoint {
        Some(position) => {
            position_event(&mut out);
            close(out, Some(position))
        }
        // It counts as soon as its line has ended, and the block goes on with the first event.
        None => out.finish(),
    }
}

/// A position to come back to, without an event of the channel's.
pub fn checkpoint(position: Position) -> Frame {
    let mut out = Writer::with_capacity(96);
    position_event(&mut out);
    close(out, Some(position))
}

fn position_event(out: &mut Writer) {
    field(out, "event", POSITION);
    out.put(b"data:\n");
}

/// A `tidings.gap`. `id` is the position before the next event.
pub fn gap(gap: &Gap, id: Option<Position>) -> Frame {
    control("tidings.gap", id, gap)
}

/// A `tidings.end` with the time to wait before coming back, and the position to come back to.
pub fn end(reason: &str, retry_milliseconds: u32, id: Option<Position>) -> Frame {
    let mut out = Writer::with_capacity(160);
    field(&mut out, "retry", &retry_milliseconds.to_string());
    control_into(out, "tidings.end", id, &End { reason })
}

fn control(event: &str, id: Option<Position>, json: &impl Serialize) -> Frame {
    control_into(Writer::with_capacity(256), event, id, json)
}

fn control_into(mut out: Writer, event: &str, id: Option<Position>, json: &impl Serialize) -> Frame {
    field(&mut out, "event", event);
    // JSON escapes CR and LF, so one line holds it; these types have string keys only and cannot fail.
    data(&mut out, &serde_json::to_string(json).unwrap_or_default());
    close(out, id)
}

/// Ends a block, with its id as the last line.
fn close(mut out: Writer, id: Option<Position>) -> Frame {
    if let Some(id) = id {
        field(&mut out, "id", &id.to_string());
    }
    out.put(b"\n");
    out.finish()
}

/// One field whose value has no line end: ids, numbers, base64, a cleaned [`crate::log::publication::EventType`].
fn field(out: &mut Writer, name: &str, value: &str) {
    out.put(name.as_bytes());
    out.put(b": ");
    out.put(value.as_bytes());
    out.put(b"\n");
}

/// One `data:` a line, whichever of CR, LF and CRLF ends it.
fn data(out: &mut Writer, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(['\r', '\n']) {
        let (line, tail) = rest.split_at(at);
        field(out, "data", line);
        rest = tail.strip_prefix("\r\n").or_else(|| tail.get(1..)).unwrap_or_default();
    }
    field(out, "data", rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::publication::EventType;
    use bytes::Bytes;
    use proptest::prelude::*;
    use tidings_crds::position::{Epoch, Stamp};

    const TEXT: Framing = Framing { encoding: Encoding::Text, max_event_bytes: 1 << 20 };

    fn publication(event: Option<&str>, bytes: &[u8]) -> Publication {
        Publication {
            sequence: 7,
            time: 35,
            topic: "user.42".into(),
            event: event.map(|e| EventType::new(e).unwrap()),
            data: Bytes::copy_from_slice(bytes),
            marker: false,
            unrouted: false,
        }
    }

    fn position() -> Position {
        Position { epoch: Epoch::from_nanos(10), sequence: 7, stamp: Some(Stamp::from_millis(35)) }
    }

    /// The event-stream interpretation of the WHATWG, for one block.
    fn parse(block: &str) -> (Option<String>, Option<String>, Option<String>) {
        let (mut event, mut id, mut lines) = (None, None, Vec::new());
        let body = block.strip_suffix("\n\n").expect("a block ends with an empty line");
        assert!(!block.contains('\r'));
        for line in body.split('\n') {
            assert!(!line.is_empty(), "an empty line in the middle ends the block");
            assert_eq!(id, None, "nothing stands behind the id");
            let (name, value) = line.split_once(':').unwrap();
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match name {
                "event" => event = Some(value),
                "id" => id = Some(value),
                "data" => lines.push(value),
                "retry" => {}
                other => panic!("unknown field {other}"),
            }
        }
        (event, id, (!lines.is_empty()).then(|| lines.join("\n")))
    }

    #[test]
    fn a_publication_is_event_data_and_id() {
        let frame = TEXT.publication(&publication(Some("order.created"), b"{\"total\": 12}"), Some(position()));
        assert_eq!(frame, "event: order.created\ndata: {\"total\": 12}\nid: a-7-z\n\n");
    }

    #[test]
    fn every_kind_of_line_end_splits_data() {
        let frame = TEXT.publication(&publication(None, b"a\rb\nc\r\nd\n"), None);
        assert_eq!(frame, "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
    }

    #[test]
    fn empty_data_is_still_an_event() {
        assert_eq!(TEXT.publication(&publication(None, b""), None), "data: \n\n");
    }

    #[test]
    fn what_is_not_utf8_is_replaced_or_encoded() {
        assert_eq!(TEXT.publication(&publication(None, b"a\xffb"), None), "data: a\u{fffd}b\n\n");
        let base64 = Framing { encoding: Encoding::Base64, ..TEXT };
        assert_eq!(base64.publication(&publication(None, b"a\xffb"), None), "data: Yf9i\n\n");
    }

    #[test]
    fn a_large_publication_becomes_an_oversize_event() {
        let small = Framing { max_event_bytes: 3, ..TEXT };
        let frame = small.publication(&publication(Some("x"), b"1234"), Some(position()));
        assert_eq!(
            frame,
            "event: tidings.oversize\ndata: {\"bytes\":4,\"limit\":3,\"topic\":\"user.42\"}\nid: a-7-z\n\n"
        );
    }

    #[test]
    fn control_blocks_are_as_documented() {
        assert_eq!(opening(3000, Some(position())), "retry: 3000\nevent: tidings.position\ndata:\nid: a-7-z\n\n");
        assert_eq!(opening(3000, None), "retry: 3000\n");
        assert_eq!(checkpoint(position()), "event: tidings.position\ndata:\nid: a-7-z\n\n");
        let ended = "retry: 812\nevent: tidings.end\ndata: {\"reason\":\"shutdown\"}\n";
        assert_eq!(end("shutdown", 812, None), format!("{ended}\n"));
        assert_eq!(end("shutdown", 812, Some(position())), format!("{ended}id: a-7-z\n\n"));
        let told = Gap { reason: "expired", after: Some("a-1".into()), resumed: Some("a-7-z".into()) };
        assert_eq!(
            gap(&told, Some(position())),
            "event: tidings.gap\ndata: {\"reason\":\"expired\",\"after\":\"a-1\",\"resumed\":\"a-7-z\"}\nid: a-7-z\n\n"
        );
    }

    #[test]
    fn every_block_has_data_and_nothing_behind_its_id() {
        let told = Gap { reason: "expired", after: None, resumed: None };
        let at = Some(position());
        for block in [opening(500, at), checkpoint(position()), end("shutdown", 812, at), gap(&told, at)] {
            let (_, id, data) = parse(std::str::from_utf8(&block.text()).unwrap());
            assert!(data.is_some() && id.as_deref() == Some("a-7-z"), "{block:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_a_text_frame_gives_the_publication_back(bytes: Vec<u8>, event in prop::option::of(".{1,20}")) {
            let event = event.and_then(|e| EventType::new(&e).ok());
            let frame = TEXT.publication(&Publication { event: event.clone(), ..publication(None, &bytes) }, Some(position()));
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n").replace('\r', "\n");
            let expected = (event.map(|e| e.as_str().to_owned()), Some("a-7-z".to_owned()), Some(text));
            prop_assert_eq!(parse(std::str::from_utf8(&frame.text()).unwrap()), expected);
        }

        #[test]
        fn parsing_a_base64_frame_gives_the_bytes_back(bytes: Vec<u8>) {
            let base64 = Framing { encoding: Encoding::Base64, ..TEXT };
            let frame = base64.publication(&publication(None, &bytes), None);
            let (_, _, text) = parse(std::str::from_utf8(&frame.text()).unwrap());
            prop_assert_eq!(STANDARD.decode(text.unwrap()).unwrap(), bytes);
        }
    }
}
