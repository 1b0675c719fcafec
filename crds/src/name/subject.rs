//! NATS subjects and the patterns over them: matching, containment, overlap, intersection.
//!
//! A subject is one or more tokens joined by dots; in a pattern the token `*` stands for exactly one token
//! and a last token `>` for one or more (NATS docs, "Subject-Based Messaging").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest subject or pattern accepted, in bytes; what a Kubernetes name and a DNS name allow as well.
pub const MAX_SUBJECT_BYTES: usize = 255;

/// The most tokens accepted: it bounds the depth of every index built from patterns.
pub const MAX_TOKENS: usize = 32;

/// A subject pattern: literal tokens, `*` and a final `>`. A pattern without wildcards is a subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// Why a text is not a subject or pattern; the message says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`MAX_SUBJECT_BYTES`].
    #[error("a subject has at most {MAX_SUBJECT_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_TOKENS`] tokens.
    #[error("a subject has at most {MAX_TOKENS} tokens")]
    TooDeep,
    /// Nothing between two dots, at the start or at the end.
    #[error("a subject has no empty tokens: write a.b, not .a, a. or a..b")]
    EmptyToken,
    /// White space or a control character.
    #[error("a subject has no white space and no control characters")]
    Character,
    /// `>` before the last token.
    #[error("the wildcard > stands only as the last token, as in a.>")]
    MisplacedTail,
    /// `*` or `>` within a longer token.
    #[error("a wildcard is a whole token: write a.*.b, not a.x*.b")]
    MixedWildcard,
    /// A wildcard where only a literal subject may stand.
    #[error("a subject without wildcards is needed here")]
    Wildcard,
}

// === impl Pattern ===

impl Pattern {
    /// Reads a subject without wildcards.
    pub fn literal(text: &str) -> Result<Self, PatternError> {
        let pattern: Self = text.parse()?;
        if pattern.is_literal() { Ok(pattern) } else { Err(PatternError::Wildcard) }
    }

    /// Every subject: `>`.
    pub fn tail() -> Self {
        Self(">".to_owned())
    }

    /// Whether there is no wildcard in it.
    pub fn is_literal(&self) -> bool {
        self.tokens().all(|token| token != "*" && token != ">")
    }

    /// As NATS writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens, wildcards included.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// The pattern of these tokens, which are those of patterns.
    pub(crate) fn of_tokens(tokens: &[&str]) -> Self {
        Self(tokens.join("."))
    }

    /// This subject with `tail` behind it: `a.b` and `c.>` give `a.b.c.>`. What NATS stores may be longer than what Tidings takes
    /// as input, so this never fails: a filter always has a pattern.
    pub fn join(&self, tail: &Self) -> Self {
        debug_assert!(self.is_literal(), "a wildcard would stand before the last token");
        Self(format!("{}.{}", self.0, tail.0))
    }

    /// Whether the literal `subject` is one of those the pattern stands for.
    pub fn matches(&self, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for wanted in self.tokens() {
            match (wanted, tokens.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(token)) if literal == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether every subject of `other` is one of ours.
    pub fn contains(&self, other: &Self) -> bool {
        self.intersect(other).as_ref() == Some(other)
    }

    /// Whether some subject is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.intersect(other).is_some()
    }

    /// The subjects that are in both: patterns are closed under intersection.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let (mut ours, mut theirs) = (self.tokens().peekable(), other.tokens().peekable());
        let mut both: Vec<&str> = Vec::new();
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break,
                (None, Some(_)) | (Some(_), None) => return None,
                (Some(">"), Some(token)) => {
                    both.push(token);
                    both.extend(theirs);
                    break;
                }
                (Some(token), Some(">")) => {
                    both.push(token);
                    both.extend(ours);
                    break;
                }
                (Some(token), Some("*")) | (Some("*"), Some(token)) => both.push(token),
                (Some(a), Some(b)) if a == b => both.push(a),
                _ => return None,
            }
        }
        Some(Self(both.join(".")))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SUBJECT_BYTES {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(PatternError::Character);
        }
        let mut tokens = text.split('.').peekable();
        let mut depth = 0;
        while let Some(token) = tokens.next() {
            depth += 1;
            match token {
                "" => return Err(PatternError::EmptyToken),
                ">" if tokens.peek().is_some() => return Err(PatternError::MisplacedTail),
                ">" | "*" => {}
                _ if token.contains(['*', '>']) => return Err(PatternError::MixedWildcard),
                _ => {}
            }
        }
        if depth > MAX_TOKENS { Err(PatternError::TooDeep) } else { Ok(Self(text.to_owned())) }
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn wildcards_match_as_in_nats() {
        for (wanted, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*.b.>", "a.b.c", true),
            ("*.b.>", "a.b", false),
        ] {
            assert_eq!(pattern(wanted).matches(subject), expected, "{wanted} {subject}");
        }
    }

    #[test]
    fn intersections_are_patterns() {
        for (a, b, both) in [
            ("a.>", "*.b", Some("a.b")),
            ("a.>", "a.b.>", Some("a.b.>")),
            ("x.>", "x.*", Some("x.*")),
            ("*.b", "a.*", Some("a.b")),
            (">", "*.*", Some("*.*")),
            ("a.b", "a", None),
            ("a.>", "a", None),
            ("a.*", "b.*", None),
            ("a.*.c", "a.>", Some("a.*.c")),
        ] {
            assert_eq!(pattern(a).intersect(&pattern(b)), both.map(pattern), "{a} {b}");
            assert_eq!(pattern(b).intersect(&pattern(a)), both.map(pattern), "{b} {a}");
        }
    }

    #[test]
    fn containment_is_by_token() {
        assert!(pattern("a.>").contains(&pattern("a.*.c")));
        assert!(!pattern("a.*").contains(&pattern("a.>")));
        assert!(pattern("a.*").contains(&pattern("a.*")));
        assert!(!pattern("a.b.>").contains(&pattern("a.b")));
    }

    #[test]
    fn faults_say_what_to_write() {
        for (text, fault) in [
            ("", PatternError::EmptyToken),
            ("a..b", PatternError::EmptyToken),
            ("a.", PatternError::EmptyToken),
            ("a b", PatternError::Character),
            ("a\r\nb", PatternError::Character),
            ("a.>.b", PatternError::MisplacedTail),
            ("a.x*", PatternError::MixedWildcard),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(fault), "{text:?}");
        }
        assert_eq!("a".repeat(256).parse::<Pattern>(), Err(PatternError::TooLong));
        assert_eq!(vec!["a"; 33].join(".").parse::<Pattern>(), Err(PatternError::TooDeep));
        assert_eq!(Pattern::literal("a.*"), Err(PatternError::Wildcard));
    }

    fn tokens(wild: bool) -> impl Strategy<Value = Pattern> {
        let token = if wild { "[ab*]" } else { "[ab]" };
        (prop::collection::vec(token, 1..4), prop::bool::ANY).prop_map(move |(mut tokens, tail)| {
            if wild && tail {
                tokens.push(">".to_owned());
            }
            tokens.join(".").parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_subject_is_in_the_intersection_when_it_is_in_both(a in tokens(true), b in tokens(true), s in tokens(false)) {
            let both = a.intersect(&b).is_some_and(|both| both.matches(s.as_str()));
            prop_assert_eq!(both, a.matches(s.as_str()) && b.matches(s.as_str()));
        }

        #[test]
        fn a_contained_pattern_matches_nothing_more(a in tokens(true), b in tokens(true), s in tokens(false)) {
            if a.contains(&b) && b.matches(s.as_str()) {
                prop_assert!(a.matches(s.as_str()));
            }
        }
    }
}
