//! A frame as it is kept: once, with the header and the end of an HTTP/1.1 chunk around it (RFC 9112, section 7.1). HTTP/1.1
//! sends the whole of it; HTTP/2, which has frames of its own, and HTTP/1.0, which has none, send what is inside.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Some bytes of an event stream: one block or several, or a line of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Header, text and end of the chunk. Empty if the text is: a chunk without text would be the last.
    chunk: Bytes,
    /// The length of the header.
    header: u8,
}

/// Collects the text of a frame.
#[derive(Debug)]
pub struct Writer(BytesMut);

/// The end of a response in chunks.
pub const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// Room for a chunk's header: the size, which in hexadecimal digits of 32 bits are at most eight, and a line end.
const HEADER: usize = 8 + LINE_END.len();

const LINE_END: &[u8] = b"\r\n";

// === impl Frame ===

impl Frame {
    /// A comment.
    pub(super) const COMMENT: Self = Self { chunk: Bytes::from_static(b"2\r\n:\n\r\n"), header: 3 };

    /// As a chunk, or without one around it.
    pub fn on_the_wire(self, chunked: bool) -> Bytes {
        if chunked { self.chunk } else { self.text() }
    }

    /// Without the chunk around it.
    pub fn text(&self) -> Bytes {
        self.chunk.slice(self.range())
    }

    /// The length of the text.
    pub fn len(&self) -> usize {
        self.range().len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.chunk.is_empty()
    }

    /// Puts frames together into one; `length` is that of all their texts.
    pub fn join<'f>(frames: impl Iterator<Item = &'f Self>, length: usize) -> Self {
        let mut joined = Writer::with_capacity(length);
        frames.for_each(|frame| joined.put(frame.as_slice()));
        joined.finish()
    }

    fn as_slice(&self) -> &[u8] {
        self.chunk.get(self.range()).unwrap_or_default()
    }

    fn range(&self) -> std::ops::Range<usize> {
        let start = usize::from(self.header);
        start..self.chunk.len().saturating_sub(LINE_END.len()).max(start)
    }
}

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        let mut writer = Writer::with_capacity(text.len());
        writer.put(text.as_bytes());
        writer.finish()
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl PartialEq<&str> for Frame {
    fn eq(&self, text: &&str) -> bool {
        self.as_slice() == text.as_bytes()
    }
}

impl PartialEq<String> for Frame {
    fn eq(&self, text: &String) -> bool {
        *self == text.as_str()
    }
}

// === impl Writer ===

impl Writer {
    /// With room for a text of this length.
    pub fn with_capacity(length: usize) -> Self {
        let mut out = BytesMut::with_capacity(HEADER + length + LINE_END.len());
        out.put_bytes(0, HEADER);
        Self(out)
    }

    /// Adds to the text.
    pub fn put(&mut self, text: &[u8]) {
        self.0.put_slice(text);
    }

    /// The frame with what was put.
    pub fn finish(self) -> Frame {
        let Self(mut out) = self;
        let mut rest = out.len().saturating_sub(HEADER);
        if rest == 0 {
            return Frame::default();
        }
        out.put_slice(LINE_END);
        // The size is written backwards, up to the text.
        let mut start = HEADER;
        if let Some(room) = out.get_mut(..HEADER) {
            for (place, byte) in room.iter_mut().rev().enumerate() {
                *byte = match place {
                    0 => b'\n',
                    1 => b'\r',
                    _ if rest == 0 => break,
                    _ => {
                        let digit = char::from_digit((rest & 0xf) as u32, 16).map_or(b'0', |digit| digit as u8);
                        rest >>= 4;
                        digit
                    }
                };
                start -= 1;
            }
        }
        out.advance(start);
        Frame { chunk: out.freeze(), header: (HEADER - start) as u8 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_kept_as_a_chunk() {
        let frame = Frame::from("data: a\n\n");
        assert_eq!(frame, "data: a\n\n");
        assert_eq!((frame.text(), frame.len()), (Bytes::from_static(b"data: a\n\n"), 9));
        assert_eq!(frame.on_the_wire(true), "9\r\ndata: a\n\n\r\n");
        assert_eq!(Frame::from("x".repeat(0x1a2b)).on_the_wire(true).slice(..6), "1a2b\r\n");
    }

    #[test]
    fn nothing_is_no_chunk_as_that_would_be_the_last() {
        let nothing = Frame::from("");
        assert!(nothing.is_empty());
        assert_eq!((nothing.text(), nothing.clone().on_the_wire(true), nothing.len()), (Bytes::new(), Bytes::new(), 0));
        assert_eq!(nothing, Frame::default());
    }

    #[test]
    fn frames_are_put_together_into_one_chunk() {
        let frames = [Frame::from("data: a\n\n"), Frame::from("data: b\n\n")];
        let joined = Frame::join(frames.iter(), 18);
        assert_eq!(joined.on_the_wire(true), "12\r\ndata: a\n\ndata: b\n\n\r\n");
    }

    #[test]
    fn a_comment_is_a_frame_like_others() {
        assert_eq!(Frame::COMMENT, Frame::from(":\n"));
    }

    proptest! {
        #[test]
        fn a_chunk_says_how_long_its_text_is(length in 1usize..100_000) {
            let chunk = Frame::from("x".repeat(length)).on_the_wire(true);
            prop_assert_eq!(chunk, format!("{length:x}\r\n{}\r\n", "x".repeat(length)));
        }
    }
}
