//! One filter over topics.

use std::fmt;
use std::str::FromStr;

use crate::name::subject::{Pattern, PatternError};

/// One filter over topics, as in `?topic=user.*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicFilter {
    /// Every topic, the empty one included: what a request without a filter asks for, and what a grant of `>` gives.
    All,
    /// The empty topic alone, written `.`.
    Empty,
    /// The topics a pattern matches; never the empty one.
    Pattern(Pattern),
}

// === impl TopicFilter ===

impl TopicFilter {
    /// Whether this filter lets `topic` pass.
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Self::All => true,
            Self::Empty => topic.is_empty(),
            Self::Pattern(pattern) => !topic.is_empty() && pattern.matches(topic),
        }
    }

    /// The topics that pass both, if there can be any.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::All, filter) | (filter, Self::All) => Some(filter.clone()),
            (Self::Empty, Self::Empty) => Some(Self::Empty),
            (Self::Pattern(a), Self::Pattern(b)) => a.intersect(b).map(Self::Pattern),
            (Self::Empty, Self::Pattern(_)) | (Self::Pattern(_), Self::Empty) => None,
        }
    }
}

impl FromStr for TopicFilter {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "." { Ok(Self::Empty) } else { text.parse().map(Self::Pattern) }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("(all)"),
            Self::Empty => f.write_str("."),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}
