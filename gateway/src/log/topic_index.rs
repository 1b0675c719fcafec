//! Which feeds a topic concerns: patterns in a tree of tokens, so that a publication costs what it matches.

use std::collections::HashMap;

use tidings_crds::topic::{TopicFilter, TopicSet};

/// A feed's place in its channel.
pub type FeedId = usize;

/// The filters of a channel's feeds.
#[derive(Debug, Default)]
pub struct Index {
    all: Vec<FeedId>,
    empty: Vec<FeedId>,
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// Feeds whose pattern ends here.
    here: Vec<FeedId>,
    /// Feeds whose pattern ends here with `>`.
    below: Vec<FeedId>,
}

// === impl Index ===

impl Index {
    /// Adds a feed under each of its filters.
    pub fn insert(&mut self, topics: &TopicSet, feed: FeedId) {
        for filter in topics.filters() {
            match filter {
                TopicFilter::All => self.all.push(feed),
                TopicFilter::Empty => self.empty.push(feed),
                TopicFilter::Pattern(pattern) => self.root.insert(pattern.tokens(), feed),
            }
        }
    }

    /// Takes a feed out again.
    pub fn remove(&mut self, topics: &TopicSet, feed: FeedId) {
        for filter in topics.filters() {
            match filter {
                TopicFilter::All => self.all.retain(|id| *id != feed),
                TopicFilter::Empty => self.empty.retain(|id| *id != feed),
                TopicFilter::Pattern(pattern) => self.root.remove(pattern.tokens(), feed),
            }
        }
    }

    /// Collects the feeds that a topic concerns, each once, into `found`.
    pub fn find(&self, topic: &str, found: &mut Vec<FeedId>) {
        found.clear();
        found.extend_from_slice(&self.all);
        if topic.is_empty() {
            found.extend_from_slice(&self.empty);
        } else {
            self.root.find(topic, found);
        }
        // Only feeds with several filters, or filters along several branches, can be found twice.
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup();
        }
    }
}

// === impl Node ===

impl Node {
    fn insert<'t>(&mut self, mut tokens: impl Iterator<Item = &'t str>, feed: FeedId) {
        match tokens.next() {
            None => self.here.push(feed),
            Some(">") => self.below.push(feed),
            Some(token) => self.children.entry(token.into()).or_default().insert(tokens, feed),
        }
    }

    fn remove<'t>(&mut self, mut tokens: impl Iterator<Item = &'t str>, feed: FeedId) {
        match tokens.next() {
            None => self.here.retain(|id| *id != feed),
            Some(">") => self.below.retain(|id| *id != feed),
            Some(token) => {
                if let Some(child) = self.children.get_mut(token) {
                    child.remove(tokens, feed);
                    if child.is_empty() {
                        self.children.remove(token);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.below.is_empty()
    }

    /// Depth is bounded by the tokens of the patterns inserted, `subject::MAX_TOKENS`.
    fn find(&self, rest: &str, found: &mut Vec<FeedId>) {
        found.extend_from_slice(&self.below);
        let (token, rest) = match rest.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (rest, None),
        };
        // A publisher's subject may contain the tokens `*` and `>`; here they are literal and must not be found twice.
        let wildcard = if token == "*" { None } else { self.children.get("*") };
        for child in self.children.get(token).into_iter().chain(wildcard) {
            match rest {
                Some(rest) => child.find(rest, found),
                None => found.extend_from_slice(&child.here),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(filters: &[String]) -> TopicSet {
        TopicSet::new(filters.iter().map(|f| f.parse().unwrap())).unwrap()
    }

    #[test]
    fn a_topic_finds_each_feed_once() {
        let mut index = Index::default();
        index.insert(&TopicSet::all(), 0);
        index.insert(&set(&["user.*".into(), "*.42".into()]), 1);
        index.insert(&set(&["user.42".into()]), 2);
        index.insert(&set(&[".".into()]), 3);
        index.insert(&set(&["user.>".into()]), 4);
        let mut found = Vec::new();
        index.find("user.42", &mut found);
        assert_eq!(found, [0, 1, 2, 4]);
        index.find("", &mut found);
        assert_eq!(found, [0, 3]);
        index.find("user", &mut found);
        assert_eq!(found, [0]);
        index.remove(&set(&["user.42".into()]), 2);
        index.remove(&TopicSet::all(), 0);
        index.find("user.42", &mut found);
        assert_eq!(found, [1, 4]);
    }

    proptest! {
        #[test]
        fn the_index_finds_what_the_filters_match(
            feeds in prop::collection::vec(prop::collection::vec("(\\.|[ab*](\\.[ab*]){0,2}(\\.>)?|>)", 1..4), 1..8),
            topic in "([ab](\\.[ab]){0,3})?",
            gone in any::<prop::sample::Index>(),
        ) {
            let sets: Vec<_> = feeds.iter().map(|f| set(f)).collect();
            let mut index = Index::default();
            for (id, topics) in sets.iter().enumerate() {
                index.insert(topics, id);
            }
            let gone = gone.index(sets.len());
            index.remove(&sets[gone], gone);
            let mut found = Vec::new();
            index.find(&topic, &mut found);
            let expected: Vec<_> = (0..sets.len()).filter(|id| *id != gone && sets[*id].matches(&topic)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
