//! What a listing of all streams of the account says, and what is new in it. Pure: the listing and the time are passed in.
//!
//! One listing a resync is all that settled Channels cost: an external change or deletion of a stream
//! changes its mark here, and only then its Channel is visited.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tidings_crds::key::ChannelKey;
use tidings_crds::stream::StreamSpec;
use tidings_crds::subject::Pattern;

use crate::nats::listing::Listed;
use crate::reconcile::remove::says_delete;
use crate::reconcile::stream_config::{ObservedStream, is_empty};

/// A survey that failed is repeated after this, or after a resync if that is shorter.
const FAILED_PAUSE: Duration = Duration::from_secs(5);

/// All streams of the installation, by the Channel that each one names.
#[derive(Debug, Default)]
pub struct Survey {
    /// What each stores.
    pub held: BTreeMap<ChannelKey, Vec<Pattern>>,
    /// A mark of each one's configuration and incarnation: another one means that something has changed.
    pub marks: BTreeMap<ChannelKey, u64>,
    /// Those that say they go with their Channel, and are empty.
    pub sweepable: BTreeSet<ChannelKey>,
    /// The names of streams that exist, and of which no server said anything.
    pub silent: BTreeSet<String>,
}

/// What a survey says that the one before did not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Whose streams store something else than before.
    pub held: BTreeSet<ChannelKey>,
    /// Whose streams are not as they were: changed, new or missing.
    pub changed: BTreeSet<ChannelKey>,
    /// Those that say they go with their Channel, and are empty.
    pub sweepable: BTreeSet<ChannelKey>,
}

/// When to look, and what was seen.
#[derive(Debug)]
pub struct Surveys {
    every: Duration,
    due: Instant,
    busy: bool,
    done: bool,
    held: BTreeMap<ChannelKey, Vec<Pattern>>,
    marks: BTreeMap<ChannelKey, u64>,
}

// === impl Survey ===

impl Survey {
    /// From the information about every stream, as JetStream gives it. What is not understood, or not of this
    /// installation, is left out.
    pub fn of(listed: Listed, cluster: &str) -> Self {
        let mut survey = Self { silent: listed.silent, ..Self::default() };
        for info in listed.items {
            let empty = is_empty(&info);
            let Ok(stream) = ObservedStream::from_info(info) else { continue };
            let Some(key) = stream.spec.owner(cluster) else { continue };
            if empty && says_delete(&stream.spec) {
                survey.sweepable.insert(key.clone());
            }
            survey.marks.insert(key.clone(), stream.mark());
            survey.held.insert(key, StreamSpec::held(&stream.spec));
        }
        survey
    }
}

// === impl Surveys ===

impl Surveys {
    /// The first one is due at once, the others every so often.
    pub fn new(every: Duration, now: Instant) -> Self {
        Self { every, due: now, busy: false, done: false, held: BTreeMap::new(), marks: BTreeMap::new() }
    }

    /// Something may have happened meanwhile: the next one is due at once.
    pub fn hasten(&mut self, now: Instant) {
        self.due = now;
    }

    /// As [`hasten`](Self::hasten), and what was seen before counts for nothing until then.
    pub fn restart(&mut self, now: Instant) {
        (self.done, self.due) = (false, now);
    }

    /// Whether one is to be made now; the answer goes to [`take`](Self::take).
    pub fn begin(&mut self, now: Instant) -> bool {
        let begin = self.due <= now && !self.busy;
        self.busy |= begin;
        begin
    }

    /// When the next one is due, unless one is under way.
    pub fn next(&self) -> Option<Instant> {
        (!self.busy).then_some(self.due)
    }

    /// Whether one has ended well.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// One has ended; `None` if it failed.
    pub fn take(&mut self, survey: Option<Survey>, now: Instant) -> Differences {
        self.busy = false;
        let Some(Survey { mut held, mut marks, sweepable, silent }) = survey else {
            self.due = now + self.every.min(FAILED_PAUSE);
            return Differences::default();
        };
        (self.done, self.due) = (true, now + self.every);
        // A stream whose servers are away is what it was; it has not gone.
        let is_silent = |key: &&ChannelKey| silent.contains(&StreamSpec::name_of(key));
        for key in self.held.keys().filter(is_silent) {
            held.extend(self.held.get(key).map(|before| (key.clone(), before.clone())));
            marks.extend(self.marks.get(key).map(|before| (key.clone(), *before)));
        }
        let differences =
            Differences { held: different(&self.held, &held), changed: different(&self.marks, &marks), sweepable };
        (self.held, self.marks) = (held, marks);
        differences
    }

    /// What the stream of a Channel stores.
    pub fn held(&self, key: &ChannelKey) -> Vec<Pattern> {
        self.held.get(key).cloned().unwrap_or_default()
    }

    /// A visit left the stream of a Channel with these subjects; whether that is news.
    pub fn hold(&mut self, key: &ChannelKey, subjects: Vec<Pattern>) -> bool {
        let news = self.held.get(key) != Some(&subjects);
        if news {
            self.held.insert(key.clone(), subjects);
        }
        news
    }
}

fn different<T: PartialEq>(before: &BTreeMap<ChannelKey, T>, after: &BTreeMap<ChannelKey, T>) -> BTreeSet<ChannelKey> {
    let keys = before.keys().chain(after.keys());
    keys.filter(|key| before.get(key) != after.get(key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const EVERY: Duration = Duration::from_secs(30);

    fn key(name: &str) -> ChannelKey {
        ChannelKey::new("shop", name)
    }

    fn info(name: &str, policy: &str, messages: u64, subjects: &[&str]) -> Value {
        json!({
            "created": "2026-11-01T00:00:00.000000001Z",
            "state": {"messages": messages, "first_seq": 1, "last_seq": messages},
            "config": {
                "name": format!("TIDINGS_shop_{name}"), "subjects": subjects, "retention": "limits", "discard": "old",
                "storage": "file", "num_replicas": 1, "max_age": 0, "max_msgs": -1, "max_bytes": -1,
                "metadata": {
                    "tidings.dev/cluster": "here", "tidings.dev/namespace": "shop", "tidings.dev/name": name,
                    "tidings.dev/reclaim-policy": policy,
                },
            },
        })
    }

    fn listed(items: Vec<Value>) -> Listed {
        Listed { items, silent: BTreeSet::new() }
    }

    fn survey(infos: Vec<Value>) -> Option<Survey> {
        Some(Survey::of(listed(infos), "here"))
    }

    #[test]
    fn only_streams_of_this_installation_count_and_only_empty_ones_are_swept() {
        let mut foreign = info("b", "Delete", 0, &["b"]);
        foreign["config"]["metadata"]["tidings.dev/cluster"] = json!("there");
        let infos = vec![
            info("a", "Delete", 0, &["a"]),
            foreign,
            info("c", "Delete", 7, &["c"]),
            info("d", "Retain", 0, &["d"]),
            json!({"config": "garbage"}),
        ];
        let survey = Survey::of(listed(infos), "here");
        assert_eq!(survey.sweepable, [key("a")].into());
        assert_eq!(survey.held.into_keys().collect::<Vec<_>>(), [key("a"), key("c"), key("d")]);
    }

    #[test]
    fn what_is_changed_new_or_missing_is_told_once_and_messages_are_no_change() {
        let now = Instant::now();
        let mut surveys = Surveys::new(EVERY, now);
        let first = surveys.take(survey(vec![info("a", "Retain", 0, &["a"]), info("b", "Retain", 0, &["b"])]), now);
        assert_eq!(first.changed, [key("a"), key("b")].into());
        let mut changed = info("b", "Retain", 0, &["b"]);
        changed["config"]["max_msgs"] = json!(1);
        let second = surveys.take(survey(vec![info("a", "Retain", 9, &["a"]), changed.clone()]), now);
        assert_eq!((second.held.len(), second.changed), (0, [key("b")].into()));
        changed["created"] = json!("2026-11-02T00:00:00Z");
        let third = surveys.take(survey(vec![changed.clone()]), now);
        assert_eq!((third.held, third.changed), ([key("a")].into(), [key("a"), key("b")].into()));
        assert_eq!(surveys.take(survey(vec![changed]), now), Differences::default());
    }

    #[test]
    fn a_failed_survey_is_repeated_soon_and_changes_nothing() {
        let now = Instant::now();
        let mut surveys = Surveys::new(EVERY, now);
        assert!(surveys.begin(now) && !surveys.begin(now), "one at a time");
        assert_eq!(surveys.next(), None);
        surveys.take(survey(vec![info("a", "Retain", 0, &["a"])]), now);
        assert_eq!(surveys.next(), Some(now + EVERY));
        assert_eq!(surveys.take(None, now), Differences::default());
        assert_eq!(surveys.next(), Some(now + FAILED_PAUSE));
        assert!(surveys.is_done() && !surveys.held(&key("a")).is_empty());
        surveys.restart(now);
        assert!(!surveys.is_done() && surveys.begin(now));
    }

    #[test]
    fn a_stream_whose_servers_are_away_is_what_it_was() {
        let now = Instant::now();
        let mut surveys = Surveys::new(EVERY, now);
        surveys.take(survey(vec![info("a", "Retain", 0, &["a"]), info("b", "Retain", 0, &["b"])]), now);
        let away = Listed { items: vec![info("b", "Retain", 0, &["b"])], silent: ["TIDINGS_shop_a".to_owned()].into() };
        assert_eq!(surveys.take(Some(Survey::of(away, "here")), now), Differences::default());
        assert_eq!(surveys.held(&key("a")).len(), 1);
        let gone = surveys.take(survey(vec![info("b", "Retain", 0, &["b"])]), now);
        assert_eq!(gone.changed, [key("a")].into());
    }
}
