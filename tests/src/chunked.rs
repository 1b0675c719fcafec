//! The chunked transfer coding (RFC 9112, section 7.1), for those who read a response's bytes themselves.

/// A decoder, at the beginning of a body. Feed it bytes as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    /// A chunk's size, as far as it has come.
    Size(String),
    /// So many bytes of a chunk are still to come.
    Data(usize),
    /// So many bytes of the line end behind a chunk.
    Behind(usize),
    /// The last chunk has come.
    Complete,
}

// === impl Decoder ===

impl Decoder {
    /// Reads on and returns what was inside.
    ///
    /// # Panics
    /// When these are no chunks.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match &mut self.state {
                State::Size(line) if byte == b'\n' => {
                    let digits = line.strip_suffix('\r').expect("a chunk's size ends with CR and LF");
                    self.state = match usize::from_str_radix(digits, 16).expect("a chunk's size is hexadecimal") {
                        0 => State::Complete,
                        size => State::Data(size),
                    };
                }
                State::Size(line) => line.push(char::from(byte)),
                State::Data(left) => {
                    text.push(byte);
                    *left -= 1;
                    if *left == 0 {
                        self.state = State::Behind(2);
                    }
                }
                State::Behind(left) => {
                    assert_eq!(byte, [b'\n', b'\r'][*left - 1], "CR and LF follow a chunk");
                    *left -= 1;
                    if *left == 0 {
                        self.state = State::Size(String::new());
                    }
                }
                State::Complete => {}
            }
        }
        text
    }

    /// Whether the body is complete.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Size(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_whatever_the_pieces() {
        let wire = b"3\r\nabc\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        for size in 1..wire.len() {
            let mut decoder = Decoder::default();
            let text: Vec<u8> = wire.chunks(size).flat_map(|piece| decoder.feed(piece)).collect();
            assert_eq!((text.as_slice(), decoder.is_complete()), (&b"abcabcdefghijklmnopqrstuvwxyz"[..], true));
        }
        let mut cut = Decoder::default();
        assert_eq!((cut.feed(b"5\r\nab"), cut.is_complete()), (b"ab".to_vec(), false));
    }
}
