//! Sets of topic filters: their union and their intersection, with a bound on the work and on the result.
//!
//! Filters are sorted token by token, so a run of neighbours that share their first tokens is a node of a tree, and the tree costs no
//! memory. The union and the intersection walk that tree and count their steps: a request names its filters itself, and a token and a
//! channel may bring hundreds more, so nothing here may cost the product of the two.

use std::sync::{Arc, LazyLock};

use crate::name::subject::Pattern;
use crate::name::topic_filter::TopicFilter;

/// Several filters as one: a topic passes if any of them lets it pass. Sorted. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicSet(Arc<[TopicFilter]>);

/// An intersection has too many filters, or takes too long to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the topics asked for and those granted combine to more than {MAX_FILTERS} filters: ask for fewer topics, or for topics \
     with fewer wildcards"
)]
pub struct TooManyTopics;

/// The most filters that an intersection may have.
pub const MAX_FILTERS: usize = 512;

/// The most steps of one union or intersection. A step is a few comparisons of tokens, some 100 ns: one operation takes a millisecond
/// at most.
const MAX_STEPS: usize = 8_192;

/// The most intersections of two filters that are collected before those that others contain are left out.
const MAX_FOUND: usize = 4 * MAX_FILTERS;

/// Counts the steps of one operation.
#[derive(Debug, Default)]
struct Steps(usize);

/// Patterns as their tokens, sorted and each once.
struct Rows<'s>(Vec<Vec<&'s str>>);

/// The patterns that share their first `depth` tokens: a range of the rows.
#[derive(Clone, Copy)]
struct Node {
    from: usize,
    to: usize,
    depth: usize,
}

/// An intersection under way.
struct Walk<'s, 'w> {
    ours: &'w Rows<'s>,
    theirs: &'w Rows<'s>,
    /// The tokens of the nodes that the walk is at.
    path: Vec<&'s str>,
    both: Vec<TopicFilter>,
    steps: &'w mut Steps,
}

const ANY: &str = "*";
const TAIL: &str = ">";

// === impl TopicSet ===

impl TopicSet {
    /// Every topic.
    pub fn all() -> Self {
        static ALL: LazyLock<TopicSet> = LazyLock::new(|| TopicSet([TopicFilter::All].into()));
        ALL.clone()
    }

    /// The union of these filters; `None` of no filters at all. Filters that another one contains are left out, as far as they can be
    /// found within a bounded number of steps: some hundred filters would have to be built for that purpose to exceed it.
    pub fn new(filters: impl IntoIterator<Item = TopicFilter>) -> Option<Self> {
        Self::union(filters.into_iter().collect(), &mut Steps::default())
    }

    /// What is both asked for and granted.
    ///
    /// # Errors
    /// If that are more than [`MAX_FILTERS`] filters, or they are not found within a bounded number of steps.
    pub fn intersect(&self, other: &Self) -> Result<Option<Self>, TooManyTopics> {
        self.intersect_within(other, &mut Steps::default())
    }

    /// Whether any filter lets `topic` pass.
    pub fn matches(&self, topic: &str) -> bool {
        self.0.iter().any(|filter| filter.matches(topic))
    }

    /// Whether every topic passes.
    pub fn is_all(&self) -> bool {
        self.0.first() == Some(&TopicFilter::All)
    }

    /// The filters, sorted.
    pub fn filters(&self) -> &[TopicFilter] {
        &self.0
    }

    fn union(mut filters: Vec<TopicFilter>, steps: &mut Steps) -> Option<Self> {
        if filters.contains(&TopicFilter::All) {
            return Some(Self::all());
        }
        filters.sort_unstable();
        filters.dedup();
        let rows = Rows::of(&filters);
        let kept = if rows.have_wildcards() { rows.maximal(steps) } else { rows.patterns() };
        let empty = filters.contains(&TopicFilter::Empty).then_some(TopicFilter::Empty);
        let kept: Arc<[_]> = empty.into_iter().chain(kept).collect();
        (!kept.is_empty()).then_some(Self(kept))
    }

    fn intersect_within(&self, other: &Self, steps: &mut Steps) -> Result<Option<Self>, TooManyTopics> {
        // Most ask for everything, or may have everything.
        match (self.is_all(), other.is_all()) {
            (true, _) => return Ok(Some(other.clone())),
            (_, true) => return Ok(Some(self.clone())),
            (false, false) => {}
        }
        let (ours, theirs) = (Rows::of(&self.0), Rows::of(&other.0));
        let mut walk = Walk { ours: &ours, theirs: &theirs, path: Vec::new(), both: Vec::new(), steps };
        walk.at(ours.root(), theirs.root())?;
        let mut both = walk.both;
        if [self, other].iter().all(|set| set.0.contains(&TopicFilter::Empty)) {
            both.push(TopicFilter::Empty);
        }
        let Some(both) = Self::union(both, &mut Steps::default()) else { return Ok(None) };
        if both.0.len() > MAX_FILTERS {
            return Err(TooManyTopics);
        }
        // Subscribers are many: one that may have all it asks for keeps no second copy.
        Ok(Some([other, self].into_iter().find(|one| **one == both).cloned().unwrap_or(both)))
    }
}

// === impl Steps ===

impl Steps {
    fn take(&mut self) -> Result<(), TooManyTopics> {
        if self.0 >= MAX_STEPS {
            return Err(TooManyTopics);
        }
        self.0 += 1;
        Ok(())
    }
}

// === impl Rows ===

impl<'s> Rows<'s> {
    fn of(filters: &'s [TopicFilter]) -> Self {
        let patterns = filters.iter().filter_map(|filter| match filter {
            TopicFilter::Pattern(pattern) => Some(pattern.tokens().collect()),
            TopicFilter::All | TopicFilter::Empty => None,
        });
        let mut rows: Vec<Vec<&str>> = patterns.collect();
        if !rows.is_sorted() {
            rows.sort_unstable();
        }
        Self(rows)
    }

    fn root(&self) -> Node {
        Node { from: 0, to: self.0.len(), depth: 0 }
    }

    fn token(&self, row: usize, depth: usize) -> Option<&'s str> {
        self.0.get(row)?.get(depth).copied()
    }

    fn have_wildcards(&self) -> bool {
        self.0.iter().flatten().any(|token| *token == ANY || *token == TAIL)
    }

    /// The row that ends at the node: it is the first one.
    fn end(&self, node: Node) -> Option<usize> {
        (node.from < node.to && self.0.get(node.from)?.len() == node.depth).then_some(node.from)
    }

    /// The rows below a node that begin with this token.
    fn child(&self, node: Node, token: &str) -> Option<Node> {
        let rows = self.0.get(node.from..node.to)?;
        let before = |row: &Vec<&str>| row.get(node.depth).is_none_or(|at| *at < token);
        let from = node.from + rows.partition_point(before);
        if self.token(from, node.depth).filter(|_| from < node.to)? != token {
            return None;
        }
        self.run(node, from)
    }

    /// The rows of a node from this one on that have the same next token.
    fn run(&self, node: Node, from: usize) -> Option<Node> {
        let rows = self.0.get(from..node.to)?;
        let token = rows.first()?.get(node.depth)?;
        let same = rows.partition_point(|row| row.get(node.depth) == Some(token));
        Some(Node { from, to: from + same, depth: node.depth + 1 })
    }

    /// The nodes right below a node, each with its token.
    fn children(&self, node: Node) -> impl Iterator<Item = (&'s str, Node)> {
        let mut from = node.from + usize::from(self.end(node).is_some());
        std::iter::from_fn(move || {
            let child = self.run(node, from).filter(|_| from < node.to)?;
            let token = self.token(from, node.depth)?;
            from = child.to;
            Some((token, child))
        })
    }

    /// Those that no other one contains; once the steps are used up, all that are left.
    fn maximal(&self, steps: &mut Steps) -> Vec<TopicFilter> {
        let contained = |row: usize, steps: &mut Steps| self.covers(self.root(), row, steps).unwrap_or(false);
        let kept = self.0.iter().enumerate().filter(|(row, _)| !contained(*row, steps));
        kept.map(|(_, tokens)| filter(tokens)).collect()
    }

    /// Whether a pattern below this node, whose tokens so far contain those of `row`, contains `row` and is another one.
    fn covers(&self, node: Node, row: usize, steps: &mut Steps) -> Result<bool, TooManyTopics> {
        steps.take()?;
        let Some(token) = self.token(row, node.depth) else {
            return Ok(self.end(node).is_some_and(|end| end != row));
        };
        if self.child(node, TAIL).is_some_and(|tail| tail.from != row) {
            return Ok(true);
        }
        let literal = if token == ANY || token == TAIL { None } else { self.child(node, token) };
        let any = if token == TAIL { None } else { self.child(node, ANY) };
        for child in literal.into_iter().chain(any) {
            if self.covers(child, row, steps)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn patterns(&self) -> Vec<TopicFilter> {
        self.0.iter().map(|tokens| filter(tokens)).collect()
    }
}

// === impl Walk ===

impl<'s> Walk<'s, '_> {
    /// What is below both nodes. Depth is bounded by [`crate::name::subject::MAX_TOKENS`].
    fn at(&mut self, ours: Node, theirs: Node) -> Result<(), TooManyTopics> {
        self.steps.take()?;
        if !self.path.is_empty() && self.ours.end(ours).is_some() && self.theirs.end(theirs).is_some() {
            self.found(filter(&self.path))?;
        }
        if self.ours.child(ours, TAIL).is_some() {
            self.below(self.theirs, theirs)?;
        }
        if self.theirs.child(theirs, TAIL).is_some() {
            self.below(self.ours, ours)?;
        }
        let (our_any, their_any) = (self.ours.child(ours, ANY), self.theirs.child(theirs, ANY));
        if let Some(any) = our_any {
            for (token, child) in self.theirs.children(theirs).filter(|(token, _)| *token != TAIL) {
                self.step(token, any, child)?;
            }
        }
        if let Some(any) = their_any {
            for (token, child) in self.ours.children(ours).filter(|(token, _)| *token != TAIL && *token != ANY) {
                self.step(token, child, any)?;
            }
        }
        self.literals(ours, theirs)
    }

    /// The literal tokens that both nodes have below them, found from the side with fewer.
    fn literals(&mut self, ours: Node, theirs: Node) -> Result<(), TooManyTopics> {
        let is_literal = |token: &str| token != TAIL && token != ANY;
        if ours.to - ours.from <= theirs.to - theirs.from {
            for (token, child) in self.ours.children(ours).filter(|(token, _)| is_literal(token)) {
                self.steps.take()?;
                if let Some(other) = self.theirs.child(theirs, token) {
                    self.step(token, child, other)?;
                }
            }
        } else {
            for (token, child) in self.theirs.children(theirs).filter(|(token, _)| is_literal(token)) {
                self.steps.take()?;
                if let Some(other) = self.ours.child(ours, token) {
                    self.step(token, other, child)?;
                }
            }
        }
        Ok(())
    }

    fn found(&mut self, filter: TopicFilter) -> Result<(), TooManyTopics> {
        if self.both.len() >= MAX_FOUND {
            return Err(TooManyTopics);
        }
        self.both.push(filter);
        Ok(())
    }

    fn step(&mut self, token: &'s str, ours: Node, theirs: Node) -> Result<(), TooManyTopics> {
        self.path.push(token);
        let result = self.at(ours, theirs);
        self.path.pop();
        result
    }

    /// Everything below a node, where the other side lets everything pass.
    fn below(&mut self, rows: &Rows<'s>, node: Node) -> Result<(), TooManyTopics> {
        for row in rows.0.get(node.from..node.to).unwrap_or_default() {
            self.steps.take()?;
            if let Some(rest) = row.get(node.depth..).filter(|rest| !rest.is_empty()) {
                let tokens: Vec<&str> = self.path.iter().chain(rest).copied().collect();
                self.found(filter(&tokens))?;
            }
        }
        Ok(())
    }
}

fn filter(tokens: &[&str]) -> TopicFilter {
    TopicFilter::Pattern(Pattern::of_tokens(tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(filters: &[&str]) -> TopicSet {
        TopicSet::new(filters.iter().map(|f| f.parse().unwrap())).unwrap()
    }

    fn filters(number: usize, filter: impl Fn(usize) -> String) -> Vec<TopicFilter> {
        (0..number).map(|n| filter(n).parse().unwrap()).collect()
    }

    /// The filters of a union, and the steps that it took.
    fn union(filters: Vec<TopicFilter>) -> (usize, usize) {
        let mut steps = Steps::default();
        let set = TopicSet::union(filters, &mut steps);
        (set.map_or(0, |set| set.filters().len()), steps.0)
    }

    /// The filters of an intersection if there are not too many, and the steps that it took.
    fn both(ours: Vec<TopicFilter>, theirs: Vec<TopicFilter>) -> (Option<usize>, usize) {
        let mut steps = Steps::default();
        let (ours, theirs) = (TopicSet::new(ours).unwrap(), TopicSet::new(theirs).unwrap());
        let both = ours.intersect_within(&theirs, &mut steps);
        (both.ok().map(|both| both.map_or(0, |both| both.filters().len())), steps.0)
    }

    #[test]
    fn the_empty_topic_passes_no_pattern() {
        assert!(!set(&[">"]).matches(""));
        assert!(set(&["."]).matches("") && TopicSet::all().matches(""));
    }

    #[test]
    fn a_set_drops_what_another_filter_contains() {
        assert_eq!(set(&["a.b", "a.>", "a.*", "."]), set(&[".", "a.>"]));
        assert_eq!(set(&["*.b", "a.b", "a.*.c", "a.>", "*.>"]), set(&["*.>"]));
        assert_eq!(set(&["a-b", "a.b", "a"]).filters().len(), 3);
        assert_eq!(set(&["a.>", "b"]).intersect(&set(&["*.x", "c"])), Ok(Some(set(&["a.x"]))));
        assert_eq!(set(&["a"]).intersect(&set(&["b"])), Ok(None));
        assert_eq!(set(&[".", "a"]).intersect(&set(&[".", "b"])), Ok(Some(set(&["."]))));
        assert_eq!(TopicSet::all().intersect(&set(&["b"])), Ok(Some(set(&["b"]))));
        assert_eq!(TopicSet::new([]), None);
    }

    #[test]
    fn twice_the_filters_take_twice_the_steps() {
        type Family = fn(usize) -> String;
        let families: [(Family, Family); 6] = [
            (|n| format!("user.{n}"), |n| format!("user.{n}")),
            (|n| format!("user.{n}"), |n| format!("team.{n}.>")),
            (|n| format!("a.b.c.d.e.f.{n}"), |n| format!("a.b.c.d.e.f.{}", n + 7)),
            (|n| format!("team.{n}.*"), |n| format!("team.{n}.>")),
            (|n| format!("*.{n}.new"), |n| format!("shop.{n}.>")),
            (|n| format!("{n}.*"), |_| "*.>".to_owned()),
        ];
        for (ours, theirs) in families {
            let steps = |number| both(filters(number, ours), filters(number, theirs)).1;
            let (few, many) = (steps(128), steps(256));
            assert!(many <= few * 5 / 2 && many < MAX_STEPS, "{} {}: {few} {many}", ours(1), theirs(1));
            let steps = |number| union([filters(number, ours), filters(number, theirs)].concat()).1;
            let (few, many) = (steps(128), steps(256));
            assert!(many <= few * 5 / 2 && many < MAX_STEPS, "{} {}: {few} {many}", ours(1), theirs(1));
        }
    }

    /// What a request, a token and a channel can bring at the worst.
    #[test]
    fn no_union_and_no_intersection_takes_more_steps_than_the_bound() {
        let (asked, granted) = (|n| format!("*.*.x{n}"), |n: usize| format!("team.g{n}.>"));
        assert_eq!(both(filters(64, asked), filters(8, granted)).0, Some(512));
        for groups in [9, 128, 256, 512] {
            assert_eq!(both(filters(64, asked), filters(groups, granted)).0, None, "{groups}");
        }
        // Every one of a thousand combinations of a literal and a wildcard in ten places.
        let mixed = |n: usize, last: &str| {
            let bits = (0..10).map(|bit| if n >> bit & 1 == 0 { "a." } else { "*." });
            bits.collect::<String>() + last
        };
        let hard = |last: &'static str| move |n: usize| mixed(n, &format!("{last}{n}"));
        assert_eq!(both(filters(64, hard("x")), filters(512, hard("y"))), (None, MAX_STEPS));
        let (kept, steps) = union(filters(1_024, hard("x")));
        assert_eq!((kept, steps), (1_024, MAX_STEPS), "what is not looked at stays: the union is the same");
        let deep = |n: usize| format!("{}{n}", "a.".repeat(31));
        assert!(union(filters(512, deep)).1 <= MAX_STEPS);
    }

    fn pattern() -> impl Strategy<Value = TopicFilter> {
        (prop::collection::vec("[ab*-]", 0..5), any::<bool>()).prop_map(|(mut tokens, tail)| {
            if tail {
                tokens.push(TAIL.to_owned());
            }
            if tokens.is_empty() { TopicFilter::Empty } else { tokens.join(".").parse().unwrap() }
        })
    }

    fn patterns() -> impl Strategy<Value = Vec<TopicFilter>> {
        prop::collection::vec(pattern(), 1..8)
    }

    proptest! {
        #[test]
        fn a_union_is_what_its_filters_are_and_has_none_too_many(filters in patterns(), topic in "[ab-](\\.[ab-]){0,5}|") {
            let set = TopicSet::new(filters.clone()).unwrap();
            prop_assert_eq!(set.matches(&topic), filters.iter().any(|filter| filter.matches(&topic)));
            for (at, one) in set.filters().iter().enumerate() {
                let others = set.filters().iter().enumerate().filter(|(other, _)| *other != at);
                prop_assert!(others.into_iter().all(|(_, other)| other.intersect(one).as_ref() != Some(one)), "{}", one);
            }
        }

        #[test]
        fn an_intersection_is_the_union_of_all_pairwise_ones(ours in patterns(), theirs in patterns()) {
            let pairs = ours.iter().flat_map(|a| theirs.iter().filter_map(|b| a.intersect(b)));
            let expected = TopicSet::new(pairs.collect::<Vec<_>>());
            let (ours, theirs) = (TopicSet::new(ours).unwrap(), TopicSet::new(theirs).unwrap());
            prop_assert_eq!(ours.intersect(&theirs).unwrap(), expected.clone());
            prop_assert_eq!(theirs.intersect(&ours).unwrap(), expected);
        }
    }
}
