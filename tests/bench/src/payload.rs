//! What is published: who sent it, its number, and when it was due; padded to its size.

/// One publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Who published it.
    pub(crate) publisher: u8,
    /// Counts from 1 for each publisher.
    pub(crate) number: u64,
    /// When it was due, in nanoseconds since 1970: a late send counts as latency.
    pub(crate) at: u64,
}

// === impl Payload ===

impl Payload {
    /// As text: `p nnnnnnnnnnnnnnnn tttttttttttttttt xxx…`.
    pub(crate) fn write(self, size: usize) -> Vec<u8> {
        let mut text = format!("{:x} {:016x} {:016x} ", self.publisher, self.number, self.at).into_bytes();
        text.resize(size.max(text.len()), b'x');
        text
    }

    /// Reads what was written; `None` if it is something else.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        Some(Self {
            publisher: u8::try_from(hex(text.get(..1)?)?).ok()?,
            number: hex(text.get(2..18)?)?,
            at: hex(text.get(19..35)?)?,
        })
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let payload = Payload { publisher: 3, number: u64::MAX, at: 12_345_678_901 };
        let text = payload.write(100);
        assert_eq!((text.len(), Payload::read(&text)), (100, Some(payload)));
        assert_eq!(Payload::read(b"{\"reason\":\"expired\"}"), None);
    }
}
