//! DNS labels, and first tokens of subjects that are not for everybody.

/// The first token of the subjects that Tidings' own channels have by default.
pub const BASE_PREFIX: &str = "tidings";

/// The first token of the subjects below which NATS repeats what streams have stored; nobody's channel.
pub const LIVE_PREFIX: &str = "tidings-live";

/// A DNS label (RFC 1123).
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether some subject of the pattern is NATS' own, an inbox, or a live one. A first token that is a wildcard overlaps
/// all of these.
pub(crate) fn is_reserved(text: &str) -> bool {
    let first = text.split('.').next().unwrap_or_default();
    text.starts_with(['$', '*', '>']) || text.starts_with("_INBOX") || first == LIVE_PREFIX
}
