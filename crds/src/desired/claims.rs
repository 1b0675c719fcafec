//! Which Channels want the same subjects, and who gets them.
//!
//! NATS stores a subject in one stream only. The order is: the Channel whose stream stores the subject already, then the
//! older Channel, then the first by namespace and name. It does not depend on the order in which Channels are seen.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use crate::name::key::ChannelKey;
use crate::name::label::BASE_PREFIX;
use crate::name::subject::Pattern;

/// What one Channel wants, and what its stream stores at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// When the Channel was created, in seconds since 1970; absent for a Channel from a file, which then counts as new.
    pub created: Option<i64>,
    /// The subjects it wants, each allowed by [`crate::desired::grants`].
    pub subjects: Vec<Pattern>,
    /// The subjects that its own stream stores at present; also those of a stream kept from a deleted Channel.
    pub held: Vec<Pattern>,
}

/// All claims of an installation.
///
/// Subjects below `tidings.` are left out: grants see to it that they have one possible claimant. So the cost grows with
/// the Channels that have subjects of other kinds.
#[derive(Clone, Debug, Default)]
pub struct Claims(BTreeMap<ChannelKey, Claim>);

/// Why a Channel does not get what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The Channel that gets it.
    pub with: ChannelKey,
    /// What both want.
    pub subject: Pattern,
    /// Why the other gets it.
    pub precedence: Precedence,
}

/// Why one of two Channels gets a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// Its stream stores the subject already.
    Holds,
    /// It is older.
    Older,
    /// As old, and first by namespace and name.
    Name,
}

// === impl Claims ===

impl Claims {
    /// Puts in the claim of a Channel, or replaces it. Whether anything changed.
    pub fn set(&mut self, key: ChannelKey, mut claim: Claim) -> bool {
        let contested = |pattern: &Pattern| first(pattern) != BASE_PREFIX;
        claim.subjects.retain(contested);
        claim.held.retain(contested);
        if claim.subjects.is_empty() && claim.held.is_empty() {
            return self.remove(&key);
        }
        if self.0.get(&key) == Some(&claim) {
            return false;
        }
        self.0.insert(key, claim);
        true
    }

    /// Takes the claim of a Channel out. Whether there was one.
    pub fn remove(&mut self, key: &ChannelKey) -> bool {
        self.0.remove(key).is_some()
    }

    /// Every Channel that does not get what it wants, and why.
    pub fn conflicts(&self) -> BTreeMap<ChannelKey, Conflict> {
        let mut held = Index::default();
        for (key, claim) in &self.0 {
            held.add(key, &claim.held);
        }
        let mut ranked: Vec<_> = self.0.iter().collect();
        ranked.sort_by_key(|(key, claim)| (rank(claim), *key));
        let mut given = Index::default();
        let mut conflicts = BTreeMap::new();
        for (key, claim) in ranked {
            match Self::conflict(key, claim, &held, &given, &self.0) {
                Some(conflict) => drop(conflicts.insert(key.clone(), conflict)),
                None => given.add(key, &claim.subjects),
            }
        }
        conflicts
    }

    fn conflict(
        key: &ChannelKey,
        claim: &Claim,
        held: &Index<'_>,
        given: &Index<'_>,
        claims: &BTreeMap<ChannelKey, Claim>,
    ) -> Option<Conflict> {
        claim.subjects.iter().find_map(|wanted| {
            let own = |both: &Pattern| claim.held.iter().any(|ours| ours.contains(both));
            if let Some((with, subject)) = held.overlapping(wanted).find(|(with, both)| *with != key && !own(both)) {
                return Some(Conflict { with: with.clone(), subject, precedence: Precedence::Holds });
            }
            let (with, subject) = given.overlapping(wanted).next()?;
            let as_old = claims.get(with).is_some_and(|other| rank(other) == rank(claim));
            let precedence = if as_old { Precedence::Name } else { Precedence::Older };
            Some(Conflict { with: with.clone(), subject, precedence })
        })
    }
}

/// Older first; those without a date last.
fn rank(claim: &Claim) -> (Reverse<bool>, Option<i64>) {
    (Reverse(claim.created.is_some()), claim.created)
}

fn first(pattern: &Pattern) -> &str {
    pattern.tokens().next().unwrap_or_default()
}

// === impl Conflict ===

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { with, subject, precedence } = self;
        match precedence {
            Precedence::Holds => write!(f, "{subject} is stored by the stream of the Channel {with}"),
            Precedence::Older => write!(f, "{subject} belongs to the Channel {with}, which is older"),
            Precedence::Name => write!(f, "{subject} belongs to the Channel {with}, which is as old and first by name"),
        }
    }
}

/// Patterns by their first token, which grants keep free of wildcards.
#[derive(Default)]
struct Index<'c>(BTreeMap<&'c str, Vec<(&'c ChannelKey, &'c Pattern)>>);

impl<'c> Index<'c> {
    fn add(&mut self, key: &'c ChannelKey, patterns: &'c [Pattern]) {
        for pattern in patterns {
            self.0.entry(first(pattern)).or_default().push((key, pattern));
        }
    }

    fn overlapping(&self, wanted: &Pattern) -> impl Iterator<Item = (&'c ChannelKey, Pattern)> {
        let candidates = self.0.get(first(wanted)).into_iter().flatten();
        candidates.filter_map(|(key, pattern)| Some((*key, pattern.intersect(wanted)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(list: &[&str]) -> Vec<Pattern> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Name, age, wanted, held.
    type Row<'r> = (&'r str, Option<i64>, &'r [&'r str], &'r [&'r str]);

    fn conflicts(rows: &[Row<'_>]) -> Vec<(String, String)> {
        let mut claims = Claims::default();
        for (name, created, subjects, held) in rows {
            let claim = Claim { created: *created, subjects: patterns(subjects), held: patterns(held) };
            claims.set(ChannelKey::new("shop", *name), claim);
        }
        claims.conflicts().into_iter().map(|(key, conflict)| (key.name, conflict.to_string())).collect()
    }

    fn lost(name: &str, why: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), why.to_owned())]
    }

    #[test]
    fn the_older_channel_gets_the_subject() {
        let rows: [Row<'_>; 2] = [("a", Some(2), &["orders.*"], &[]), ("b", Some(1), &["orders.new"], &[])];
        assert_eq!(conflicts(&rows), lost("a", "orders.new belongs to the Channel shop/b, which is older"));
    }

    #[test]
    fn of_equally_old_channels_the_first_by_name_gets_it() {
        for created in [Some(1), None] {
            let rows: [Row<'_>; 2] = [("b", created, &["x"], &[]), ("a", created, &["x"], &[])];
            assert_eq!(
                conflicts(&rows),
                lost("b", "x belongs to the Channel shop/a, which is as old and first by name")
            );
        }
    }

    #[test]
    fn a_channel_from_a_file_counts_as_new() {
        let rows: [Row<'_>; 2] = [("a", None, &["x"], &[]), ("b", Some(9), &["x"], &[])];
        assert_eq!(conflicts(&rows), lost("a", "x belongs to the Channel shop/b, which is older"));
    }

    #[test]
    fn whoever_stores_the_subject_keeps_it() {
        let rows: [Row<'_>; 2] = [("young", Some(9), &["x.>"], &["x.>"]), ("old", Some(1), &["x.y"], &[])];
        assert_eq!(conflicts(&rows), lost("old", "x.y is stored by the stream of the Channel shop/young"));
    }

    #[test]
    fn a_retained_stream_without_a_channel_holds_its_subjects() {
        let rows: [Row<'_>; 2] = [("gone", None, &[], &["x.>"]), ("new", Some(1), &["x.y"], &[])];
        assert_eq!(conflicts(&rows), lost("new", "x.y is stored by the stream of the Channel shop/gone"));
    }

    #[test]
    fn holding_one_subject_gives_no_right_to_another() {
        let rows: [Row<'_>; 2] = [("young", Some(9), &["x", "y"], &["x"]), ("old", Some(1), &["y"], &[])];
        assert_eq!(conflicts(&rows), lost("young", "y belongs to the Channel shop/old, which is older"));
    }

    #[test]
    fn a_refused_channel_stands_in_nobodys_way() {
        let rows: [Row<'_>; 3] =
            [("a", Some(1), &["x"], &[]), ("b", Some(2), &["x", "y"], &[]), ("c", Some(3), &["y"], &[])];
        assert_eq!(conflicts(&rows), lost("b", "x belongs to the Channel shop/a, which is older"));
    }

    #[test]
    fn a_channels_own_subjects_are_no_claims() {
        let mut claims = Claims::default();
        let own = Claim { subjects: patterns(&["tidings.shop.a", "tidings.shop.a.>"]), ..Claim::default() };
        assert!(!claims.set(ChannelKey::new("shop", "a"), own));
        let other = Claim { subjects: patterns(&["x"]), ..Claim::default() };
        assert!(claims.set(ChannelKey::new("shop", "b"), other.clone()));
        assert!(!claims.set(ChannelKey::new("shop", "b"), other));
        assert!(claims.remove(&ChannelKey::new("shop", "b")));
    }

    fn claim() -> impl Strategy<Value = Claim> {
        let pattern = || prop::sample::select(vec!["x", "x.y", "x.*", "x.>", "y", "y.>"]);
        let list = || prop::collection::vec(pattern(), 0..3);
        (prop::option::of(0..3_i64), list(), list()).prop_map(|(created, subjects, held)| Claim {
            created,
            subjects: patterns(&subjects),
            held: patterns(&held),
        })
    }

    proptest! {
        #[test]
        fn those_who_are_not_refused_never_overlap(list in prop::collection::vec(claim(), 1..6)) {
            let mut claims = Claims::default();
            for (at, claim) in list.iter().enumerate() {
                claims.set(ChannelKey::new("n", format!("c{at}")), claim.clone());
            }
            let conflicts = claims.conflicts();
            let given: Vec<_> = claims.0.iter().filter(|(key, _)| !conflicts.contains_key(key)).collect();
            for (key, claim) in &given {
                for (other, theirs) in &given {
                    if key != other {
                        let overlap = |a: &Pattern| theirs.subjects.iter().any(|b| a.overlaps(b));
                        prop_assert!(!claim.subjects.iter().any(overlap), "{key} {other}");
                    }
                }
            }
            for (key, conflict) in &conflicts {
                prop_assert!(key != &conflict.with);
                prop_assert!(claims.0.contains_key(&conflict.with));
            }
        }
    }
}
