//! Durations and sizes as people write them: `15s`, `2m`, `64Ki`.

use std::time::Duration;

/// Why a text is not a duration or a size; the message says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a whole number with a unit of time.
    #[error("write a whole number and a unit, as in 500ms, 15s, 2m or 1h")]
    Duration,
    /// Not a whole number with an optional unit of size.
    #[error("write a whole number of bytes, with a unit if you like, as in 65536, 64Ki or 1Mi")]
    Bytes,
}

/// Reads `500ms`, `15s`, `2m`, `1h`; without a unit they are seconds.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::Duration)?;
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(UnitError::Duration),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or(UnitError::Duration)
}

/// Reads `65536`, `64Ki`, `1Mi`, `2Gi`.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::Bytes)?;
    let factor = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(UnitError::Bytes),
    };
    number.checked_mul(factor).ok_or(UnitError::Bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        for (text, millis) in [("500ms", 500), ("15s", 15_000), ("15", 15_000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1.5s", "-1s", "1 s", "1d", "99999999999999999999s", "18446744073709551615h", "1é"] {
            assert_eq!(duration(text), Err(UnitError::Duration), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [("0", 0), ("65536", 65_536), ("64Ki", 65_536), ("1Mi", 1 << 20), ("2Gi", 2 << 30)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "Ki", "1k", "1MB", "18446744073709551615Ki"] {
            assert_eq!(bytes(text), Err(UnitError::Bytes), "{text}");
        }
    }
}
