//! One subscriber, as a client reads it: the head, chunks if there are any, lines, blocks, and what each event says.

use memchr::memchr;

use crate::payload::Payload;

/// How many publishers are told apart.
pub(crate) const PUBLISHERS: usize = 4;

/// The state of one stream.
#[derive(Debug, Default)]
pub(crate) struct Client {
    body: Body,
    /// The beginning of a line or a head whose end has not come yet.
    partial: Vec<u8>,
    /// A chunk's size, as far as it has come.
    size: Vec<u8>,
    block: Block,
    /// The number that must come next, for each publisher; 0 before the first.
    next: [u64; PUBLISHERS],
    /// Whether the head has come.
    pub(crate) open: bool,
    /// What this client has received and not expected.
    pub(crate) faults: Faults,
    /// The last id, for those who want it.
    pub(crate) last_id: Option<String>,
    /// Whether ids are kept.
    pub(crate) keeps_ids: bool,
    /// The sequence of the last event, for those who look at the stream's order.
    sequence: u64,
    /// Whether they do.
    pub(crate) checks_order: bool,
}

/// What must not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Faults {
    /// Events that were skipped.
    pub(crate) lost: u64,
    /// Events of a publisher that came twice, or later than a younger one of its.
    pub(crate) repeated: u64,
    /// Events whose id is not behind the one before it.
    pub(crate) reordered: u64,
    /// Control events: gaps and ends.
    pub(crate) control: u64,
    /// Streams that ended, and bytes that are no event stream.
    pub(crate) broken: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Body {
    #[default]
    Head,
    UntilClose,
    Size,
    Data(usize),
    /// CR and LF behind a chunk.
    Behind(usize),
}

#[derive(Debug, Default)]
struct Block {
    control: bool,
    checkpoint: bool,
    sequence: Option<u64>,
    data: Option<Payload>,
}

// === impl Faults ===

impl Faults {
    /// Adds another client's.
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
        self.control += other.control;
        self.broken += other.broken;
    }

    /// All together.
    pub(crate) fn sum(self) -> u64 {
        self.lost + self.repeated + self.reordered + self.control + self.broken
    }
}

// === impl Client ===

impl Client {
    /// One whose head comes by another way; see [`Client::answered`].
    pub(crate) fn without_head() -> Self {
        Self { body: Body::UntilClose, ..Self::default() }
    }

    /// The head has come, and said 200 or not.
    pub(crate) fn answered(&mut self, well: bool) {
        self.open = well;
        self.faults.broken += u64::from(!well);
    }

    /// What is missing at the end, if each of these publishers had sent up to this number. Whoever has seen none of
    /// one's may have come later.
    pub(crate) fn missing(&self, last: [u64; PUBLISHERS]) -> u64 {
        self.next
            .iter()
            .zip(last)
            .filter(|(next, _)| **next > 0)
            .map(|(next, last)| (last + 1).saturating_sub(*next))
            .sum()
    }

    /// Reads what came; tells each event.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], seen: &mut impl FnMut(Payload)) {
        while !bytes.is_empty() {
            match self.body {
                Body::Head => bytes = self.head(bytes),
                Body::UntilClose => {
                    self.lines(bytes, seen);
                    return;
                }
                Body::Size => {
                    let (line, rest) = bytes.split_at(memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1));
                    self.size(line);
                    bytes = rest;
                }
                Body::Data(left) => {
                    let (data, rest) = bytes.split_at(left.min(bytes.len()));
                    self.lines(data, seen);
                    bytes = rest;
                    self.body = match left - data.len() {
                        0 => Body::Behind(2),
                        left => Body::Data(left),
                    };
                }
                Body::Behind(left) => {
                    let taken = left.min(bytes.len());
                    bytes = bytes.get(taken..).unwrap_or_default();
                    self.body = if left == taken { Body::Size } else { Body::Behind(left - taken) };
                }
            }
        }
    }

    fn head<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(&self.partial, b"\r\n\r\n") else { return &[] };
        let head = self.partial.get(..end).unwrap_or_default().to_ascii_lowercase();
        self.answered(head.starts_with(b"http/1.1 200"));
        self.body = if memchr::memmem::find(&head, b"transfer-encoding: chunked").is_some() {
            Body::Size
        } else {
            Body::UntilClose
        };
        self.partial = Vec::new();
        bytes.get(end + 4 - before..).unwrap_or_default()
    }

    /// A line `1a\r\n`, perhaps in pieces. A chunk of size 0 is the end.
    fn size(&mut self, piece: &[u8]) {
        self.size.extend_from_slice(piece);
        if piece.ends_with(b"\n") {
            let size = number(&self.size);
            self.size.clear();
            self.faults.broken += u64::from(size.is_none());
            self.body = size.filter(|size| *size > 0).map_or(Body::UntilClose, Body::Data);
        }
    }

    fn lines(&mut self, mut bytes: &[u8], seen: &mut impl FnMut(Payload)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.partial.is_empty() {
                self.line(line, seen);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, seen);
                whole.clear();
                if whole.capacity() <= 256 {
                    self.partial = whole;
                }
            }
        }
        self.partial.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], seen: &mut impl FnMut(Payload)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(data) = line.strip_prefix(b"data: ") {
            self.block.data = Payload::read(data);
        } else if line.is_empty() {
            let block = std::mem::take(&mut self.block);
            self.faults.control += u64::from(block.control);
            if let (false, Some(payload)) = (block.control || block.checkpoint, block.data) {
                self.event(payload);
                if let Some(sequence) = block.sequence {
                    self.faults.reordered += u64::from(sequence <= self.sequence);
                    self.sequence = sequence;
                }
                seen(payload);
            }
        } else if line == b"event: tidings.position" {
            // The opening, and heartbeats: no fault, and no event of the channel's.
            self.block.checkpoint = true;
        } else if line.starts_with(b"event: tidings.") {
            self.block.control = true;
        } else if let (true, Some(id)) = (self.keeps_ids || self.checks_order, line.strip_prefix(b"id: ")) {
            self.id(id);
        }
    }

    /// `epoch-sequence-stamp`.
    fn id(&mut self, id: &[u8]) {
        let id = String::from_utf8_lossy(id);
        if self.checks_order {
            self.block.sequence = id.split('-').nth(1).and_then(|sequence| sequence.parse().ok());
        }
        if self.keeps_ids {
            self.last_id = Some(id.into_owned());
        }
    }

    fn event(&mut self, payload: Payload) {
        let Some(next) = self.next.get_mut(usize::from(payload.publisher)) else { return };
        if payload.number < *next {
            self.faults.repeated += 1;
        } else {
            if *next > 0 {
                self.faults.lost += payload.number - *next;
            }
            *next = payload.number + 1;
        }
    }
}

/// The number in a line `1a\r\n`.
fn number(line: &[u8]) -> Option<usize> {
    let digits = line.strip_suffix(b"\r\n")?;
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0, |size, digit| Some(size << 4 | char::from(*digit).to_digit(16)? as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const PLAIN: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

    fn event(number: u64) -> String {
        format!(
            "data: {}\nid: a-{number}\n\n",
            String::from_utf8(Payload { publisher: 1, number, at: 5 }.write(100)).unwrap()
        )
    }

    /// What is seen when the bytes come in pieces of every size.
    fn in_pieces(text: &str, check: impl Fn(&Client, &[u64])) {
        for size in [1, 2, 3, 7, 50, 10_000] {
            let (mut client, mut numbers) = (Client::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                client.feed(piece, &mut |payload| numbers.push(payload.number));
            }
            check(&client, &numbers);
        }
    }

    #[test]
    fn chunked_and_plain_streams_are_read_whatever_the_pieces() {
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let second = event(2);
        let (first, second) = second.split_at(30);
        let chunked = format!("{CHUNKED}{}{}{}{}", chunk(&event(1)), chunk(first), chunk(second), chunk(&event(3)));
        let opening = "event: tidings.position\ndata:\nid: a-0\n\n:\n";
        let plain = format!("{PLAIN}{opening}{}{}{}", event(1), event(2), event(3));
        for text in [chunked, plain] {
            in_pieces(&text, |client, numbers| {
                assert_eq!((numbers, client.faults, client.open), (&[1, 2, 3][..], Faults::default(), true));
            });
        }
    }

    #[test]
    fn what_is_lost_repeated_or_told_is_counted() {
        let gap = "event: tidings.gap\ndata: {}\n\n";
        let text = format!("{PLAIN}{}{}{gap}{}", event(1), event(4), event(3));
        in_pieces(&text, |client, _| {
            assert_eq!(client.faults, Faults { lost: 2, repeated: 1, control: 1, ..Faults::default() });
        });
        let text = format!("{PLAIN}{}{}", event(1), event(2).replace("a-2", "a-1"));
        let mut client = Client { checks_order: true, ..Client::default() };
        client.feed(text.as_bytes(), &mut |_| {});
        assert_eq!((client.faults, client.missing([9, 4, 9, 9])), (Faults { reordered: 1, ..Faults::default() }, 2));
        in_pieces("HTTP/1.1 503 No\r\n\r\n", |client, _| assert_eq!((client.open, client.faults.broken), (false, 1)));
    }
}
