//! An incremental parser of event streams, as the WHATWG HTML standard defines it in section 9.2.6,
//! "Interpreting an event stream". It tells more than a browser does: comments, checkpoints, and blocks without data.
//!
//! In one thing it follows what most clients do and not the standard: it [forgets](Memory) an id that comes without data.

/// One dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The last event id at the time of the dispatch; empty if there was none.
    pub id: String,
    /// The type; `message` if the stream named none.
    pub event: String,
    /// The data, lines joined by LF.
    pub data: String,
}

/// What a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// An event `tidings.position`, with the id that it leaves behind.
    Checkpoint(String),
    /// A block without data: nothing fires by the standard, and an empty event in several libraries.
    Blank,
    /// The reconnection time, in milliseconds.
    Retry(u64),
    /// A comment, without its colon.
    Comment(String),
}

/// Which ids a client remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Those of blocks with data: Firefox, WebKit, and `eventsource` for Node.
    #[default]
    WithData,
    /// All, as the standard has it: Chromium.
    Always,
}

/// The parser. Feed it bytes as they come.
#[derive(Debug, Default)]
pub struct Parser {
    memory: Memory,
    line: Vec<u8>,
    /// Bytes of a possible byte order mark seen so far; 3 once that is decided.
    start: usize,
    after_cr: bool,
    data: Vec<u8>,
    event: String,
    id_buffer: String,
    last_id: String,
}

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

// === impl Parser ===

impl Parser {
    /// At the start of a stream, with the last event id from the connection before.
    pub fn new(last_id: impl Into<String>) -> Self {
        let last_id = last_id.into();
        Self { id_buffer: last_id.clone(), last_id, ..Self::default() }
    }

    /// Remembers these ids.
    pub fn remembering(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// What a reconnecting client sends; empty before the first id.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// Reads on and returns what became complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_cr) => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    let line = if std::mem::replace(&mut self.start, 3) < 3 {
                        line.strip_prefix(&BOM).unwrap_or(&line)
                    } else {
                        &line
                    };
                    self.end_line(&String::from_utf8_lossy(line), &mut items);
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                }
            }
        }
        items
    }

    fn end_line(&mut self, line: &str, items: &mut Vec<Item>) {
        if line.is_empty() {
            items.extend(self.dispatch());
            return;
        }
        let (field, value) = match line.split_once(':') {
            Some(("", comment)) => return items.push(Item::Comment(comment.to_owned())),
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.extend_from_slice(value.as_bytes());
                self.data.push(b'\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id_buffer),
            "retry" if value.bytes().all(|b| b.is_ascii_digit()) => items.extend(value.parse().ok().map(Item::Retry)),
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Item> {
        let event = std::mem::take(&mut self.event);
        if self.data.is_empty() {
            match self.memory {
                Memory::WithData => self.id_buffer.clone_from(&self.last_id),
                Memory::Always => self.last_id.clone_from(&self.id_buffer),
            }
            return Some(Item::Blank);
        }
        self.last_id.clone_from(&self.id_buffer);
        self.data.pop();
        let data = String::from_utf8_lossy(&std::mem::take(&mut self.data)).into_owned();
        if event == "tidings.position" && data.is_empty() {
            return Some(Item::Checkpoint(self.last_id.clone()));
        }
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Item::Event(Event { id: self.last_id.clone(), event, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<Item> {
        Parser::new("").feed(text.as_bytes())
    }

    fn event(id: &str, event: &str, data: &str) -> Item {
        Item::Event(Event { id: id.into(), event: event.into(), data: data.into() })
    }

    #[test]
    fn the_examples_of_the_standard_read_as_it_says() {
        assert_eq!(read("data: YHOO\ndata: +2\ndata: 10\n\n"), [event("", "message", "YHOO\n+2\n10")]);
        assert_eq!(
            read(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"),
            [
                Item::Comment(" test stream".into()),
                Item::Blank,
                event("1", "message", "first event"),
                event("", "message", "second event"),
                event("", "message", " third event")
            ]
        );
        assert_eq!(read("data\n\ndata\ndata\n\ndata:"), [event("", "message", ""), event("", "message", "\n")]);
        assert_eq!(read("data:test\n\ndata: test\n\n"), [event("", "message", "test"), event("", "message", "test")]);
    }

    #[test]
    fn lines_end_with_cr_lf_or_both() {
        let expected = [event("1", "x", "a\nb")];
        for end in ["\n", "\r", "\r\n"] {
            assert_eq!(read(&["event: x", "id: 1", "data: a", "data: b", "", ""].join(end)), expected, "{end:?}");
        }
    }

    #[test]
    fn one_byte_order_mark_is_dropped_at_the_start_only() {
        assert_eq!(read("\u{feff}data: a\n\n"), [event("", "message", "a")]);
        assert_eq!(read("\u{feff}\u{feff}data: a\n\n"), [Item::Blank]);
        assert_eq!(read(":\n\u{feff}data: a\n\n"), [Item::Comment(String::new()), Item::Blank]);
    }

    #[test]
    fn an_id_with_nul_is_ignored_and_an_empty_one_erases() {
        assert_eq!(read("id: 1\nid: 2\0\ndata: a\n\n"), [event("1", "message", "a")]);
        assert_eq!(read("id: 1\ndata: a\n\nid\ndata: b\n\n"), [event("1", "message", "a"), event("", "message", "b")]);
    }

    #[test]
    fn an_id_without_data_is_forgotten_or_not() {
        for (memory, last) in [(Memory::WithData, "7"), (Memory::Always, "8")] {
            let mut parser = Parser::new("7").remembering(memory);
            assert_eq!(parser.feed(b"id: 8\n\ndata: a\n\n"), [Item::Blank, event(last, "message", "a")]);
            assert_eq!(parser.last_id(), last);
        }
    }

    #[test]
    fn a_checkpoint_is_a_named_event_without_data() {
        let mut parser = Parser::new("");
        assert_eq!(parser.feed(b"event: tidings.position\ndata:\nid: 8\n\n"), [Item::Checkpoint("8".into())]);
        assert_eq!(parser.last_id(), "8");
    }

    #[test]
    fn an_id_counts_from_the_end_of_its_block() {
        let mut parser = Parser::new("7");
        assert_eq!(parser.feed(b"id: 8\ndata: a\n"), []);
        assert_eq!(parser.last_id(), "7");
        assert_eq!(parser.feed(b"\n"), [event("8", "message", "a")]);
        assert_eq!(parser.last_id(), "8");
    }

    #[test]
    fn a_type_without_data_fires_nothing_and_is_forgotten() {
        assert_eq!(read("event: x\n\ndata: a\n\n"), [Item::Blank, event("", "message", "a")]);
    }

    #[test]
    fn only_digits_are_a_retry() {
        assert_eq!(read("retry: 10\nretry: 1s\nretry: -1\nretry: \n"), [Item::Retry(10)]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            text in "(data: [a-c]{0,3}|id: [0-9]{0,2}|event: e|retry: 1|:c|\u{feff}|\n|\r|\r\n|é){0,40}",
            cuts in prop::collection::vec(0usize..400, 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::new("");
            let pieces: Vec<Item> = cuts.windows(2).flat_map(|cut| parser.feed(&bytes[cut[0]..cut[1]])).collect();
            prop_assert_eq!(pieces, read(&text));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Parser::new("").feed(&bytes);
        }
    }
}
