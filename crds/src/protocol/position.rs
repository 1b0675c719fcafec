//! Where a subscriber stands in a stream: Epoch + Sequence + Stamp, written as an SSE `id:`.
//!
//! Pure text and numbers: what a position *means* for a given log is decided in the gateway.

use std::fmt;
use std::str::FromStr;

/// The longest id that is read: three base-36 or decimal numbers of 64 bits and two dashes are at most 48 bytes.
pub const MAX_ID_BYTES: usize = 128;

/// One incarnation of a stream: its creation time in nanoseconds since 1970, written in base 36.
///
/// It changes with delete-and-create and with a restore, but not when a memory stream comes back empty or a
/// volume snapshot goes back in time; the [`Stamp`] notices those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

/// When the message at a position was stored: the low 40 bits of its time in milliseconds, written in base 36.
///
/// 40 bits of milliseconds are 34.8 years; two stamps are compared within half of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp(u64);

/// A place in a stream: everything up to and including `sequence` has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which incarnation of the stream.
    pub epoch: Epoch,
    /// The stream sequence of the last event seen; 0 before the first.
    pub sequence: u64,
    /// When the message at `sequence` was stored; absent where there is none (the head of an empty stream,
    /// a deleted message, the answer to a publication).
    pub stamp: Option<Stamp>,
}

/// Why a text is not a position. Subscribers are told so in the stream; it is never an HTTP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// Longer than [`MAX_ID_BYTES`].
    #[error("a position has at most {MAX_ID_BYTES} bytes")]
    TooLong,
    /// Not `<epoch>-<sequence>` or `<epoch>-<sequence>-<stamp>`.
    #[error("a position reads <epoch>-<sequence>-<stamp>, as in 1cqk2v7q3x1a-1042-k3j9yf")]
    Shape,
    /// A part is not a number of its base, has a leading zero, or does not fit.
    #[error("the {0} of a position is not a number that Tidings writes")]
    Number(&'static str),
}

// === impl Epoch ===

impl Epoch {
    /// The epoch of a stream created at this time, in nanoseconds since 1970.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// When the stream was created, in whole milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        base36(self.0, f)
    }
}

impl FromStr for Epoch {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number(text, 36, "epoch").map(Self)
    }
}

// === impl Stamp ===

impl Stamp {
    const MASK: u64 = (1 << 40) - 1;

    /// The stamp of a message stored at this time, in milliseconds since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis & Self::MASK)
    }

    /// Whether `self` lies before `other`, on the shorter way round the 34.8 years that a stamp can tell apart.
    pub const fn is_before(self, other: Self) -> bool {
        let ahead = other.0.wrapping_sub(self.0) & Self::MASK;
        ahead != 0 && ahead < (1 << 39)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        base36(self.0, f)
    }
}

// === impl Position ===

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)?;
        match self.stamp {
            Some(stamp) => write!(f, "-{stamp}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ID_BYTES {
            return Err(PositionError::TooLong);
        }
        let mut parts = text.split('-');
        let (Some(epoch), Some(sequence), stamp, None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PositionError::Shape);
        };
        let stamp = match stamp {
            Some(text) => match number(text, 36, "stamp")? {
                bits if bits <= Stamp::MASK => Some(Stamp(bits)),
                _ => return Err(PositionError::Number("stamp")),
            },
            None => None,
        };
        Ok(Self { epoch: epoch.parse()?, sequence: number(sequence, 10, "sequence")?, stamp })
    }
}

/// Reads exactly what [`base36`] and `{}` write: lower case, no sign, no leading zero.
fn number(text: &str, radix: u32, part: &'static str) -> Result<u64, PositionError> {
    let canonical = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit() || (radix == 36 && b.is_ascii_lowercase()))
        && (text == "0" || !text.starts_with('0'));
    if !canonical {
        return Err(PositionError::Number(part));
    }
    u64::from_str_radix(text, radix).map_err(|_| PositionError::Number(part))
}

fn base36(mut n: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write;
    let mut digits = [0u8; 13]; // 36^13 > 2^64
    let mut used = 0;
    for digit in &mut digits {
        let value = u8::try_from(n % 36).unwrap_or_default();
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
        n /= 36;
        used += 1;
        if n == 0 {
            break;
        }
    }
    digits.iter().take(used).rev().try_for_each(|digit| f.write_char(char::from(*digit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(text: &str) -> Result<Position, PositionError> {
        text.parse()
    }

    #[test]
    fn a_position_reads_as_epoch_sequence_and_stamp() {
        let read = position("1cqk2v7q3x1a-1042-k3j9yf");
        let epoch = Epoch(u64::from_str_radix("1cqk2v7q3x1a", 36).unwrap());
        let stamp = Some(Stamp(u64::from_str_radix("k3j9yf", 36).unwrap()));
        assert_eq!(read, Ok(Position { epoch, sequence: 1042, stamp }));
    }

    #[test]
    fn the_stamp_is_optional() {
        assert_eq!(position("a-0"), Ok(Position { epoch: Epoch(10), sequence: 0, stamp: None }));
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", PositionError::Shape),
            ("a", PositionError::Shape),
            ("a-1-b-2", PositionError::Shape),
            ("-1-b", PositionError::Number("epoch")),
            ("A-1-b", PositionError::Number("epoch")),
            ("a-x-b", PositionError::Number("sequence")),
            ("a-+1-b", PositionError::Number("sequence")),
            ("a-01-b", PositionError::Number("sequence")),
            ("a-1-", PositionError::Number("stamp")),
            ("a-1-zzzzzzzzz", PositionError::Number("stamp")),
            ("a-18446744073709551616", PositionError::Number("sequence")),
            ("a\u{0}-1", PositionError::Number("epoch")),
        ] {
            assert_eq!(position(text), Err(reason), "{text:?}");
        }
        assert_eq!(position(&"a".repeat(200)), Err(PositionError::TooLong));
    }

    #[test]
    fn a_stamp_compares_across_the_wrap() {
        let late = Stamp::from_millis((1 << 40) - 5);
        let early = Stamp::from_millis((1 << 40) + 5);
        assert!(late.is_before(early) && !early.is_before(late) && !late.is_before(late));
    }

    proptest! {
        #[test]
        fn every_position_reads_back(epoch: u64, sequence: u64, millis: Option<u64>) {
            let written = Position { epoch: Epoch(epoch), sequence, stamp: millis.map(Stamp::from_millis) };
            let text = written.to_string();
            prop_assert!(text.len() <= MAX_ID_BYTES);
            prop_assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert_eq!(text.parse::<Position>(), Ok(written));
        }

        #[test]
        fn no_text_panics_and_what_is_read_is_what_was_written(text in ".{0,60}") {
            if let Ok(read) = text.parse::<Position>() {
                prop_assert_eq!(read.to_string(), text);
            }
        }
    }
}
