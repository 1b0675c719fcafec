//! Byte quantities as people write them: `65536`, `64Ki`, `1Gi`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest text that is read; 20 digits are more than 64 bits hold.
const MAX_LENGTH: usize = 20;

/// The decimal and binary units of Kubernetes quantities that make sense for bytes.
const UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

/// A number of bytes as it stands in a manifest: a number, or a text with a unit.
///
/// It is kept as written, so that a Channel reads back unchanged; [`ByteQuantity::bytes`] is its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ByteQuantity {
    /// A plain number of bytes.
    Number(i64),
    /// A number with or without a unit.
    Text(String),
}

/// Why a quantity is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a positive whole number with one of the known units.
    #[error("write a positive whole number of bytes, with k, M, G, T, Ki, Mi, Gi or Ti if you like, as in 1Gi")]
    Shape,
    /// More than 64 bits hold.
    #[error("the quantity is too large")]
    TooLarge,
}

// === impl ByteQuantity ===

impl ByteQuantity {
    /// The value in bytes, never 0.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok().filter(|bytes| *bytes > 0).ok_or(QuantityError::Shape),
            Self::Text(text) => parse(text),
        }
    }
}

impl From<&str> for ByteQuantity {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for ByteQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl JsonSchema for ByteQuantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteQuantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "maxLength": MAX_LENGTH })
    }
}

fn parse(text: &str) -> Result<u64, QuantityError> {
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1));
    let canonical = !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if !canonical {
        return Err(QuantityError::Shape);
    }
    let number: u64 = digits.parse().map_err(|_| QuantityError::TooLarge)?;
    number.checked_mul(factor).ok_or(QuantityError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers_with_units() {
        for (text, bytes) in [
            ("1", Ok(1)),
            ("65536", Ok(65_536)),
            ("64Ki", Ok(65_536)),
            ("3k", Ok(3_000)),
            ("1Gi", Ok(1 << 30)),
            ("1G", Ok(1_000_000_000)),
            ("16777215Ti", Ok(16_777_215 << 40)),
            ("16777216Ti", Err(QuantityError::TooLarge)),
            ("99999999999999999999", Err(QuantityError::TooLarge)),
            ("", Err(QuantityError::Shape)),
            ("0", Err(QuantityError::Shape)),
            ("0Ki", Err(QuantityError::Shape)),
            ("-1", Err(QuantityError::Shape)),
            ("+1", Err(QuantityError::Shape)),
            ("1.5Gi", Err(QuantityError::Shape)),
            ("1 Gi", Err(QuantityError::Shape)),
            ("1Pi", Err(QuantityError::Shape)),
            ("Gi", Err(QuantityError::Shape)),
            ("100m", Err(QuantityError::Shape)),
            ("1e3", Err(QuantityError::Shape)),
        ] {
            assert_eq!(ByteQuantity::from(text).bytes(), bytes, "{text:?}");
        }
        assert_eq!(ByteQuantity::Number(7).bytes(), Ok(7));
        assert_eq!(ByteQuantity::Number(0).bytes(), Err(QuantityError::Shape));
        assert_eq!(ByteQuantity::Number(-7).bytes(), Err(QuantityError::Shape));
    }

    #[test]
    fn a_quantity_reads_back_as_it_was_written() {
        for yaml in ["64Ki\n", "65536\n", "'65536'\n"] {
            let quantity: ByteQuantity = serde_yaml::from_str(yaml).unwrap();
            assert_eq!(serde_yaml::to_string(&quantity).unwrap(), yaml);
        }
    }
}
