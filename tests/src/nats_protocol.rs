//! The NATS client protocol as bytes, as far as tests change it on its way: what a server sends a client.
//!
//! Messages are taken apart; everything else passes as whole lines. Header blocks stay bytes, malformed ones too.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// One thing a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `MSG` or `HMSG`.
    Message(Message),
    /// Any other line, with its line end.
    Line(Bytes),
}

/// One message on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The subject.
    pub subject: String,
    /// The client's subscription.
    pub subscription: String,
    /// Where an answer is expected.
    pub reply: Option<String>,
    /// The header block with its version line and the empty line at its end; absent in a `MSG`.
    pub headers: Option<Bytes>,
    /// The payload.
    pub payload: Bytes,
}

/// Takes a server's bytes apart.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

/// What a server does not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

// === impl Message ===

impl Message {
    /// Writes it as the server does.
    pub fn encode(&self, out: &mut BytesMut) {
        let reply = self.reply.as_ref().map(|reply| format!("{reply} ")).unwrap_or_default();
        let (verb, sizes) = match &self.headers {
            Some(headers) => ("HMSG", format!("{} {}", headers.len(), headers.len() + self.payload.len())),
            None => ("MSG", self.payload.len().to_string()),
        };
        out.put_slice(format!("{verb} {} {} {reply}{sizes}\r\n", self.subject, self.subscription).as_bytes());
        out.put_slice(self.headers.as_deref().unwrap_or_default());
        out.put_slice(&self.payload);
        out.put_slice(b"\r\n");
    }

    /// The last value of a header, by its exact name; what the server appends stands last.
    pub fn header(&self, name: &str) -> Option<String> {
        let block = String::from_utf8_lossy(self.headers.as_deref()?).into_owned();
        let fields = block.lines().rev().filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned()).next()
    }

    /// With the last value of a header replaced, or the header added.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let block = String::from_utf8_lossy(self.headers.as_deref().unwrap_or(b"NATS/1.0\r\n\r\n")).into_owned();
        let mut lines: Vec<String> = block.trim_end().split("\r\n").map(str::to_owned).collect();
        let prefix = format!("{name}:");
        let line = format!("{prefix} {value}");
        match lines.iter_mut().rev().find(|line| line.starts_with(&prefix)) {
            Some(old) => *old = line,
            None => lines.push(line),
        }
        self.headers = Some(Bytes::from(lines.join("\r\n") + "\r\n\r\n"));
        self
    }
}

// === impl Operation ===

impl Operation {
    /// Writes it as the server does.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Message(message) => message.encode(out),
            Self::Line(line) => out.put_slice(line),
        }
    }
}

// === impl Decoder ===

impl Decoder {
    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete operation, if there is one.
    pub fn take(&mut self) -> Result<Option<Operation>, Malformed> {
        let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(self.buffer.get(..end).unwrap_or_default()).into_owned();
        let fault = || Malformed(line.clone());
        let mut words = line.split_ascii_whitespace();
        let with_headers = match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "MSG" => false,
            "HMSG" => true,
            _ => return Ok(Some(Operation::Line(self.buffer.split_to(end + 2).freeze()))),
        };
        let words: Vec<&str> = words.collect();
        let sizes = if with_headers { 2 } else { 1 };
        let (subject, subscription, reply) = match words.get(..words.len().saturating_sub(sizes)) {
            Some([subject, subscription]) => (*subject, *subscription, None),
            Some([subject, subscription, reply]) => (*subject, *subscription, Some((*reply).to_owned())),
            _ => return Err(fault()),
        };
        let size = |back: usize| words.iter().rev().nth(back).and_then(|word| word.parse().ok()).ok_or_else(fault);
        let total: usize = size(0)?;
        let head: usize = if with_headers { size(1)? } else { 0 };
        if head > total {
            return Err(fault());
        }
        if self.buffer.len() < end + 2 + total + 2 {
            return Ok(None);
        }
        self.buffer.advance(end + 2);
        let headers = self.buffer.split_to(head).freeze();
        let payload = self.buffer.split_to(total - head).freeze();
        self.buffer.advance(2);
        Ok(Some(Operation::Message(Message {
            subject: subject.to_owned(),
            subscription: subscription.to_owned(),
            reply,
            headers: with_headers.then_some(headers),
            payload,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Vec<Operation> {
        let mut decoder = Decoder::default();
        let mut operations = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            while let Some(operation) = decoder.take().expect("well-formed") {
                operations.push(operation);
            }
        }
        operations
    }

    fn message(headers: Option<&'static [u8]>) -> Message {
        Message {
            subject: "a.b".into(),
            subscription: "7".into(),
            reply: None,
            headers: headers.map(Bytes::from_static),
            payload: Bytes::from_static(b"x\r\ny"),
        }
    }

    #[test]
    fn messages_and_other_lines_are_told_apart() {
        let bytes = b"PING\r\nMSG a.b 7 4\r\nx\r\ny\r\nHMSG a.b 7 14 18\r\nNATS/1.0\r\nA:\r\nx\r\ny\r\n+OK\r\n";
        assert_eq!(
            decode(&[bytes]),
            [
                Operation::Line(Bytes::from_static(b"PING\r\n")),
                Operation::Message(message(None)),
                Operation::Message(message(Some(b"NATS/1.0\r\nA:\r\n"))),
                Operation::Line(Bytes::from_static(b"+OK\r\n")),
            ]
        );
    }

    #[test]
    fn the_last_value_of_a_header_counts_and_can_be_replaced() {
        let message = message(Some(b"NATS/1.0\r\nA: 1\r\nB: x\r\nA: 2\r\n\r\n"));
        assert_eq!(message.header("A").as_deref(), Some("2"));
        assert_eq!(message.header("a"), None);
        let changed = message.with_header("A", "3").with_header("C", "4");
        assert_eq!(changed.headers.as_deref(), Some(&b"NATS/1.0\r\nA: 1\r\nB: x\r\nA: 3\r\nC: 4\r\n\r\n"[..]));
    }

    #[test]
    fn sizes_that_do_not_fit_are_an_error() {
        let mut decoder = Decoder::default();
        decoder.feed(b"HMSG a 1 9 4\r\n");
        assert_eq!(decoder.take(), Err(Malformed("HMSG a 1 9 4".into())));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_however_it_is_cut(
            messages in prop::collection::vec(("[a-z]{1,5}", prop::option::of("[a-z]{1,5}"), prop::option::of(".{0,20}"), ".{0,30}"), 0..5),
            cut in 0usize..200,
        ) {
            let written: Vec<Operation> = messages.into_iter().map(|(subject, reply, headers, payload)| {
                let headers = headers.map(Bytes::from);
                Operation::Message(Message { subject, subscription: "1".into(), reply, headers, payload: payload.into() })
            }).collect();
            let mut bytes = BytesMut::new();
            written.iter().for_each(|operation| operation.encode(&mut bytes));
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(decode(&[first, second]), written);
        }
    }
}
