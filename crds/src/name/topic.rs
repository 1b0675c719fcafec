//! Topics: what stands behind a channel's base subject, and the filters over them.
//!
//! For a channel with the base subject `tidings.shop.orders`, the subject `tidings.shop.orders.user.42` has the
//! topic `user.42`, and the base subject itself has the empty topic. For a channel with explicit subjects the
//! topic is the whole subject.

use serde::{Deserialize, Serialize};

use crate::name::subject::{Pattern, PatternError};

pub use crate::name::topic_filter::TopicFilter;
pub use crate::name::topic_set::{MAX_FILTERS, TooManyTopics, TopicSet};

/// How the topics of a channel and its NATS subjects correspond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub enum TopicSpace {
    /// Topics stand behind the base subject.
    Below {
        /// The subject of the empty topic.
        base: Pattern,
    },
    /// Topics are the whole subjects.
    Whole {
        /// The channel's subjects.
        subjects: Vec<Pattern>,
    },
}

// === impl TopicSpace ===

impl TopicSpace {
    /// The topic of a subject; `None` if the subject is none of the channel's.
    pub fn topic<'s>(&self, subject: &'s str) -> Option<&'s str> {
        match self {
            Self::Below { base } => match subject.strip_prefix(base.as_str())? {
                "" => Some(""),
                rest => rest.strip_prefix('.'),
            },
            Self::Whole { subjects } => subjects.iter().any(|pattern| pattern.matches(subject)).then_some(subject),
        }
    }

    /// The subject that a publication with this topic goes to; the empty topic is the base subject.
    ///
    /// # Errors
    /// When the topic is not literal or lies outside the channel.
    pub fn subject(&self, topic: &str) -> Result<Pattern, TopicError> {
        match self {
            Self::Below { base } if topic.is_empty() => Ok(base.clone()),
            Self::Below { base } => Ok(base.join(&Pattern::literal(topic)?)),
            Self::Whole { .. } if topic.is_empty() => Err(TopicError::Outside),
            Self::Whole { subjects } => {
                let subject = Pattern::literal(topic)?;
                if subjects.iter().any(|pattern| pattern.contains(&subject)) {
                    Ok(subject)
                } else {
                    Err(TopicError::Outside)
                }
            }
        }
    }

    /// The NATS patterns that together cover exactly the topics of this filter.
    pub fn patterns(&self, filter: &TopicFilter) -> Vec<Pattern> {
        match (self, filter) {
            (Self::Below { base }, TopicFilter::All) => vec![base.clone(), base.join(&Pattern::tail())],
            (Self::Below { base }, TopicFilter::Empty) => vec![base.clone()],
            (Self::Below { base }, TopicFilter::Pattern(pattern)) => vec![base.join(pattern)],
            (Self::Whole { subjects }, TopicFilter::All) => subjects.clone(),
            (Self::Whole { .. }, TopicFilter::Empty) => Vec::new(),
            (Self::Whole { subjects }, TopicFilter::Pattern(pattern)) => {
                subjects.iter().filter_map(|own| own.intersect(pattern)).collect()
            }
        }
    }
}

/// Why a publication's topic is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not tokens joined by dots, or with wildcards.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A well-formed topic that the channel does not have.
    #[error("the topic lies outside the channel's subjects")]
    Outside,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> TopicSpace {
        TopicSpace::Below { base: "tidings.shop.orders".parse().unwrap() }
    }

    #[test]
    fn a_topic_is_what_stands_behind_the_base_subject() {
        assert_eq!(base().topic("tidings.shop.orders"), Some(""));
        assert_eq!(base().topic("tidings.shop.orders.user.42"), Some("user.42"));
        assert_eq!(base().topic("tidings.shop.orders2.user"), None);
        assert_eq!(base().subject("user.42").unwrap().as_str(), "tidings.shop.orders.user.42");
        assert_eq!(base().subject("").unwrap().as_str(), "tidings.shop.orders");
        assert_eq!(base().subject("user.*"), Err(TopicError::Pattern(PatternError::Wildcard)));
    }

    #[test]
    fn with_explicit_subjects_the_topic_is_the_whole_subject() {
        let space = TopicSpace::Whole { subjects: vec!["orders.>".parse().unwrap(), "audit".parse().unwrap()] };
        assert_eq!(space.topic("orders.new"), Some("orders.new"));
        assert_eq!(space.topic("other"), None);
        assert_eq!(space.subject("other"), Err(TopicError::Outside));
        assert_eq!(space.patterns(&"*.new".parse().unwrap()), vec!["orders.new".parse().unwrap()]);
        assert_eq!(space.patterns(&TopicFilter::Empty), vec![]);
    }

    #[test]
    fn filters_become_patterns_below_the_base() {
        let written = |filter| base().patterns(&filter).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(written(TopicFilter::All), ["tidings.shop.orders", "tidings.shop.orders.>"]);
        assert_eq!(written(TopicFilter::Empty), ["tidings.shop.orders"]);
        assert_eq!(written("user.*".parse().unwrap()), ["tidings.shop.orders.user.*"]);
    }

    #[test]
    fn a_filter_has_a_pattern_however_long_it_is_with_the_base() {
        let long = format!("{}.b", "a".repeat(250));
        let deep = ["c"; 32].join(".");
        for topic in [long, deep] {
            let patterns = base().patterns(&topic.parse().unwrap());
            let subject = format!("tidings.shop.orders.{topic}");
            assert!(patterns.iter().any(|pattern| pattern.matches(&subject)), "{topic}");
            assert_eq!(base().topic(&subject), Some(&*topic));
        }
    }
}
