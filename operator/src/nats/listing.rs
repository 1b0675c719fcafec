//! A listing that JetStream gives page by page, put together. Pure: pages come in, the next offset goes out.
//!
//! Pages are cut by position from what is there at the moment, in the order of names. A stream that is deleted between two
//! pages moves all that follow it forward, and one of them falls between the pages. So each page begins some positions before
//! the last one ended: where it does not begin at a name that was seen, or before it, something may be hidden, and an
//! earlier page is asked for. What was there all the time is in the listing, whatever else comes and goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Streams that may go between two pages without one more question.
const OVERLAP: usize = 16;

/// Pages of one listing: more than a million streams in pages of 256. A listing that never ends is no listing.
const MOST_PAGES: usize = 4096;

/// What there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// What was listed: information about streams, or their names.
    pub items: Vec<Value>,
    /// The names of streams that exist, and of which no server said anything.
    pub silent: BTreeSet<String>,
}

/// A listing that is under way.
#[derive(Debug)]
pub struct Listing {
    overlap: usize,
    items: BTreeMap<String, Value>,
    silent: BTreeSet<String>,
    /// The last name so far.
    last: Option<String>,
    offset: usize,
    pages: usize,
}

/// What comes after a page.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// The page at this offset.
    Page(usize),
    /// Nothing: this is all.
    Done(Listed),
    /// No end can be seen.
    Endless,
}

// === impl Listing ===

impl Default for Listing {
    fn default() -> Self {
        Self::overlapping(OVERLAP)
    }
}

impl Listing {
    fn overlapping(overlap: usize) -> Self {
        Self { overlap, items: BTreeMap::new(), silent: BTreeSet::new(), last: None, offset: 0, pages: 0 }
    }

    /// Takes the page that was asked for; the first one has the offset 0.
    pub fn take(&mut self, page: &Value) -> Next {
        self.pages += 1;
        if self.pages > MOST_PAGES {
            return Next::Endless;
        }
        let list = |name: &str| page.get(name).and_then(Value::as_array).into_iter().flatten();
        let items = list("streams").filter_map(|item| Some((name(item)?.to_owned(), item.clone())));
        let items: BTreeMap<String, Value> = items.collect();
        let silent = list("missing").filter_map(Value::as_str).filter(|name| !items.contains_key(*name));
        let silent: BTreeSet<String> = silent.map(str::to_owned).collect();
        let names: BTreeSet<&String> = items.keys().chain(&silent).collect();
        let hidden = match (names.first(), &self.last) {
            (Some(first), Some(last)) => *first > last,
            // So many have gone that nothing is left at this place.
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if hidden && self.offset > 0 {
            self.offset /= 2;
            return Next::Page(self.offset);
        }
        let end = self.offset + names.len();
        let total = page.get("total").and_then(Value::as_u64).and_then(|total| usize::try_from(total).ok());
        let done = names.is_empty() || end >= total.unwrap_or_default();
        self.last = names.last().map(|name| (*name).clone()).max(self.last.take());
        self.silent.retain(|name| !items.contains_key(name));
        self.silent.extend(silent);
        self.items.extend(items);
        if done {
            self.silent.retain(|name| !self.items.contains_key(name));
            let items = std::mem::take(&mut self.items).into_values().collect();
            return Next::Done(Listed { items, silent: std::mem::take(&mut self.silent) });
        }
        self.offset = end.saturating_sub(self.overlap).max(self.offset + 1);
        Next::Page(self.offset)
    }
}

/// A stream's name: `STREAM.NAMES` gives nothing else, `STREAM.LIST` its information.
fn name(item: &Value) -> Option<&str> {
    item.as_str().or_else(|| item.pointer("/config/name")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// As nats-server cuts it.
    fn page(streams: &BTreeSet<String>, offset: usize, limit: usize, silent: &BTreeSet<String>) -> Value {
        let names: Vec<&String> = streams.iter().skip(offset).take(limit).collect();
        let items: Vec<_> = names.iter().filter(|name| !silent.contains(**name)).collect();
        let items: Vec<Value> = items.iter().map(|name| json!({ "config": { "name": name } })).collect();
        let missing: Vec<_> = names.iter().filter(|name| silent.contains(**name)).collect();
        json!({ "total": streams.len(), "offset": offset, "limit": limit, "streams": items, "missing": missing })
    }

    fn names(listed: &Listed) -> BTreeSet<String> {
        listed.items.iter().filter_map(name).map(str::to_owned).collect()
    }

    fn streams(count: u32) -> BTreeSet<String> {
        (0..count).map(|number| format!("S{number:03}")).collect()
    }

    #[test]
    fn a_stream_deleted_between_two_pages_hides_no_other() {
        let mut there = streams(8);
        let mut listing = Listing::overlapping(1);
        assert_eq!(listing.take(&page(&there, 0, 4, &BTreeSet::new())), Next::Page(3));
        // By position alone, S004 would be in neither page.
        there.remove("S000");
        assert_eq!(listing.take(&page(&there, 3, 4, &BTreeSet::new())), Next::Page(1), "S004 is not behind S003");
        let mut next = listing.take(&page(&there, 1, 4, &BTreeSet::new()));
        while let Next::Page(offset) = next {
            next = listing.take(&page(&there, offset, 4, &BTreeSet::new()));
        }
        let Next::Done(listed) = next else { panic!("{next:?}") };
        assert!(there.is_subset(&names(&listed)), "{listed:?}");
    }

    #[test]
    fn what_no_server_speaks_for_is_named() {
        let (there, silent) = (streams(5), ["S001".to_owned(), "S004".to_owned()].into());
        let mut listing = Listing::overlapping(1);
        let mut next = listing.take(&page(&there, 0, 3, &silent));
        while let Next::Page(offset) = next {
            next = listing.take(&page(&there, offset, 3, &silent));
        }
        let Next::Done(listed) = next else { panic!("{next:?}") };
        assert_eq!((names(&listed).len(), listed.silent), (3, silent));
    }

    #[test]
    fn names_alone_are_listed_too_and_nothing_is_a_whole_listing() {
        let page = json!({ "total": 2, "streams": ["A", "B"] });
        let listed = Listed { items: vec![json!("A"), json!("B")], silent: BTreeSet::new() };
        assert_eq!(Listing::default().take(&page), Next::Done(listed));
        assert_eq!(Listing::default().take(&json!({ "total": 0, "streams": null })), Next::Done(Listed::default()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_there_all_the_time_is_listed(
            count in 0..40_u32, limit in 3..7_usize, overlap in 1..3_usize,
            changes in prop::collection::vec(prop::collection::vec((any::<bool>(), 0..60_u32), 0..6), 0..20),
        ) {
            let mut there = streams(count);
            let mut always = there.clone();
            let (mut listing, mut offset, mut changes) = (Listing::overlapping(overlap), 0, changes.into_iter());
            let listed = loop {
                match listing.take(&page(&there, offset, limit, &BTreeSet::new())) {
                    Next::Page(next) => offset = next,
                    Next::Done(listed) => break listed,
                    Next::Endless => panic!("it ends"),
                }
                for (create, number) in changes.next().unwrap_or_default() {
                    let name = format!("S{number:03}");
                    if create { there.insert(name); } else { there.remove(&name); always.remove(&name); }
                }
            };
            prop_assert!(always.is_subset(&names(&listed)), "{:?}", always.difference(&names(&listed)));
        }
    }
}
